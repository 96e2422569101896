"""`tvr backbones`: the list, one backbone, the contract of one's own, and what is said of names that mean nothing."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tvr_cli.backbones import registry
from tvr_cli.cli import app
from tvr_cli.preset_loader import preset_names

FOREIGN, UNSAVED = "foreign_backbone:Backbone", "foreign_backbone:Unsaved"


def tvr(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_list_names_every_preset_without_weights_or_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*where: Any, **_: Any) -> None:
        raise AssertionError(f"the network was touched: {where}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    listed = json.loads(tvr("backbones", "--json").stdout)
    assert listed["schema"] == "tvr/backbones@1"
    assert [b["name"] for b in listed["backbones"]] == preset_names("backbones")
    tiny = next(b for b in listed["backbones"] if b["name"] == "demo-tiny")
    assert tiny == {
        "name": "demo-tiny", "library": "open_clip", "source": "shipped with tvr", "pixels": 64, "dim": 128,
        "context": 32, "provides": ["frames", "pooled", "tokens"], "here": True, "fit": "crop", "filter": "bicubic",
        "licence": "Apache-2.0", "non_commercial": False, "page": "docs/demo.md", "revision": None, "commit": None,
        "languages": ["en"], "frames": None,
    }  # fmt: skip
    shown = tvr("backbones").stdout
    assert all(name in shown for name in preset_names("backbones")) and "ViT-B-32-quickgelu/openai" in shown


def test_no_licence_that_forbids_commercial_use_is_silent() -> None:
    listed = {b["name"]: b for b in json.loads(tvr("backbones", "--json").stdout)["backbones"]}
    assert all(b["licence"] for b in listed.values())
    assert [name for name, b in listed.items() if b["non_commercial"]] == ["mobileclip2-s0"]
    assert (
        "licence of the weights: Apple AMLR (research only): not for commercial use"
        in tvr("backbones", "show", "mobileclip2-s0").stdout
    )
    for name in ("ViT-B-16/dfn2b", "ViT-H-14-worldwide-quickgelu/metaclip2_worldwide", "nllb-clip-base/v1"):
        assert registry.resolve(name).non_commercial, name


def test_one_says_how_it_sees_a_picture() -> None:
    shown = tvr("backbones", "show", "pe-core-b16").stdout
    assert "takes pictures squashed to a square, bilinear: 224 x 224 pixels, and 32 tokens" in shown


def test_published_numbers_come_with_their_protocol_and_source() -> None:
    (about,) = json.loads(tvr("backbones", "show", "pe-core-b16", "--json").stdout)["backbones"]
    (score,) = about["published"]
    assert (score["dataset"], score["r1"], score["frames"], score["gallery"]) == ("MSR-VTT", 47.6, 8, None)
    assert score["reproduced_by"] is None and score["source"].startswith("https://")
    shown = tvr("backbones", "show", "pe-core-b16").stdout
    assert "published, without any training (not measured by tvr)" in shown and "nobody known" in shown
    assert "to download: about 1.8 GB, by tvr backbones get pe-core-b16" in shown and "captions in: English" in shown
    assert "no published number" in tvr("backbones", "show", "demo-tiny").stdout


def test_measuring_says_how_long_a_frame_takes_and_needs_no_weights() -> None:
    (about,) = json.loads(tvr("backbones", "show", "pe-core-t16", "--measure", "--json").stdout)["backbones"]
    assert not about["here"]
    speed = about["speed"]
    assert speed["wall_s"] > 0 and speed["processor_s"] > 0 and speed["threads"] >= 1 and speed["frames"] == 4
    assert "s here by the clock" in tvr("backbones", "show", "demo-tiny", "--measure").stdout
    (plain,) = json.loads(tvr("backbones", "show", "demo-tiny", "--json").stdout)["backbones"]
    assert "speed" not in plain


def test_one_is_shown_with_its_cost_and_the_methods_it_serves() -> None:
    (about,) = json.loads(tvr("backbones", "show", "clip-vit-b32", "--json").stdout)["backbones"]
    assert about["parameters"] == 151_277_313 and about["flop_a_frame"] > 8e9 and about["tunable"]
    assert {"glccl", "mean"} <= set(about["methods"]) and "'ViT-B-32.pt' in" in about["expected_at"]
    (about,) = json.loads(tvr("backbones", "show", UNSAVED, "--json").stdout)["backbones"]
    assert about["library"] == "torch" and not about["tunable"] and about["here"]


def test_a_package_that_cannot_be_imported_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[tvr.backbones]\nbroken = a_package_that_is_gone:Backbone\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    listed = tvr("backbones")
    assert listed.exit_code == 0 and "demo-tiny" in listed.stdout
    assert "broken: cannot find the backbone 'broken': there is no module 'a_package_that_is_gone'" in listed.stdout


def test_a_contract_that_holds_exits_with_0_and_a_broken_one_with_5() -> None:
    done = tvr("backbones", "check", FOREIGN, "--json")
    payload = json.loads(done.stdout)
    assert done.exit_code == 0 and payload["passed"] and payload["kind"] == "backbone"
    broken = tvr("backbones", "check", "unit.test_backbone_contract:Noisy")
    assert broken.exit_code == 5 and "no  the same input gives the same features: expected the same" in broken.stdout
    assert "the backbone unit.test_backbone_contract:Noisy does not hold" in broken.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["shwo", "demo-tiny"],
            "expected nothing, show NAME, get NAME or check NAME, found 'shwo'; did you mean show?",
        ),
        (["show"], "name the backbone: tvr backbones show clip-vit-b32"),
        (["check"], "name the backbone: tvr backbones check clip-vit-b32"),
        (["show", "clip-vit-b23"], "did you mean clip-vit-b32?"),
        (["check", "json.JSONDecoder"], "derives from tvr_cli.backbones.base.Backbone, found the class JSON"),
        (["check", "nowhere.at_all"], "there is no module 'nowhere'"),
    ],
)
def test_bad_words_are_a_sentence(words: list[str], said: str) -> None:
    done = tvr("backbones", *words)
    assert done.exit_code == 2 and said in done.stderr


def test_versions_name_the_libraries_of_the_shipped_backbones() -> None:
    assert "open_clip_torch" in tvr("--version").stdout
