"""Curves come from metrics.jsonl: what is drawn, what is refused, TensorBoard's names."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest

from tvr_cli.engine.showing.plot import curve, plot, smooth
from tvr_cli.engine.training import board
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem
from tvr_cli.runs import RunDir

STEPS = [
    {
        "event": "step", "step": s, "epoch": s / 2, "loss": 4.0 / s, "parts": {"nce": 3.0 / s}, "grad_norm": 1.0,
        "logit_scale": 2.0, "lr": {"head": 0.1}, "samples_per_s": 9.0,
    }
    for s in (1, 2, 3)
]  # fmt: skip
VALIDATION = {
    "event": "validation", "step": 2, "epoch": 1.0, "t2v": {"R@1": 10.0}, "v2t": {"R@1": 20.0}, "rsum": 90.0,
    "best": True,
}  # fmt: skip
RECORDS = [*STEPS, VALIDATION]


def run_in(folder: Path, records: list[dict]) -> RunDir:
    run = RunDir(folder)
    for record in records:
        run.log(record)
    return run


def test_a_curve_holds_the_points_of_its_event() -> None:
    assert curve(RECORDS, "step", lambda r: r["loss"]) == ([1, 2, 3], [4.0, 2.0, 4.0 / 3])
    assert curve(RECORDS, "validation", lambda r: r["v2t"]["R@1"]) == ([2], [20.0])
    assert curve([{**RECORDS[0], "logit_scale": None}], "step", lambda r: r["logit_scale"]) == ([], [])


def test_smoothing_keeps_short_curves_and_averages_long_ones() -> None:
    assert smooth([1.0, 5.0, 3.0]) == [1.0, 5.0, 3.0]
    assert smooth([0.0, 2.0] * 50)[-1] == 1.0


def test_one_and_several_runs_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = [run_in(tmp_path / name, RECORDS) for name in ("a", "b")]
    one, both = (plot(some, tmp_path / f"{len(some)}.svg").path.read_text() for some in (runs[:1], runs))
    assert one.startswith("<?xm") and len(both) > len(one)
    assert plot(runs[:1], tmp_path / "again.svg").path.read_text() == one


def test_what_cannot_be_drawn_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_in(tmp_path / "a", RECORDS)
    with pytest.raises(ConfigError, match=r"\.png, \.svg, \.pdf"):
        plot([run], tmp_path / "curves.bmp")
    with pytest.raises(DataError, match="no logged step"):
        plot([run_in(tmp_path / "b", RECORDS[3:])], tmp_path / "curves.png")
    without(monkeypatch, "matplotlib")
    with pytest.raises(EnvironmentProblem, match=r"pip install 'tvr-cli\[plot\]'"):
        plot([run], tmp_path / "curves.png")


def test_tensorboard_names_every_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert board.scalars(RECORDS[0]) == {
        "step/loss": 4.0, "step/parts/nce": 3.0, "step/grad_norm": 1.0, "step/logit_scale": 2.0, "step/lr/head": 0.1,
        "step/samples_per_s": 9.0,
    }  # fmt: skip
    assert board.scalars(RECORDS[3])["validation/t2v/R@1"] == 10.0
    without(monkeypatch, "torch.utils.tensorboard")
    with pytest.raises(EnvironmentProblem, match=r"pip install 'tvr-cli\[tensorboard\]'"):
        board.watcher(tmp_path)


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    original = builtins.__import__

    def guarded(name, *args, **kwargs):
        if name == package or name.startswith(f"{package}."):
            raise ImportError(f"No module named {package!r}")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", guarded)
