"""Why a file answers a sentence, as a page: the curve over frames of the file, and a strip of time for each word."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path

from tvr_cli.engine.showing.page import pictures
from tvr_cli.engine.showing.page.chart import WIDTH, drawing
from tvr_cli.engine.showing.page.markup import document
from tvr_cli.engine.showing.page.pictures import Picture
from tvr_cli.engine.showing.page.text import link, quoted, text
from tvr_cli.log import clock
from tvr_cli.results.explained import ExplainReport, WordShare
from tvr_cli.results.found import Curve, Hit, why_missing
from tvr_cli.workspace import Workspace

_FRAMES = 8  # under the curve
_PICTURE_BYTES = 200_000
_STRIP = 12.0  # height of a word's


def page(report: ExplainReport, workspace: Workspace, to: Path) -> str:
    """Return the page; it has no script. to: where it will lie, for the link that plays the moment."""
    first, last = (report.ts[0], report.ts[-1]) if report.ts else (0.0, report.seconds)
    folder, _, file = report.path.rpartition(os.sep)
    where = f"{clock(report.start)}–{clock(report.end)}"
    curve = Curve([t - first for t in report.ts], report.values, report.low, report.high)
    length = max(last - first, 1e-9)
    moment = (report.start - first, report.end - first)
    label = f"How well the file fits from {clock(first)} to {clock(last)}: the best moment is {where}"
    play = (
        f'<a href="{quoted(link(report.path, to, report.start, report.end))}">Play {where}</a>'
        if os.path.isabs(report.path) and os.path.isfile(report.path)
        else f'<strong class="gone">The file is {why_missing(report.path)}.</strong>'
    )
    rows = "".join(_row(word, report, first, length) for word in report.words)
    chart = drawing(curve, length, moment, report.peak - first, (), label)
    return document(
        report.sentence,
        f'<div class="why"><header class="top"><p class="mark">tvr explain</p><h1>{text(report.sentence)}</h1>'
        f'<p class="sum">{text(file)} scores {report.score:.3f} by {text(report.by)}, '
        f"best at {clock(report.peak)}. {play}</p>"
        f'<p class="folder">{text(folder + os.sep)}</p></header><main><section aria-labelledby="time">'
        f'<h2 id="time">Over time</h2><div class="tall">{chart}</div>'
        f'<p class="axis"><span>{clock(first)}</span><span>{clock(last)}</span></p>'
        f"{_strip(report, workspace, first, length)}</section>"
        '<section aria-labelledby="words"><h2 id="words">By word</h2>'
        '<p class="sum">What each word does: the score with it less the score without it, of the best moment and over '
        'time. Above the line it speaks for the file, below against it.</p><div class="words"><table><thead><tr>'
        '<th scope="col">word</th><th scope="col">does</th><th scope="col">over time</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section></main></div>",
    )


def _strip(report: ExplainReport, workspace: Workspace, first: float, length: float) -> str:
    """Return frames of the file at even times, as far as they are stored."""
    at = [first + length * (i + 0.5) / _FRAMES for i in range(_FRAMES)]
    wanted = [Hit(i, 0.0, report.video_id, report.path, t, t, t) for i, t in enumerate(at)]
    step = length / _FRAMES
    seen = pictures.stored(wanted, workspace, _PICTURE_BYTES, near_s=max(step, 1.0))
    frames = "".join(f"<li>{_frame(picture, t, report.path)}</li>" for picture, t in zip(seen, at, strict=True))
    return f'<ol class="strip" role="list" aria-label="Frames of the file">{frames}</ol>' if any(seen) else ""


def _frame(picture: Picture | None, second: float, path: str) -> str:
    if picture is None:
        return f'<span class="none">{clock(second)}</span>'
    data = base64.b64encode(picture.jpeg).decode()
    alt = quoted(f"Frame of {os.path.basename(path)} at {clock(picture.at)}")
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img src="data:image/jpeg;base64,{data}" {size} alt="{alt}">'


def _row(word: WordShare, report: ExplainReport, first: float, length: float) -> str:
    reach = max((abs(v) for other in report.words for v in other.values), default=0.0) or 1.0
    return (
        f'<tr><th scope="row">{text(word.word)}</th><td class="num">{word.contribution:+.3f}</td>'
        f"<td>{_bars(word.values, report.ts, first, length, reach, word.word)}</td></tr>"
    )


def _bars(values: Sequence[float], ts: Sequence[float], first: float, length: float, reach: float, word: str) -> str:
    """Return a word's strip: what it adds above the middle, what it takes away below."""
    middle = _STRIP / 2

    def area(kind: str, sign: float) -> str:
        points = [
            (round((t - first) / length * WIDTH, 1), round(middle - sign * max(0.0, sign * v) / reach * middle, 1))
            for t, v in zip(ts, values, strict=True)
        ]
        line = " ".join(f"{x:g},{y:g}" for x, y in points)
        return f'<polygon class="{kind}" points="0,{middle:g} {line} {WIDTH:g},{middle:g}"/>'

    best = max(range(len(values)), key=lambda i: values[i], default=0)
    label = f"{word}: does most at {clock(ts[best])}" if len(ts) else word
    return (
        f'<svg class="strips" viewBox="0 0 {WIDTH:g} {_STRIP:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{quoted(label)}">{area("for", 1.0)}{area("against", -1.0)}</svg>'
    )
