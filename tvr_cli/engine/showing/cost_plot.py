"""A picture of recall against cost: R@1 with its interval over the bytes of a clip in the index. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvr_cli.errors import ConfigError, EnvironmentProblem


@dataclass(frozen=True)
class Point:
    """One method. recall, low, high: t2v R@1 in percent with its interval. size_bytes: of a clip in the index."""

    label: str
    recall: float
    low: float
    high: float
    size_bytes: int


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw PNG, SVG or PDF by the suffix of `path`. Raises EnvironmentProblem without matplotlib, ConfigError."""
    try:
        import matplotlib
    except ImportError as e:
        raise EnvironmentProblem("drawing needs matplotlib; run: pip install 'tvr-cli[plot]'") from e
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"expected a .png, .svg or .pdf file, found {str(path)!r}")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for point in points:
        axes.plot([point.size_bytes] * 2, [point.low, point.high], "-", color="grey", linewidth=1)
        axes.plot(point.size_bytes, point.recall, "o", color="black")
        axes.annotate(point.label, (point.size_bytes, point.recall), xytext=(5, 3), textcoords="offset points", size=8)
    axes.set_xscale("log")
    axes.set_xlabel("bytes of a clip in the index")
    axes.set_ylabel("text-to-video R@1 (%), 95 % interval over videos")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
