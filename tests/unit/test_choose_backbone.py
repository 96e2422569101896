"""Which backbone makes features where none is named: the better one if it is quick, else a person says, else B/32."""

from __future__ import annotations

import dataclasses
import io
import logging
from pathlib import Path
from typing import Any

import pytest
import tiny_frames

from tvr_cli import log
from tvr_cli.backbones import registry
from tvr_cli.engine.features import choose, precompute
from tvr_cli.engine.features.choose import choose_backbone
from tvr_cli.errors import EnvironmentProblem
from tvr_cli.plans import FramePlan, PrecomputeOptions
from tvr_cli.types import Caption, Manifest
from tvr_cli.workspace import Workspace

pytestmark = pytest.mark.usefixtures("warm_readers")

WHOLE = FramePlan(num_frames=4, size=224, fit="whole", short_side=224)
QUESTION = (
    "pe-core-b16 takes about 50 min of encoding frames here, and about 1.8 GB to download; clip-vit-b32 takes about a "
    "fourth of that time, and about 0.6 GB to download, and finds less. Which one?"
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with the frames of a folder of one's own: three of them, whole. No weights are here."""
    monkeypatch.delenv("TVR_BACKBONE", raising=False)
    weights_here(monkeypatch)
    tiny_frames.simple(tmp_path, {"a": 2, "b": 1}, plan=WHOLE)
    return Workspace(tmp_path)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_seconds", lambda *_: 3000.0)


class Terminal(io.StringIO):
    """Standard input of a person who types these lines."""

    def isatty(self) -> bool:
        return True


def sits_there(monkeypatch: pytest.MonkeyPatch, *lines: str) -> io.StringIO:
    """Put a person at the terminal; returns what is written to them."""
    shown = Terminal()
    monkeypatch.setattr(log.sys, "stdin", Terminal("".join(f"{line}\n" for line in lines)))
    monkeypatch.setattr(log.sys, "stderr", shown)
    monkeypatch.setitem(log._state, "person", True)
    return shown


def weights_here(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    resolve = registry.resolve

    def found(name: str) -> Any:
        weights = Path("/somewhere/weights") if name in names else None
        return dataclasses.replace(resolve(name), weights=weights)

    monkeypatch.setattr(choose.registry, "resolve", found)


def test_a_few_frames_of_ones_own_are_for_the_better_one_and_that_is_said(
    own: Workspace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_backbone(None, own, device="cpu", may_ask=True) == "pe-core-b16"
    (said,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("backbone:")]
    assert "s of encoding frames here, and about 1.8 GB to download); --backbone names another" in said
    weights_here(monkeypatch, "pe-core-b16")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        choose_backbone(None, own, device="cpu", captions=3)
    assert "s of encoding frames and captions here); --backbone names another" in caplog.text


def test_the_estimate_grows_with_the_frames_and_the_captions(own: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose.cost, "seconds", lambda flops, device, dtype: flops / 1e9)
    a_frame, a_caption = registry.skeleton(registry.resolve("pe-core-b16")).cost(32)
    assert choose._seconds(own, "cpu", 0) == pytest.approx(3 * a_frame / 1e9)
    assert choose._seconds(own, "cpu", 7) == pytest.approx((3 * a_frame + 7 * a_caption) / 1e9)


def test_the_estimate_is_of_all_frames_that_are_kept_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an hour at four frames a second windows show one in eight, and every one is encoded."""
    monkeypatch.setattr(choose.cost, "seconds", lambda flops, device, dtype: flops / 1e9)
    plan = FramePlan("timeline", fps=4.0, num_frames=2, size=224, fit="whole", short_side=224)
    new = tiny_frames.clip("a", 5, size=224)
    seen = dataclasses.replace(new.clip, record=dataclasses.replace(new.clip.record, n_frames=2), slots=(1, 3))
    tiny_frames.write(tmp_path, [dataclasses.replace(new, clip=seen)], plan=plan)
    a_frame, _ = registry.skeleton(registry.resolve("pe-core-b16")).cost(32)
    assert choose._seconds(Workspace(tmp_path), "cpu", 0) == pytest.approx(5 * a_frame / 1e9)


@pytest.mark.usefixtures("slow")
def test_what_takes_long_is_for_clip_where_nobody_can_answer(own: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_backbone(None, own, may_ask=True) == "clip-vit-b32"
    assert (
        "backbone: clip-vit-b32 (about 0.6 GB to download), because pe-core-b16 would take about 50 min of"
        in caplog.text
    )


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(
    ("lines", "taken"),
    [(["1"], "pe-core-b16"), ([""], "pe-core-b16"), (["2"], "clip-vit-b32"), (["what?", "clip"], "clip-vit-b32")],
)
def test_a_person_at_the_terminal_is_asked(
    own: Workspace, monkeypatch: pytest.MonkeyPatch, lines: list[str], taken: str
) -> None:
    shown = sits_there(monkeypatch, *lines)
    assert choose_backbone(None, own, may_ask=True) == taken
    assert shown.getvalue().count(QUESTION) == len(lines)


@pytest.mark.usefixtures("slow")
def test_a_person_who_says_nothing_and_a_dry_run_get_clip(own: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    sits_there(monkeypatch)
    assert choose_backbone(None, own, may_ask=True) == "clip-vit-b32"
    shown = sits_there(monkeypatch, "1")
    assert precompute.dry_run(own).backbone == "clip-vit-b32" and QUESTION not in shown.getvalue()


@pytest.mark.usefixtures("slow")
def test_a_program_that_watches_is_not_asked(own: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    sits_there(monkeypatch, "1")
    with log.watched(lambda what, done, total: None):
        assert choose_backbone(None, own, may_ask=True) == "clip-vit-b32"


def test_what_is_named_is_taken_without_an_estimate(own: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_seconds", None)
    assert choose_backbone("clip-vit-b16", own) == "clip-vit-b16"
    monkeypatch.setenv("TVR_BACKBONE", "siglip2-b16")
    assert choose_backbone(None, own) == "siglip2-b16"


@pytest.mark.parametrize(
    "plan", [FramePlan(num_frames=4, size=224), FramePlan(num_frames=4, size=96, fit="whole", short_side=96)]
)
def test_cropped_and_small_frames_keep_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: FramePlan) -> None:
    monkeypatch.setattr(choose, "_seconds", None)
    tiny_frames.simple(tmp_path, {"a": 1}, plan=plan)
    assert choose_backbone(None, Workspace(tmp_path)) == "clip-vit-b32"


def test_a_data_set_keeps_clip_whatever_its_frames(own: Workspace) -> None:
    data = Manifest("tiny", own.root, (), (Caption("1", "a", "x", "test"),))
    assert precompute.dry_run(own, None, data).backbone == "clip-vit-b32"


@pytest.mark.parametrize("asked", [{"shift": True}, {"words": 77}])
def test_what_the_better_one_cannot_do_keeps_clip(own: Workspace, asked: dict[str, Any]) -> None:
    assert choose_backbone(None, own, **asked) == "clip-vit-b32"
    assert choose_backbone(None, own, words=32) == "pe-core-b16"


def test_no_frames_and_no_features_mean_clip(tmp_path: Path) -> None:
    assert choose_backbone(None, Workspace(tmp_path)) == "clip-vit-b32"


@pytest.mark.parametrize("name", ["pe-core-b16", "clip-vit-b32"])
def test_offline_takes_what_is_here(own: Workspace, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    weights_here(monkeypatch, name)
    monkeypatch.setattr(choose, "_seconds", None)
    assert choose_backbone(None, own, offline=True) == name


@pytest.mark.usefixtures("slow")
def test_offline_with_both_here_is_decided_by_time(own: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    weights_here(monkeypatch, "pe-core-b16", "clip-vit-b32")
    assert choose_backbone(None, own, offline=True) == "clip-vit-b32"
    monkeypatch.setattr(choose, "_seconds", lambda *_: 1.0)
    assert choose_backbone(None, own, offline=True) == "pe-core-b16"


def test_offline_without_either_names_both(own: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    weights_here(monkeypatch)
    with pytest.raises(
        EnvironmentProblem, match=r"neither pe-core-b16 nor clip-vit-b32 is on this machine.*tvr backbones get pe-core"
    ):
        precompute.precompute(own, None, None, PrecomputeOptions(offline=True))
    assert not own.features_folder.exists()
