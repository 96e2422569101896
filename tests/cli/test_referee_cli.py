"""What every result carries: its selection split, its protocol, its completeness; and that a dry run writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from synthetic import SyntheticStore
from typer.testing import CliRunner, Result

from tvr_cli.cli import app
from tvr_cli.files import lock

METHOD = "tests.synthetic"
FAST = ["--epochs", "2", "--batch-size", "4", "--threads", "1", "--device", "cpu"]


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def ok(*args: object) -> str:
    result = tvr(*args)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture
def out(tmp_path: Path) -> Path:
    SyntheticStore(splits=("train", "train", "val", "test")).write(tmp_path)
    return tmp_path


def test_selection_on_test_is_stamped_on_every_result(out: Path) -> None:
    trained = tvr("train", "--method", METHOD, *FAST, "--select-on", "test", "--run", "peek", "-o", out, "--json")
    assert "the best weights are chosen on the test split" in trained.stderr
    assert json.loads(trained.stdout)["selected_on"] == "test"
    assert "selected on test" in ok("evaluate", "peek", "--method", METHOD, "-o", out)
    assert json.loads(ok("evaluate", "peek", "--method", METHOD, "-o", out, "--json"))["selected_on"] == "test"
    card = ok("evaluate", "peek", "--method", METHOD, "-o", out, "--protocol-card")
    assert ["selected", "on", "test"] in [line.split() for line in card.splitlines()]
    assert "selected on test" in ok("info", out / "runs" / "peek")
    ok("train", "--method", METHOD, *FAST, "--run", "blind", "-o", out)
    assert "selected on val" in ok("evaluate", "blind", "--method", METHOD, "-o", out)
    compared = ok("compare", "blind", "peek", "-o", out, "--markdown").splitlines()
    column = [cell.strip() for cell in compared[0].split("|")].index("selected on")
    assert [line.split("|")[column].strip() for line in compared[2:4]] == ["val", "test"]
    assert "selection split: val against test" in ok("compare", "blind", "peek", "-o", out)


def test_an_unknown_selection_split_is_refused(out: Path) -> None:
    result = tvr("train", "--method", METHOD, *FAST, "--select-on", "tset", "-o", out)
    assert result.exit_code == 2 and "select_on" in result.stderr


def test_held_out_videos_are_named_where_there_is_no_validation_split(tmp_path: Path) -> None:
    SyntheticStore(splits=("train", "train", "train", "test")).write(tmp_path)
    trained = tvr("train", "--method", METHOD, *FAST, "--run", "held", "-o", tmp_path)
    assert trained.exit_code == 0, trained.stderr
    assert "no validation split" in trained.stderr
    assert "selected on val (a tenth of the training videos)" in ok(
        "evaluate", "held", "--method", METHOD, "-o", tmp_path
    )


def test_a_dry_run_says_what_would_be_scored_and_writes_nothing(out: Path) -> None:
    planned = json.loads(ok("evaluate", "--method", "mean", "-o", out, "--dry-run", "--json"))
    assert planned["dry_run"] and planned["pairs"] == planned["captions"] * planned["videos"]
    assert "nothing was written" in ok("evaluate", "--method", "mean", "-o", out, "--dry-run")
    assert not (out / "runs").exists()


def test_results_of_one_run_are_written_by_one_process_at_a_time(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tvr_cli.engine.evaluation.evaluate.lock", lambda folder: lock(folder, wait_s=0.1))
    with lock(out / "runs" / "mean" / "results"):
        result = tvr("evaluate", "--method", "mean", "-o", out)
    assert result.exit_code == 4 and "another tvr process" in result.stderr
    assert not list((out / "runs" / "mean" / "results").glob("*.json"))


def test_the_old_counting_never_replaces_the_result(out: Path) -> None:
    fair = ok("evaluate", "--method", "mean", "-o", out, "--json")
    ok("evaluate", "--method", "mean", "-o", out, "--metrics", "clip4clip")
    results = out / "runs" / "mean" / "results"
    assert json.loads((results / "test.json").read_text())["t2v"] == json.loads(fair)["t2v"]
    assert json.loads((results / "test.clip4clip.json").read_text())["metrics"] == "clip4clip"


def test_hubness_is_in_every_result_streamed_or_not_and_shown_with_more(out: Path) -> None:
    whole = json.loads(ok("evaluate", "--method", "mean", "-o", out, "--json"))["hubness"]
    streamed = json.loads(ok("evaluate", "--method", "mean", "-o", out, "--json", "--stream"))["hubness"]
    assert streamed == pytest.approx(whole) and whole["videos"] == 1
    assert "hubness: the top 1 % (1 video) take" in ok("evaluate", "--method", "mean", "-o", out, "--more")
    assert "hubness" not in ok("evaluate", "--method", "mean", "-o", out)


def test_saved_scores_carry_their_scale_and_ids(out: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.npz"
    told = ok("evaluate", "--method", "mean", "-o", out, "--json", "--post", "dsl", "--save-scores", file)
    report = json.loads(told)
    again = json.loads(ok("evaluate", "--scores", file, "--post", "dsl", "--json"))
    assert report["post"][0]["scale"] == 1.0 and again["post"][0]["transductive"]
    assert again["post"][0]["t2v"] == pytest.approx(report["post"][0]["t2v"])
    assert again["identity"] == report["identity"]
    shown = ok("evaluate", "--scores", file, "--post", "dsl", "--scale", "logit")
    assert "t2v + dsl (transductive)" in shown and "scores times 1, a cosine of one being 100" in shown


@pytest.mark.parametrize("protocol", ["max", "best-caption", "mean-rank"])
def test_a_video_without_captions_is_a_candidate_and_asks_nothing(tmp_path: Path, protocol: str) -> None:
    scores = np.random.default_rng(0).uniform(-1, 1, (3, 4)).astype(np.float32)
    save_file(
        {"scores": torch.from_numpy(scores), "video_of_caption": torch.tensor([0, 0, 2])}, tmp_path / "s.safetensors"
    )
    asked = ["evaluate", "--scores", tmp_path / "s.safetensors", "--v2t-protocol", protocol]
    assert json.loads(ok(*asked, "--json"))["queries"] == {"t2v": 3, "v2t": 2}
    assert "queries: 3 captions to video, 2 videos to text" in ok(*asked)
