"""A backbone in a folder of one's own, named by a path that begins where one stands, by each command that takes one."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import write_backbone, write_frames
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.defaults import is_one_of
from tvr_cli.workspace import Workspace

TRAINING = ("--set", "train.epochs=1", "--set", "train.batch_size=4")


def tvr(*words: str) -> str:
    done = CliRunner().invoke(app, [*words])
    assert done.exit_code == 0, done.stderr
    return done.stderr


def test_a_relative_path_names_the_backbone_of_the_features_that_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_backbone(tmp_path / "clip")
    write_frames(tmp_path / "out", videos=12)
    tvr("train", "--method", "xpool", "--backbone", "local:clip", "--run", "a", *TRAINING)
    tvr("evaluate", "--method", "mean", "--backbone", "local:./clip", "--split", "train")
    tvr("index", "--backbone", "local:clip", "--method", "mean")
    tvr("query", "a red clip", "--backbone", "local:clip", "--method", "mean")
    assert len(list(Workspace.at(tmp_path / "out").all_features())) == 1  # they were made once
    monkeypatch.chdir(tmp_path / "clip")
    tvr("evaluate", "--method", "mean", "--backbone", "local:../clip", "--split", "train", "-o", "../out")


def test_names_with_paths_are_compared_by_where_these_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").write_bytes(b"")
    assert is_one_of("local:clip", (f"local:{tmp_path}/clip", None))
    assert is_one_of("local:clip", (f"hf:{tmp_path}/clip",))  # read by another library
    assert is_one_of("ViT-B-32@w.pt", ("demo-tiny", f"ViT-B-32@{tmp_path}/w.pt"))
    assert is_one_of("hf:org/name@main", ("hf:org/name@main",))
    assert not is_one_of("local:clip", ("local:/clip", "clip"))
    assert not is_one_of("ViT-B-16@w.pt", (f"ViT-B-32@{tmp_path}/w.pt",))
    assert not is_one_of("hf:org/name", (f"local:{tmp_path}/org/name",))
