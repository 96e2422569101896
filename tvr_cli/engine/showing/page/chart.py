"""The curve of a file as a drawing in the page: where in the file a sentence fits, and where the moment is."""

from __future__ import annotations

from collections.abc import Sequence

from tvr_cli.engine.showing.page.text import quoted
from tvr_cli.results.found import Curve

WIDTH, HEIGHT = 320.0, 48.0  # of the drawing's own units; the page stretches it
_OUT = 9.0  # beyond its sides: nothing of that is seen
_ROOM = 3.0  # above the highest value
Span = tuple[float, float]  # seconds
_NARROWEST = 3.0  # of a moment, so that three seconds of an hour are seen


def drawing(
    curve: Curve | None,
    seconds: float,
    moment: Span,
    peak: float,
    others: Sequence[Span],
    label: str,
) -> str:
    """Return an SVG. seconds: the file's length. others: moments of the file that have cards of their own.

    Without a curve, as of what is only said, the moments stand on a line.
    """

    def x(second: float) -> float:
        return round(min(max(second / seconds, 0.0), 1.0) * WIDTH, 1) if seconds > 0 else 0.0

    def band(span: Span, kind: str) -> str:
        left, right = x(span[0]), x(span[1])
        if (lacks := _NARROWEST - (right - left)) > 0:
            left = min(max(0.0, left - lacks / 2), WIDTH - _NARROWEST)
            right = left + _NARROWEST
        return f'<rect class="{kind}" x="{left:g}" y="0" width="{right - left:g}" height="{HEIGHT:g}"/>'

    parts = [band(span, "other") for span in others]
    parts.append(band(moment, "moment"))
    if curve is not None and len(curve.ts):
        points = [(x(t), _height(value, curve)) for t, value in zip(curve.ts, curve.values, strict=True)]
        # One closed path, whose sides and foot lie outside of what is drawn.
        points = [(-_OUT, points[0][1]), *points, (WIDTH + _OUT, points[-1][1])]
        line = " ".join(f"{a:g},{b:g}" for a, b in _apart(points))
        foot = HEIGHT + _OUT
        parts.append(f'<polygon class="line" points="{-_OUT:g},{foot:g} {line} {WIDTH + _OUT:g},{foot:g}"/>')
    parts.append(f'<line class="peak" x1="{x(peak):g}" x2="{x(peak):g}" y1="0" y2="{HEIGHT:g}"/>')
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{quoted(label)}">{"".join(parts)}</svg>'
    )


def _height(value: float, curve: Curve) -> float:
    share = (value - curve.low) / (curve.high - curve.low) if curve.high > curve.low else 0.0
    return round(HEIGHT - min(max(share, 0.0), 1.0) * (HEIGHT - _ROOM), 1)


def _apart(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Leave out points that lie on the line between their neighbours, or on the one before."""
    kept: list[tuple[float, float]] = []
    for point in points:
        if kept and point == kept[-1]:
            continue
        if len(kept) > 1 and kept[-2][1] == kept[-1][1] == point[1]:
            kept[-1] = point
        else:
            kept.append(point)
    return kept
