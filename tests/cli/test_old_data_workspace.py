"""A data set, a run that was stopped and one that tuned its backbone, all of tvr 0.1.0, in a folder that has moved.

The backbones lie in the workspace, under names that say where it was when 0.1.0 made it: scripts/make_old_workspace.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from old_answers import CHANGING, answers, close, copy, ok
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.engine.features import sentences

ANSWERS = answers("0.1.0-data")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = copy("0.1.0-data", tmp_path_factory.mktemp("old") / "out")
    told = ok("migrate", "-o", out)
    assert [(s["kind"], s["found"], s["format"]) for s in told["stores"]] == [
        ("frames", 1, 2),
        *[("features", 1, 2)] * 2,
    ]
    return out


@pytest.mark.parametrize("name", ["whole", "tuned"])
def test_a_run_on_a_data_set_is_evaluated_as_by_0_1_0(out: Path, name: str) -> None:
    now, then = ok("evaluate", name, "--allow-missing", "-o", out), ANSWERS["evaluate"][name]
    close(now, {key: value for key, value in then.items() if key not in {*CHANGING, "backbone"}})


@pytest.mark.parametrize(("tower", "within"), [("of the library", 1e-6), ("in numpy", 1e-5)])
@pytest.mark.parametrize("name", ["whole", "tuned"])
def test_an_exhaustive_query_gives_the_scores_of_0_1_0(
    out: Path, monkeypatch: pytest.MonkeyPatch, name: str, tower: str, within: float
) -> None:
    """Its sentences are encoded by the backbone in the workspace: CLIP's text tower, and the one that the run tuned.

    The tower in numpy differs from the library's by its rounding, which weights that are random magnify.
    """
    if tower == "of the library":
        monkeypatch.setattr(sentences, "_card_of", lambda store: None)
    ok("index", "--run", name, "--overwrite", "-o", out)
    for then in ANSWERS["query"][name]:
        (asked,) = then["results"]
        now = ok("query", asked["query"], "--exhaustive", "--per-file", 1, "--index", out)
        close(now, {**then, "schema": "tvr/query@2"}, within=within)


def test_a_run_that_0_1_0_began_goes_on_to_what_0_1_0_would_have_made(out: Path) -> None:
    result = CliRunner().invoke(app, ["train", "--resume", "--run", "half", "-o", str(out)])
    assert result.exit_code == 0, result.stderr
    half, whole = (_steps(out, name) for name in ("half", "whole"))
    assert [step["step"] for step in half] == [1, 2, 3]
    for now, then in zip(half, whole, strict=True):
        assert now["lr"] == then["lr"]
        for name in ("loss", "grad_norm", "logit_scale"):  # of the third step they tell of the weights after the second
            assert now[name] == pytest.approx(then[name], rel=1e-5), name


def _steps(out: Path, run: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (out / "runs" / run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "step"]
