"""Which frames of a clip are kept, and how a long file is cut into windows. Arithmetic on times only; no decoding.

Nothing here repeats a frame: a clip with fewer frames than the plan asks for keeps the frames that it has.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tvr_cli.errors import ConfigError, DecodeError
from tvr_cli.plans import FramePlan

# A frame that starts this little after the wanted instant counts as on screen: containers round times to milliseconds.
_ROUNDING_S = 5e-4
# Windows of one file at most: four weeks without a pause, cut as usual. Two frames with a clock jump between them may
# be twenty years apart, and 25 million windows need gigabytes before the first of them is written.
MAX_WINDOWS = 100_000
_FRAGMENT = re.compile(r"#t=[\d.]*(,[\d.]+)?$")


@dataclass(frozen=True, slots=True)
class Segmenting:
    """How a file is cut: windows of `length_s` that share `overlap_s`, where the file is longer than `above_s`."""

    length_s: float
    overlap_s: float
    above_s: float


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file in seconds; None = from its beginning, to its end."""

    start: float | None = None
    end: float | None = None

    def within(self, duration: float) -> tuple[float, float]:
        """Return the seconds of the file that the span covers."""
        return (self.start or 0.0, duration if self.end is None else min(self.end, duration))


WHOLE = Span()
AUTO = Segmenting(30.0, 5.0, 45.0)


def parse_segment(text: str) -> Segmenting | None:
    """Read `--segment`: auto, none or LENGTH/OVERLAP in seconds. Raises ConfigError."""
    if text in ("auto", "none"):
        return AUTO if text == "auto" else None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)", text)
    if not match:
        raise ConfigError(f"--segment: expected auto, none or LENGTH/OVERLAP in seconds such as 30/5, found {text!r}")
    length, overlap = float(match[1]), float(match[2])
    if length <= 0 or overlap >= length:
        raise ConfigError(f"--segment {text}: the length must be above 0 and the overlap below the length")
    return Segmenting(length, overlap, length)


def cut(duration: float, how: Segmenting | None) -> list[Span]:
    """Return the windows of a file of `duration` seconds; one WHOLE span where it is not cut.

    Raises DecodeError for more than MAX_WINDOWS: a file may say that two of its frames lie decades apart.
    A remainder that would add less than the overlap (or a sixth of the length) is joined to the window before it.
    """
    if how is None or duration <= how.above_s:
        return [WHOLE]
    step = how.length_s - how.overlap_s
    if duration / step > MAX_WINDOWS:
        raise DecodeError(
            f"it says that it lasts {duration / 86400:,.0f} days, which would be {duration / step:,.0f} windows of "
            f"{how.length_s:g} s; one file has at most {MAX_WINDOWS:,}. If that is its true length, ask for longer "
            "windows (--segment LENGTH/OVERLAP) or none (--segment none)"
        )
    least = max(how.overlap_s, how.length_s / 6)
    spans = []
    for i in range(math.ceil(duration / step)):
        start, end = _milli(i * step), _milli(i * step + how.length_s)
        if duration - end < least:
            spans.append(Span(start, _milli(duration)))
            break
        spans.append(Span(start, end))
    return spans if len(spans) > 1 else [WHOLE]


def clip_id(file_id: str, span: Span) -> str:
    """Return `file_id#t=start,end` (W3C media fragment), or the bare id for a whole file."""
    if span == WHOLE:
        return file_id
    start = _number(span.start or 0.0)
    return f"{file_id}#t={start}" if span.end is None else f"{file_id}#t={start},{_number(span.end)}"


def file_id(clip_id: str) -> str:
    """Return a clip's id without its `#t=start,end`. Only a whole one at the end counts: `a#t=1.mp4` is a file."""
    return _FRAGMENT.sub("", clip_id)


