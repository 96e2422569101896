"""A picture of a comparison: R@1 with its interval, and how the ranks are distributed. Needs matplotlib."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tvr_cli.engine.evaluation import compare, score_ids
from tvr_cli.engine.evaluation.compare import CompareReport, Entry
from tvr_cli.errors import ConfigError, EnvironmentProblem
from tvr_cli.workspace import Workspace


def compared(
    results: Sequence[Path], workspace: Workspace, *, split: str, seed: int, plot: Path | None = None,
    data: str | None = None, same_gallery: bool = False,
) -> CompareReport:  # fmt: skip
    """Compare runs, result JSONs or score matrices with the first of them, and draw that where `plot` names a file.

    data: `NAME:ROOT[:VARIANT]`, the data set that score matrices are about. same_gallery: as `compare`. Raises
    DataError for what is no result, and as `draw`.
    """
    ids = None if data is None else score_ids.of_dataset(data, split)
    entries = [compare.read_entry(path, split, workspace, ids) for path in results]
    report = compare.compare(entries, seed=seed, same_gallery=same_gallery)
    if plot is not None:
        draw(entries, plot)
    return dataclasses.replace(report, plot=plot)


def draw(entries: Sequence[Entry], path: Path) -> None:
    """Draw PNG, SVG or PDF by the suffix of `path`. Raises EnvironmentProblem without matplotlib."""
    try:
        import matplotlib
    except ImportError as e:
        raise EnvironmentProblem("drawing needs matplotlib; run: pip install 'tvr-cli[plot]'") from e
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"expected a .png, .svg or .pdf file, found {str(path)!r}")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 0.45 * len(entries) + 2.4), layout="constrained")
    for row, entry in enumerate(entries):
        value = (entry.result.t2v or {})["R@1"]
        interval = entry.result.intervals.t2v.get("R@1")
        left.plot(value, row, "o", color="black")
        if interval:
            left.plot(interval, [row, row], "-", color="black")
    left.set_yticks(range(len(entries)), [entry.label for entry in entries])
    left.invert_yaxis()
    left.set_xlabel("text-to-video R@1 (%), 95 % interval")
    left.grid(axis="x", alpha=0.3)
    for entry in entries:
        if entry.ranks is not None:
            ranks = np.sort(entry.ranks[0].expected())
            right.step(ranks, np.arange(1, len(ranks) + 1) / len(ranks) * 100, where="post", label=entry.label)
    right.set_xscale("log")
    right.xaxis.set_major_formatter("{x:g}")
    right.set_xlabel("rank of the right video")
    right.set_ylabel("queries at or above it (%)")
    right.set_ylim(0, 100)
    right.grid(alpha=0.3)
    if right.lines:
        right.legend(loc="lower right", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
