"""A picture of recall against cost: R@1 with its interval over the bytes of a clip in the index. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli.errors import ConfigError, EnvironmentProblem

_SUFFIXES = (".png", ".svg", ".pdf")
_LINE = 11.0  # points between the baselines of two labels
_TICKS = (1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Point:
    """One method. recall, low, high: t2v R@1 in percent with its interval. size_bytes: of a clip in the index.

    panel: what shares axes: an encoder on a data set.
    """

    label: str
    panel: str
    recall: float
    low: float
    high: float
    size_bytes: int


def require_drawable(path: Path) -> None:
    """Raise ConfigError for a file of another kind, EnvironmentProblem without matplotlib."""
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"expected a .png, .svg or .pdf file, found {str(path)!r}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise EnvironmentProblem("drawing needs matplotlib; run: pip install 'tvr-cli[plot]'") from e


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw PNG, SVG or PDF by the suffix of `path`. Raises as `require_drawable`."""
    require_drawable(path)
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "tvr"  # the same numbers, the same file
    from matplotlib import pyplot as plt

    panels = list(dict.fromkeys(point.panel for point in points))
    figure, grid = plt.subplots(
        1, len(panels), figsize=(5.5 * len(panels), 5.5), layout="constrained", squeeze=False, sharex=True, sharey=True
    )
    for axes, panel in zip(grid[0], panels, strict=True):
        _panel(axes, [point for point in points if point.panel == panel])
        axes.set_title(panel, size=10)
    grid[0][0].set_ylabel("text-to-video R@1 (%), 95 % interval over videos")
    figure.draw_without_rendering()  # labels are laid out in pixels, which the layout decides
    for axes, panel in zip(grid[0], panels, strict=True):
        _labels(axes, [point for point in points if point.panel == panel])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    plt.close(figure)


def _panel(axes: Any, points: Sequence[Point]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for point in points:
        axes.plot([point.size_bytes] * 2, [point.low, point.high], "-", color="grey", linewidth=1)
        axes.plot(point.size_bytes, point.recall, "o", color="black", markersize=5)
    axes.set_xscale("log")
    axes.margins(x=0.3, y=0.12)  # room for names
    axes.xaxis.set_major_locator(LogLocator(subs=_TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _bytes(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("bytes of a clip in the index")
    axes.grid(alpha=0.3)


def _labels(axes: Any, points: Sequence[Point]) -> None:
    """Write the name of each point beside it, from the top, each below names and points that stand in its way."""
    scale = axes.figure.dpi / 72.0
    at_points = [axes.transData.transform((point.size_bytes, point.recall)) for point in points]
    taken = [(x - 4 * scale, x + 4 * scale, y) for x, y in at_points]  # left, right, y in pixels
    for point in sorted(points, key=lambda p: -p.recall):
        x, y = axes.transData.transform((point.size_bytes, point.recall))
        left, right = x + 7 * scale, x + (9 + 5.2 * len(point.label)) * scale
        at = y
        while any(left < r and right > l and abs(at - there) < _LINE * scale for l, r, there in taken):
            at -= 1.0
        taken.append((left, right, at))
        axes.annotate(
            point.label, (point.size_bytes, point.recall), xytext=(7, (at - y) / scale), textcoords="offset points",
            size=8, va="center", arrowprops={"arrowstyle": "-", "color": "grey", "linewidth": 0.5},
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.3},
        )  # fmt: skip


def _bytes(value: float) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"
