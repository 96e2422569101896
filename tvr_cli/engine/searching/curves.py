"""How well each second of a file fits a sentence: the curve that a moment is a part of. numpy alone.

A curve is made while an answer is found, of what found it, so that whatever shows it asks nothing again. Its values are
on the scale of the scores. Of films by time a value is the score of a single frame. Elsewhere clips have scores and
frames have weights: a frame stands as high as its clip where it has the clip's largest weight, and towards the lowest
score of all where it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tvr_cli.results.found import Curve, Hit
from tvr_cli.stores.index.segment import IndexedClip

_POINTS = 480  # of a curve: more than a card has pixels for
_LEAST = 1e-9  # that two scores differ by


@dataclass(frozen=True, slots=True)
class Window:
    """A clip of a file, for one sentence. weights: [n] of its real frames, as the method explains its score."""

    clip: IndexedClip
    score: float
    weights: np.ndarray


def drawn(
    hits: Sequence[Hit], scores: np.ndarray, rows: Mapping[str, int], windows: Callable[[int], Sequence[Window]]
) -> list[Hit]:
    """Return hits with the curves of their files.

    scores: of the sentence with all clips that were scored. rows: a row of each hit's file. windows: finds the clips of
    the file that a row is of.
    """
    low, high = reach(scores)
    made = {name: of_windows(windows(rows[name]), low, high) for name in {hit.video_id for hit in hits}}
    return [replace(hit, curve=made[hit.video_id]) for hit in hits]


def reach(scores: np.ndarray) -> tuple[float, float]:
    """Return the lowest and the highest of some scores; where all are one, a step between them."""
    real = scores[np.isfinite(scores)]
    if not len(real):
        return 0.0, 1.0
    low, high = float(real.min()), float(real.max())
    return (low if high - low > _LEAST else high - 1.0), high


def of_windows(windows: Sequence[Window], low: float, high: float) -> Curve:
    """Return the curve of a file from its clips; where clips overlap, the higher one counts."""
    return thinned(*merged(windows, low), low, high)


def merged(windows: Sequence[Window], low: float) -> tuple[np.ndarray, np.ndarray]:
    """Return seconds [n], all that the clips have frames at, and values [n] there; see `of_windows`."""
    parts = [(np.array(w.clip.ts), levels(w, low)) for w in windows if len(w.clip.ts)]
    ts = np.unique(np.concatenate([np.zeros(0), *(at for at, _ in parts)]))
    values = np.full(len(ts), low)
    for at, level in parts:
        first, last = np.searchsorted(ts, [at[0], at[-1]])
        there = slice(first, last + 1)
        values[there] = np.maximum(values[there], np.interp(ts[there], at, level))
    return ts, values


def levels(window: Window, low: float) -> np.ndarray:
    """Return the value [n] of each frame of a clip: its share of the largest weight, between `low` and the score."""
    weights = np.nan_to_num(window.weights.astype(np.float64))
    above = window.score - low if np.isfinite(window.score) else 0.0
    return low + above * weights / max(float(weights.max(initial=0.0)), 1e-12)


def thinned(ts: np.ndarray, values: np.ndarray, low: float, high: float) -> Curve:
    """Return a curve of some hundred points; of the frames that one point stands for the highest is kept."""
    values = np.where(np.isfinite(values), values, low)
    kept = highest(values)
    ts, values = ts[kept], values[kept]
    return Curve(tuple(ts.tolist()), tuple(values.tolist()), low, max(high, float(values.max(initial=low))))


def highest(values: np.ndarray) -> np.ndarray:
    """Return which of a curve's values are kept, ascending: the highest of so many that follow each other."""
    if len(values) <= _POINTS:
        return np.arange(len(values))
    starts = np.linspace(0, len(values), _POINTS, endpoint=False).astype(int)
    ends = [*starts[1:], len(values)]
    return np.array([a + int(values[a:b].argmax()) for a, b in zip(starts, ends, strict=True)])


def noting(clip_of: Callable[[int], IndexedClip], rows: dict[str, int]) -> Callable[[int], IndexedClip]:
    """Return what reads clips as `clip_of` does, and notes in `rows` a row of each file on the way."""

    def read(row: int) -> IndexedClip:
        clip = clip_of(row)
        rows.setdefault(clip.file_id, row)
        return clip

    return read
