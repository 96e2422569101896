"""The one room for facts about a workspace: which store, which run, newest, free, outdated, and how often it looks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from synthetic import SyntheticStore, write_frames
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.config import BackboneConfig, Experiment
from tvr_cli.engine.features import choose, require
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.plans import Wish
from tvr_cli.workspace import Workspace


def store(workspace: Path, backbone: str, written_at: float, **sizes):
    made = SyntheticStore(**sizes).write(workspace, backbone)
    os.utime(made.root / "store.json", (written_at, written_at))
    return made


def trained(workspace: Path, name: str, about: dict) -> None:
    """Leave a run with best weights that say `about`."""
    import json

    import torch
    from safetensors.torch import save_file

    run = Workspace(workspace).run(name)
    run.checkpoints.mkdir(parents=True)
    run.config_path.write_text('{"format": 1, "method": {"tests.synthetic": {}}}')
    metadata = {"tvr": json.dumps({"format": "tvr/checkpoint@1", **about})}
    save_file({"model.w": torch.zeros(1)}, run.checkpoints / "best.safetensors", metadata=metadata)


def test_a_file_in_the_place_of_a_workspace_is_one_sentence(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"expected a workspace \(a folder\) at .*notes.txt', found a file"):
        Workspace.at(tmp_path / "notes.txt")
    for command in (
        ["index"],
        ["evaluate", "--method", "mean"],
        ["train", "--method", "glccl"],
        ["extract-frames", "x"],
    ):
        result = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "notes.txt")])
        assert result.exit_code == 3 and "found a file" in result.stderr and result.stderr.count("\n") == 1
        below = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "notes.txt" / "a" / "b")])
        said = (
            f"at '{tmp_path}/notes.txt/a/b', found the file '{tmp_path}/notes.txt' on the way; name another with -o\n"
        )
        assert below.exit_code == 3 and below.stderr.endswith(said), below.stderr
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "config.json' is not a run's: expected an object that says its format; put a copy of it back if"),
        ("[1]", "is not a run's: expected an object that says its format"),
        ('{"format": 1', "config.json' is not readable as JSON"),
        ('{"format": 1}', "is not a run's: expected that it names a method"),
        ('{"format": 1, "method": ["glccl"]}', "is not a run's: expected that it names a method"),
        ('{"format": 2, "method": {"glccl": {}}}', "has another format version than 1; train again"),
    ],
)
def test_a_folder_that_is_no_run_is_never_taken_for_one(tmp_path, text, said):
    trained(tmp_path, "real", {"store": "0123"})
    workspace = Workspace(tmp_path)
    other = workspace.runs_folder / "x"
    other.mkdir()
    (other / "config.json").write_text(text)
    os.utime(other / "config.json", (9e9, 9e9))  # begun last, were it a run
    assert [run.name for run in workspace.runs()] == ["real"] and workspace.newest_run().name == "real"
    assert workspace.free_run("x").name == "x-2"
    for named in ("x", str(other)):
        with pytest.raises(DataError) as caught:
            workspace.find_run(named)
        assert said in str(caught.value)
    for command in (
        ["train", "--resume", "--run", "x"],
        ["evaluate", "x"],
        ["train", "--method", "glccl", "--run", "x"],
    ):
        result = CliRunner().invoke(app, [*command, "-o", str(tmp_path)])
        assert result.exit_code == 3 and said in result.stderr, result.stderr
    assert (other / "config.json").read_text() == text and sorted(os.listdir(other)) == ["config.json"]


def test_a_backbone_that_a_run_tuned_is_taken_only_when_it_is_asked_for(tmp_path, monkeypatch):
    """After a fully tuned run, a method of another plan took that run's backbone for its own features."""
    monkeypatch.delenv("TVR_BACKBONE", raising=False)
    workspace = Workspace(tmp_path)
    tuned = f"local:{(tmp_path / 'runs' / 'glccl' / 'backbone').resolve()}"
    store(tmp_path, "clip-vit-b16", 1000.0)
    store(tmp_path, tuned, 2000.0, words=6)
    newest = workspace.newest_features()
    assert newest is not None and newest.backbone_name == tuned  # what was made last, for scoring
    assert [s.backbone_name for s in workspace.given_features()] == ["clip-vit-b16"]
    assert choose.choose_backbone(None, workspace) == "clip-vit-b16"
    wish = Wish.from_experiment(Experiment(method="mean", options={}), ())
    found, _ = require.find(workspace, wish)
    assert found is not None and found.backbone_name == "clip-vit-b16"
    experiment = Experiment(method="mean", options={}, backbone=BackboneConfig(name=tuned))
    wish = Wish.from_experiment(experiment, ())
    found, _ = require.find(workspace, wish)
    assert found is not None and found.backbone_name == tuned


