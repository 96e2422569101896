"""Curves of one or several runs from their metrics.jsonl, as PNG or SVG. matplotlib is in the extra `plot`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import commands
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem
from tvr_cli.files import disk_errors
from tvr_cli.results.base import Result
from tvr_cli.runs import RunDir
from tvr_cli.workspace import Workspace

FORMATS = (".png", ".svg", ".pdf")
_SMOOTH = 0.02  # width of the moving average as a share of a curve


@dataclass(frozen=True)
class PlotReport(Result):
    """A picture and the runs in it."""

    schema = "plot"
    runs: Sequence[str]
    path: Path


def plot_named(workspace: Workspace, runs: Sequence[str], out: Path | None = None) -> PlotReport:
    """Draw runs by name or path. runs: empty = the newest. out: None = `curves.png` in the first one's folder.

    Raises DataError for a run that is not there, and as `plot`.
    """
    found = [workspace.find_run(name) for name in runs]
    if not found:
        newest = workspace.newest_run()
        if newest is None:
            train = commands.tvr("train", method="glccl", workspace=workspace)
            raise DataError(f"expected a run in {str(workspace.runs_folder)!r}, found none; train one: {train}")
        found = [newest]
    return plot(found, out or found[0].path / "curves.png")


def plot(runs: Sequence[RunDir], out: Path) -> PlotReport:
    """Draw loss, its parts, recall on validation, rates, gradient norm and logit scale over the steps of `runs`.

    Raises ConfigError for an unknown format, DataError for a run without a logged step, EnvironmentProblem without
    matplotlib.
    """
    if out.suffix.lower() not in FORMATS:
        raise ConfigError(f"expected a file ending in {', '.join(FORMATS)}, found {str(out)!r}")
    logged = {run.name: run.logged() for run in runs}
    for run in runs:
        if not any(r["event"] == "step" for r in logged[run.name]):
            raise DataError(f"the run {run.name!r} has no logged step yet in {str(run.metrics_path)!r}")
    figure = _figure(logged)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=120, metadata={"Date": None} if out.suffix.lower() == ".svg" else None)
    return PlotReport([run.name for run in runs], out)


def curve(
    records: Sequence[dict[str, Any]], event: str, value: Callable[[dict[str, Any]], float | None]
) -> tuple[list[int], list[float]]:
    """Return steps and values of one event's records where `value` gives a number."""
    points = [(r["step"], value(r)) for r in records if r["event"] == event]
    kept = [(s, float(v)) for s, v in points if v is not None]
    return [s for s, _ in kept], [v for _, v in kept]


def smooth(values: Sequence[float]) -> list[float]:
    """Return the trailing moving average over a fiftieth of the curve."""
    width = max(1, round(len(values) * _SMOOTH))
    return [
        sum(values[max(0, i + 1 - width) : i + 1]) / len(values[max(0, i + 1 - width) : i + 1])
        for i in range(len(values))
    ]


def _figure(logged: dict[str, list[dict[str, Any]]]) -> Any:
    try:
        import matplotlib
    except ImportError as e:
        raise EnvironmentProblem("tvr plot needs matplotlib: pip install 'tvr-cli[plot]'") from e
    matplotlib.rcParams["svg.hashsalt"] = "tvr"  # equal curves, equal bytes
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    titles = ("loss", "parts of the loss", "validation R@1 (%)", "learning rate", "gradient norm", "logit scale (ln)")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    several = len(logged) > 1
    for name, records in logged.items():
        _draw(axes, records, f"{name} " if several else "")
    for axis in axes:
        if len(axis.get_lines()) > 1 or several:
            axis.legend(fontsize=7)
    return figure


def _draw(axes: Any, records: list[dict[str, Any]], label: str) -> None:
    steps = [r for r in records if r["event"] == "step"]

    def add(axis: Any, name: str, event: str, *path: str, mark: str = "") -> None:
        x, y = curve(records, event, lambda record: _at(record, path))
        if x:
            axis.plot(x, y if mark else smooth(y), mark, label=f"{label}{name}", linewidth=1)

    add(axes[0], "loss", "step", "loss")
    for part in sorted({p for r in steps for p in r["parts"]}):
        add(axes[1], part, "step", "parts", part)
    for side in ("t2v", "v2t"):
        add(axes[2], side, "validation", side, "R@1", mark="o-")
    for group in sorted({g for r in steps for g in r["lr"]}):
        add(axes[3], group, "step", "lr", group, mark="-")
    axes[3].set_yscale("log")
    add(axes[4], "norm", "step", "grad_norm")
    add(axes[5], "scale", "step", "logit_scale")


def _at(record: Any, path: Sequence[str]) -> float | None:
    for key in path:
        record = record.get(key, {})
    return record if isinstance(record, int | float) else None
