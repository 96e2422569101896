"""Commands with somebody else's backbone: what fits is hinted, what cannot work is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_clip
from synthetic import write_frames
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.workspace import Workspace

FOREIGN, UNSAVED = "foreign_backbone:Backbone", "foreign_backbone:Unsaved"


def tvr(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    write_frames(tmp_path / "out", videos=12)
    return tmp_path / "out"


def test_a_backbone_without_tokens_is_hinted_a_method_that_needs_none(workspace: Path, tmp_path: Path) -> None:
    folder = tiny_clip.folder(tmp_path / "coca", tiny_clip.config(embed_cls=True, context=16, patch=8, size=16))
    done = tvr("precompute-features", "--backbone", f"local:{folder}", "-o", workspace)
    assert done.exit_code == 0, done.stderr
    assert f"next: tvr train --method eaglenet -o {workspace}" in done.stdout
    with_tokens = tvr("precompute-features", "--backbone", FOREIGN, "-o", workspace)
    assert f"next: tvr train --method glccl -o {workspace}" in with_tokens.stdout


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_method_that_needs_what_a_backbone_lacks_is_refused_before_any_work(
    workspace: Path, tmp_path: Path, dry: list[str]
) -> None:
    folder = tiny_clip.folder(tmp_path / "coca", tiny_clip.config(embed_cls=True, size=16))
    done = tvr("train", "--method", "glccl", "--backbone", f"local:{folder}", "-o", workspace, *dry)
    assert done.exit_code == 3 and "glccl needs tokens; the backbone local:" in done.stderr
    assert "or a method that needs no more: eaglenet, gare, mean, text_guided" in done.stderr
    assert not (workspace / "features").exists()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize("computed", [False, True])
def test_tuning_a_backbone_that_cannot_be_saved_is_refused_before_training(
    workspace: Path, dry: list[str], computed: bool
) -> None:
    if computed:
        assert tvr("precompute-features", "--backbone", UNSAVED, "-o", workspace).exit_code == 0
    done = tvr("train", "--method", "glccl", "--tune", "full", "--backbone", UNSAVED, "-o", workspace, *dry)
    assert done.exit_code == 2 and "bug" not in done.stderr
    assert f"{UNSAVED!r} cannot be saved: foreign_backbone.Unsaved has no `save`" in done.stderr
    assert not (workspace / "runs").exists() and (workspace / "features").exists() == computed


def test_a_foreign_backbone_is_tuned_saved_and_searched(workspace: Path) -> None:
    asked = ("train", "--method", "tests.synthetic", "--tune", "full", "--backbone", FOREIGN, "-o", workspace)
    groups = json.loads(tvr(*asked, "--dry-run", "--json").stdout)["groups"]
    assert {"clip.see.weight", "clip.read.weight"} <= {name for group in groups for name in group["names"]}
    trained = tvr(
        *asked, "--run", "own", "--epochs", "2", "--batch-size", "4", "--set", "train.backbone_lr=1e-2",
        "--workers", "0", "--threads", "1",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.stderr
    folder = workspace / "runs" / "own" / "backbone"
    assert sorted(p.name for p in folder.iterdir()) == ["settings.json", "tvr_backbone.json", "weights.safetensors"]
    store = Workspace(workspace).newest_features()
    assert store is not None and store.backbone_name == f"local:{folder.resolve()}"
    assert store.identity["backbone"]["name"] == "foreign_backbone.Backbone" and "torch" in store.provenance
    first = Workspace(workspace).newest_features(FOREIGN)
    assert first is not None and not (first.video().frames - store.video().frames).abs().max() < 1e-3
    assert tvr("evaluate", "own", "--method", "tests.synthetic", "--split", "val", "-o", workspace).exit_code == 0
    found = tvr("query", "a red square", "--method", "mean", "-o", workspace, "--json")
    assert found.exit_code == 0 and json.loads(found.stdout)["results"][0]["hits"]
