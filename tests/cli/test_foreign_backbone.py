"""Commands with somebody else's backbone: what fits is hinted, what cannot work is refused before any work."""

from __future__ import annotations

import json
import sys
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
    assert f"next: tvr train --method clip4clip_seq -o {workspace}" in done.stdout
    with_tokens = tvr("precompute-features", "--backbone", FOREIGN, "-o", workspace)
    # Somebody else's backbone is named again, so that the line works as it is printed.
    assert f"next: tvr train --method glccl --backbone {FOREIGN} -o {workspace}" in with_tokens.stdout


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize("method", ["glccl", "dmae"])  # dmae has nothing to train either, but that is the second thing
def test_a_method_that_needs_what_a_backbone_lacks_is_refused_before_any_work(
    workspace: Path, tmp_path: Path, method: str, dry: list[str]
) -> None:
    folder = tiny_clip.folder(tmp_path / "coca", tiny_clip.config(embed_cls=True, size=16))
    done = tvr("train", "--method", method, "--backbone", f"local:{folder}", "-o", workspace, *dry)
    assert done.exit_code == 3 and f"{method} needs tokens; the backbone local:" in done.stderr
    no_more = "ts2net, clip4clip_seq, eaglenet, gare, mean, text_guided, tmass, xpool"
    assert f"or a method that needs no more: {no_more}" in done.stderr
    assert not (workspace / "features").exists()


def test_what_a_method_without_anything_to_train_is_proposed_names_backbone_and_workspace(workspace: Path) -> None:
    done = tvr("train", "--method", "dmae", "--backbone", FOREIGN, "-o", workspace)
    named = f"--backbone {FOREIGN} -o {workspace}"
    assert done.exit_code == 2 and f"tvr evaluate --method dmae {named}, or train" in done.stderr
    assert done.stderr.endswith(f"tvr train --method dmae-frozen {named}\n")


def test_without_captions_an_evaluation_says_how_to_give_some(tmp_path: Path) -> None:
    workspace = tmp_path / "silent"
    write_frames(workspace, videos=4, captions=False)
    assert tvr("precompute-features", "--backbone", FOREIGN, "-o", workspace).exit_code == 0
    done = tvr("evaluate", "--method", "mean", "-o", workspace)
    assert done.exit_code == 3 and "--split" not in done.stderr and "expected captions to judge by" in done.stderr
    (folder,) = (workspace / "features").iterdir()
    fix = f"--captions captions.jsonl --repair {folder.name} --backbone {FOREIGN} -o {workspace}\n"
    assert fix in done.stderr and done.stderr.endswith('"someone rides a wave"}\n')
    (tmp_path / "captions.jsonl").write_text('{"video": "v00.mp4", "caption": "a box", "split": "test"}\n')
    given = fix.replace("captions.jsonl", str(tmp_path / "captions.jsonl"), 1).split()
    added = tvr("precompute-features", *given)
    assert added.exit_code == 0, added.stderr
    # There is nothing to train on, so what comes next is an evaluation.
    assert added.stdout.endswith(f"next: tvr evaluate --method text_guided -o {workspace}\n")
    assert tvr("evaluate", "--method", "text_guided", "-o", workspace).exit_code == 0


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
    assert sorted(p.name for p in folder.iterdir()) == ["settings.json", "weights.safetensors"]
    store = Workspace(workspace).newest_features()
    assert store is not None and store.backbone_name == f"{FOREIGN}@{folder.resolve()}"
    assert store.identity["backbone"]["name"] == "foreign_backbone.Backbone" and "torch" in store.provenance
    first = Workspace(workspace).newest_features(FOREIGN)
    assert first is not None and not (first.video().frames - store.video().frames).abs().max() < 1e-3
    assert tvr("evaluate", "own", "--method", "tests.synthetic", "--split", "val", "-o", workspace).exit_code == 0
    assert next(Workspace(workspace).given_features()).backbone_name == FOREIGN  # the tuned one is for its run
    tuned = ("--backbone", store.backbone_name, "-o", workspace)
    found = tvr("query", "a red square", "--method", "mean", *tuned, "--json")
    assert found.exit_code == 0 and json.loads(found.stdout)["results"][0]["hits"]


MARK = "imported.txt"


@pytest.fixture
def given(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose features were made by a module that leaves a file behind when it is imported."""
    module = f"from foreign_backbone import Backbone\nopen({str(tmp_path / MARK)!r}, 'w').close()\n"
    (tmp_path / "given_away.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("given_away", None)
    assert tvr("precompute-features", "--backbone", "given_away.Backbone", "-o", workspace).exit_code == 0
    (tmp_path / MARK).unlink()
    del sys.modules["given_away"]
    return workspace


@pytest.mark.parametrize(
    "words",
    [
        ("query", "a red square"),
        ("train", "--method", "glccl"),
        ("train", "--method", "glccl", "--tune", "full"),
        ("train", "--method", "glccl", "--tune", "full", "--dry-run"),
        ("precompute-features",),
        ("precompute-features", "--repair", "FINGERPRINT"),
        ("train", "--method", "glccl", "--config", "CONFIG"),
    ],
    ids=" ".join,
)
def test_a_module_that_only_files_name_is_never_imported(given: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "run.yaml").write_text("backbone: {name: given_away.Backbone}\n")
    store = Workspace(given).newest_features()
    assert store is not None
    said = {"FINGERPRINT": store.fingerprint, "CONFIG": str(tmp_path / "run.yaml")}
    done = tvr(*(said.get(word, word) for word in words), "-o", given)
    assert done.exit_code == 3 and "a file alone never imports one" in done.stderr, done.stderr
    assert "--backbone given_away.Backbone" in done.stderr and not (tmp_path / MARK).exists()


def test_features_that_are_there_need_no_backbone(given: Path, tmp_path: Path) -> None:
    assert tvr("evaluate", "--method", "mean", "--split", "val", "-o", given).exit_code == 0
    assert tvr("info", "-o", given).exit_code in (0, 2) and not (tmp_path / MARK).exists()


def test_a_module_that_is_named_beside_the_file_is_imported(given: Path, tmp_path: Path) -> None:
    done = tvr("query", "a red square", "--backbone", "given_away.Backbone", "-o", given)
    assert done.exit_code == 0 and (tmp_path / MARK).exists()
