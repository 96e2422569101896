"""Why a file answers a sentence, as a picture (matplotlib, extra `plot`) or a page, by the ending of the file."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tvr_cli import files, log
from tvr_cli.engine.showing.page import explained
from tvr_cli.engine.showing.plot import FORMATS
from tvr_cli.errors import ConfigError, EnvironmentProblem
from tvr_cli.log import clock, printable
from tvr_cli.results.explained import ExplainReport
from tvr_cli.workspace import Workspace

_PAGES = (".html", ".htm")
_COLOUR, _MOMENT = "#3d5a80", "#e4572e"


def draw(report: ExplainReport, workspace: Workspace, to: Path, *, overwrite: bool = False) -> Path:
    """Draw the curve with the moment, and under it what each word contributes over time.

    workspace: its stored frames stand in a page. Raises ConfigError for another ending and where a file is there that
    is not to be replaced, EnvironmentProblem where it cannot be written, or without matplotlib.
    """
    require_drawable(to, overwrite=overwrite)
    if to.suffix.lower() in _PAGES:
        data = explained.page(report, workspace, to).encode("utf-8")
    else:
        data = _picture(report, to.suffix.lower()[1:])
    files.write_bytes(to, data)
    return to


def require_drawable(to: Path, *, overwrite: bool = False) -> None:
    """Raise ConfigError unless a file of this name can be drawn."""
    if to.suffix.lower() not in (*FORMATS, *_PAGES):
        raise ConfigError(f"expected a file ending in {', '.join(FORMATS)} or .html, found {str(to)!r}")
    files.require_free(to, overwrite=overwrite)


def _picture(report: ExplainReport, kind: str) -> bytes:
    try:
        import matplotlib
    except ImportError as e:
        raise EnvironmentProblem(
            "a picture needs matplotlib: pip install 'tvr-cli[plot]'; a page (--out FILE.html) needs nothing"
        ) from e
    matplotlib.rcParams["svg.hashsalt"] = "tvr"  # equal curves, equal bytes
    from matplotlib.figure import Figure

    rows = max(1, len(report.words))
    figure = Figure(figsize=(10, 2.6 + 0.32 * rows), layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 0.32 * rows + 0.3])
    _draw_curve(top, report)
    _draw_words(figure, below, report)
    out = io.BytesIO()
    with warnings.catch_warnings(record=True) as lacking:
        warnings.simplefilter("always")
        figure.savefig(out, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else None)
    if any("missing from font" in str(one.message) for one in lacking):
        log.warn_once("matplotlib's font lacks letters of the sentence or the name; a page (--out FILE.html) has them")
    return out.getvalue()


def _draw_curve(axis: Any, report: ExplainReport) -> None:
    axis.set_title(_plain(report.sentence), loc="left", fontsize=12, fontweight="bold")
    axis.set_title(_plain(Path(report.path).name), loc="right", fontsize=9, color="#65625b")
    axis.axvspan(report.start, report.end, color=_MOMENT, alpha=0.18, lw=0)
    axis.axvline(report.peak, color=_MOMENT, lw=1.5)
    axis.fill_between(report.ts, report.low, report.values, color=_COLOUR, alpha=0.15, lw=0)
    axis.plot(report.ts, report.values, color=_COLOUR, lw=1.6)
    for clip in report.clips:
        axis.hlines(clip.score, clip.start, clip.end, color=_COLOUR, lw=0.8, alpha=0.5)
    axis.set_ylabel("score")
    axis.spines[["top", "right"]].set_visible(False)


def _draw_words(figure: Any, axis: Any, report: ExplainReport) -> None:
    ts = np.array(report.ts)
    shares = np.array([word.values for word in report.words]).reshape(len(report.words), len(ts))
    reach = max(float(np.abs(shares).max(initial=0.0)), 1e-9)
    middle = (ts[1:] + ts[:-1]) / 2
    edges = np.concatenate([ts[:1], middle, ts[-1:]]) if len(ts) > 1 else np.array([ts[0] - 0.5, ts[0] + 0.5])
    mesh = axis.pcolormesh(
        edges, np.arange(len(report.words) + 1), shares, cmap="RdBu", vmin=-reach, vmax=reach, rasterized=True
    )
    names = [f"{_plain(word.word)}  {word.contribution:+.3f}" for word in report.words]
    axis.set_yticks(np.arange(len(names)) + 0.5, names)
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_formatter(lambda second, _: clock(max(0.0, second)))
    figure.colorbar(mesh, ax=axis, label="with the word – without", pad=0.01)


def _plain(text: str) -> str:
    """Return a text that matplotlib writes as it is: between dollars it would read formulas."""
    return printable(text).replace("$", r"\$")