def test_a_run_has_one_answer_to_which_features_it_goes_with_wherever_it_lies(tmp_path):
    here, there = Workspace(tmp_path / "here"), Workspace(tmp_path / "there")
    mine = store(tmp_path / "here", "clip-vit-b32", 1000.0)
    trained(tmp_path / "here", "head", {"store": mine.fingerprint, "tune": "head"})
    run = there.find_run(str(tmp_path / "here" / "runs" / "head"))
    with pytest.raises(StoreMismatch) as e:
        there.features_of(run)
    assert f"name that one with -o {here}" in str(e.value) and f"--backbone clip-vit-b32 -o {there}" in str(e.value)
    # The same backbone and plan have the same fingerprint: made there too, they are the answer there.
    store(tmp_path / "there", "clip-vit-b32", 1000.0)
    assert there.features_of(run).root == there.feature_folder(mine.fingerprint)
    assert here.features_of(run).root == here.feature_folder(mine.fingerprint)
    assert there.fingerprint_of(run) == here.fingerprint_of(run) == mine.fingerprint


def test_an_imported_run_goes_with_what_its_own_clip_made_in_the_workspace_at_hand(tmp_path):
    here, there = Workspace(tmp_path / "here"), Workspace(tmp_path / "there")
    store(tmp_path / "here", "local:clip", 1000.0)
    store(tmp_path / "there", "clip-vit-b32", 1000.0)
    trained(tmp_path / "here", "authors", {"imported": "local:clip"})
    run = there.find_run(str(tmp_path / "here" / "runs" / "authors"))
    assert here.features_of(run).backbone_name == "local:clip"
    with pytest.raises(StoreMismatch, match=r"imported with its own CLIP.*--backbone local:clip -o .*there"):
        there.features_of(run)


def test_a_tuned_run_elsewhere_says_how_to_make_its_features_here(tmp_path):
    trained(tmp_path / "a", "full", {"store": "x", "tune": "full"})
    run = Workspace(tmp_path / "a").run("full")
    run.env_path.write_text('{"tuned_store": "0123456789abcdef"}')
    with pytest.raises(StoreMismatch, match=r"--backbone local:.*runs/full/backbone -o .*/b$"):
        Workspace(tmp_path / "b").features_of(run)


def test_names_newest_and_free_runs(tmp_path):
    workspace = Workspace(tmp_path)
    assert workspace.newest_run() is None and workspace.free_run("glccl").name == "glccl"
    for name, at in (("glccl", 2000.0), ("gare", 1000.0)):
        trained(tmp_path, name, {})
        os.utime(workspace.run(name).config_path, (at, at))
    assert [run.name for run in workspace.runs()] == ["glccl", "gare"]
    assert workspace.free_run("glccl", {"glccl-2"}).name == "glccl-3"
    (tmp_path / "runs" / "thesis").mkdir()
    (tmp_path / "runs" / "thesis" / "text.tex").write_text("mine")
    assert workspace.free_run("thesis").name == "thesis-2"  # a folder of other things is nobody's run
    with pytest.raises(DataError, match=r"expected a run 'glcl' in .*, found gare, glccl"):
        workspace.find_run("glcl")


def test_an_opened_store_is_kept_while_its_files_are_the_same(tmp_path):
    workspace = Workspace(tmp_path)
    made = store(tmp_path, "clip-vit-b32", 1000.0)
    first = workspace.features(made.fingerprint)
    assert workspace.features(made.fingerprint) is first and workspace.newest_features() is first
    os.utime(made.root / "store.json", (2000.0, 2000.0))
    assert workspace.features(made.fingerprint) is not first


def test_frames_that_changed_are_noticed_and_a_whole_store_is_not_outdated(tmp_path):
    write_frames(tmp_path / "out", videos=4)
    workspace = Workspace(tmp_path / "out")
    made = store(tmp_path / "out", "clip-vit-b32", 1000.0)
    assert workspace.outdated(made) == "the frames have changed"  # they were made from other frames
    made.provenance["frames_content"] = workspace.frames().content_hash()
    assert workspace.outdated(made) == ""
    assert Workspace(tmp_path / "nothing").outdated(made) == ""


@pytest.mark.parametrize(
    ("half", "says"),
    [("captions-*.table", "is missing; make it again with"), ("store.json", "holds features and no store.json")],
)
def test_a_workspace_that_is_half_copied_is_one_sentence(tmp_path, half, says):
    made = store(tmp_path, "clip-vit-b32", 1000.0)
    trained(tmp_path, "head", {"store": made.fingerprint, "tune": "head"})
    next(made.root.glob(half)).unlink()
    result = CliRunner().invoke(app, ["evaluate", "--method", "mean", "-o", str(tmp_path)])
    assert result.exit_code == 3 and says in result.stderr and result.stderr.count("error: ") == 1


def test_parts_are_folders_that_are_called_so_and_nothing_else(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for name in ("1-of-2", "2-of-4", "4-of-4", "1-of-9.bak", "1a-of-9", "1-of-2-of-9", "3-of-4"):
        frames = workspace.parts_folder / name / "frames"
        frames.mkdir(parents=True)
        if name != "3-of-4":
            (frames / "store.json").write_text("{}")
    assert workspace.parts_below() == [(2, 4), (4, 4)]
