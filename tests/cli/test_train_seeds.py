"""`tvr train --seeds`: a run of each seed, mean ± deviation, finished seeds are kept."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from synthetic import SyntheticStore
from typer.testing import CliRunner, Result

from tvr_cli.cli import app
from tvr_cli.engine.training import train as train_engine
from tvr_cli.errors import Interrupted

METHOD = "tests.synthetic"
FAST = ["--epochs", "2", "--batch-size", "4", "--threads", "1", "--device", "cpu"]
SPLITS = ("train", "train", "val", "test")


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def train(workspace: Path, *more: object) -> Result:
    return tvr("train", "--method", METHOD, *FAST, "-o", workspace, *more)


def report(workspace: Path, *more: object) -> dict:
    result = train(workspace, "--json", *more)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def stamps(workspace: Path, run: str) -> dict[str, int]:
    folder = workspace / "runs" / run
    files = [*folder.glob("checkpoints/*"), folder / "results" / "test.json"]
    return {p.name: p.stat().st_mtime_ns for p in files}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    SyntheticStore(videos=32, splits=SPLITS).write(tmp_path)
    return tmp_path


def test_mean_and_deviation_are_those_of_the_runs(workspace: Path) -> None:
    payload = report(workspace, "--seeds", "0,1,2")
    assert payload["schema"] == "tvr/train-seeds@1" and payload["seeds"] == [0, 1, 2]
    assert [row["run"] for row in payload["runs"]] == ["synthetic-seed0", "synthetic-seed1", "synthetic-seed2"]
    for split in ("validation", "test"):
        values = [row[split]["t2v"]["MnR"] for row in payload["runs"]]
        assert payload["mean"][split]["t2v"]["MnR"] == pytest.approx(statistics.mean(values))
        assert payload["deviation"][split]["t2v"]["MnR"] == pytest.approx(statistics.stdev(values))
    assert len({row["test"]["t2v"]["MnR"] for row in payload["runs"]}) > 1  # the seed matters
    for row in payload["runs"]:
        kept = json.loads((workspace / "runs" / row["run"] / "results" / "test.json").read_text())
        assert row["test"] == {k: kept[k] for k in ("t2v", "v2t", "rsum")} and kept["seed"] == row["seed"]


def test_a_seed_alone_trains_the_same_run(workspace: Path) -> None:
    row = report(workspace, "--seeds", "1")["runs"][0]
    alone = report(workspace, "--seed", 1, "--run", "alone")
    assert row["validation"] == {k: alone["best"][k] for k in ("t2v", "v2t", "rsum")}


def test_finished_seeds_are_kept_and_new_ones_added(workspace: Path) -> None:
    first = report(workspace, "--seeds", "0,1")
    before = stamps(workspace, "synthetic-seed0")
    second = report(workspace, "--seeds", "0,1,2")
    assert [row["kept"] for row in second["runs"]] == [True, True, False]
    assert second["runs"][0]["test"] == first["runs"][0]["test"]
    assert stamps(workspace, "synthetic-seed0") == before


def test_an_interrupted_seed_goes_on_to_the_same_numbers(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = report(workspace, "--seeds", "0,1", "--run", "whole")
    step = train_engine.Loop.train_step

    def stopped(self, inputs):
        if self.settings.seed == 1 and inputs.step == 4:  # the second epoch of the second seed
            raise Interrupted("stopped after step 4; the state is saved")
        return step(self, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(train_engine.Loop, "train_step", stopped)
        result = train(workspace, "--seeds", "0,1", "--run", "cut")
    assert result.exit_code == 130
    assert "seed 1: stopped after step 4" in result.stderr and "give the same command again" in result.stderr
    again = report(workspace, "--seeds", "0,1", "--run", "cut")
    assert [row["kept"] for row in again["runs"]] == [True, False]
    assert again["mean"] == whole["mean"]


def test_a_changed_experiment_is_refused(workspace: Path) -> None:
    report(workspace, "--seeds", "0")
    result = train(workspace, "--seeds", "0", "--set", "train.lr=1e-2")
    assert result.exit_code == 3 and "train.lr was 0.0001, now 0.01" in result.stderr


def test_a_table_for_people(workspace: Path) -> None:
    shown = train(workspace, "--seeds", "0,1")
    assert shown.exit_code == 0, shown.stderr
    assert "mean ± deviation" in shown.stdout and "validation" in shown.stdout and "test" in shown.stdout
    assert shown.stdout.endswith(f"next: tvr compare synthetic-seed0 synthetic-seed1 -o {workspace}\n")
    alone = train(workspace, "--seeds", "0")
    assert alone.stdout.endswith(f"next: tvr evaluate synthetic-seed0 --method {METHOD} -o {workspace}\n")


def test_without_a_test_split_only_validation_is_reported(tmp_path: Path) -> None:
    SyntheticStore().write(tmp_path)
    payload = report(tmp_path, "--seeds", "0")
    assert payload["runs"][0]["test"] is None and list(payload["mean"]) == ["validation"]
    assert payload["deviation"]["validation"]["rsum"] is None  # one seed has none


def test_a_dry_run_names_the_runs_and_writes_nothing(workspace: Path) -> None:
    payload = report(workspace, "--seeds", "3,4", "--dry-run")
    assert payload["dry_run"] and [r["run"] for r in payload["runs"]] == ["synthetic-seed3", "synthetic-seed4"]
    assert {"path": "train.seed", "value": 3, "origin": "flag"} in payload["config"]
    assert not (workspace / "runs").exists()
    shown = train(workspace, "--seeds", "3,4", "--dry-run")
    assert "seed 4: synthetic-seed4" in shown.stdout and "train.seed" in shown.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--seeds", "0,x"], "--seeds: expected whole numbers like 0,1,2, found '0,x'"),
        (["--seeds", ","], "--seeds: expected whole numbers"),
        (["--seeds", "0,1", "--seed", "2"], "leave out --seed and --resume"),
        (["--seeds", "0,1", "--resume"], "leave out --seed and --resume"),
    ],
)
def test_unusable_seeds(args: list[str], words: str, workspace: Path) -> None:
    result = train(workspace, *args)
    assert result.exit_code == 2 and words in result.stderr