def choose_frames(ts: np.ndarray, end: float, span: Span, plan: FramePlan) -> np.ndarray:
    """Return the ascending indices of the frames that `plan` keeps of one span.

    ts: [n] seconds, ascending. end: seconds at which the last frame ends. The frames of a span are those that start in
    [start, end); a span between two frames has the one that is on screen. Empty only when the span lies outside.

    uniform: of the n frames of the span, number floor((i + 1/2) n / N) for i < N.
    fps: the frame on screen (the last one that has started) at start + k / fps for k = 0, 1, … while inside the span,
    counted from the first frame where the span has no start; then numbers floor(linspace(0, n - 1, F)) of these, if
    there are more than F.
    """
    start_s, end_s = span.within(end)
    first, last = (int(x) for x in np.searchsorted(ts, [start_s - _ROUNDING_S, end_s - _ROUNDING_S]))
    if span.start is None:
        first = 0
    if first >= last:
        seen = int(np.searchsorted(ts, start_s, side="right")) - 1
        inside = seen >= 0 and start_s < end_s
        return np.array([seen] if inside else [], dtype=np.int64)
    if plan.kind == "uniform":
        n = last - first
        return first + np.unique((2 * np.arange(plan.num_frames) + 1) * n // (2 * plan.num_frames))
    return _at_rate(ts, first, last, start_s if span.start is not None else float(ts[0]), end_s, plan)


def timeline_frames(ts: np.ndarray, end: float, spans: Sequence[Span], plan: FramePlan) -> list[np.ndarray]:
    """Return for each span the ascending indices of the frames of a timeline that are on screen in it.

    All spans share one grid: the frames on screen at k / fps seconds after the first one, or k / detail, of which not
    all are kept. ts, end: as in `choose_frames`. Empty only where a span lies outside.
    """
    looked_at = dataclasses.replace(plan, fps=plan.detail or plan.fps, max_frames=None)
    grid = _at_rate(ts, 0, len(ts), float(ts[0]), end, looked_at)
    found = []
    for span in spans:
        start_s, end_s = span.within(end)
        found.append(grid[on_screen(ts[grid], start_s, end_s)] if start_s < end_s else grid[:0])
    return found


def on_screen(ts: np.ndarray, start: float, end: float) -> slice:
    """Return which frames are on screen between two seconds, where each stands until the next. ts: [n] ascending."""
    first = max(0, int(np.searchsorted(ts, start + _ROUNDING_S, side="right")) - 1)
    return slice(first, int(np.searchsorted(ts, end - _ROUNDING_S)))


def view(ts: np.ndarray, span: tuple[float, float], slots: int) -> tuple[int, ...]:
    """Return which frames of a timeline fill the slots of a clip: those on screen in the middle of equal parts of it.

    ts: [n] seconds, ascending, of the frames that were kept. span: seconds of the file. No frame twice.
    """
    start_s, end_s = span
    instants = start_s + (np.arange(slots) + 0.5) * (end_s - start_s) / slots
    seen = np.searchsorted(ts, instants + _ROUNDING_S, side="right") - 1
    return tuple(np.unique(np.clip(seen, 0, len(ts) - 1)).tolist())


def _at_rate(ts: np.ndarray, first: int, last: int, start_s: float, end_s: float, plan: FramePlan) -> np.ndarray:
    if plan.fps is None or plan.fps <= 0:
        raise ConfigError(f"a frame plan by rate needs fps above 0, found {plan.fps}")
    count = max(1, math.ceil((end_s - start_s) * plan.fps - 1e-9))
    # Only the instants around the start of a frame can find one that the instant before did not: the work and the
    # memory follow the frames, not the seconds, of which a file may claim decades.
    near = np.floor((ts[first : last + 1] - _ROUNDING_S - start_s) * plan.fps)[:, None] + np.arange(-1, 3)
    instants = start_s + np.unique(np.clip(near, 0, count - 1)) / plan.fps
    seen = np.searchsorted(ts, instants + _ROUNDING_S, side="right") - 1
    chosen = np.unique(np.clip(seen, first, last - 1))
    if plan.max_frames is not None and len(chosen) > plan.max_frames:
        chosen = chosen[np.floor(np.linspace(0, len(chosen) - 1, plan.max_frames)).astype(np.int64)]
    return chosen


def _milli(seconds: float) -> float:
    return round(seconds, 3)


def _number(seconds: float) -> str:
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
