"""Where moments may begin and end on the timeline of a film: cells between edges, and runs of them. numpy alone.

An edge is hard where most of the picture changes at once (the *median* of its cells of grey: a thing that moves does
not change most of it; a camera that moves does, all the time, so a cut must also stand out), and soft where what is
seen just before and just after lie far apart for the encoder, whether a half or a quarter of a second is compared: the
half is surer of its place, and what comes and goes four times a second has the same mean on both sides of it. A moment
is a cell, or some cells that follow each other without a hard edge between them: a shot may have parts, and no moment
crosses a cut. What is shorter than half a second is a part of moments and none itself, unless it is all of a shot.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tvr_cli.stores.decoding.alike import HARD, STANDS_OUT, USUAL_S

AROUND_S = (0.25, 0.5)  # what is compared on both sides of an edge
SHORTEST_S = 0.5  # of a moment between soft edges
MOST_CELLS, LONGEST_S = 12, 8.0  # of a run
_ROWS = 4096


@dataclass(frozen=True)
class Track:
    """A film's frames that count, by time. unit: [n, D] float32. ts, until: [n] seconds, each frame from one to the
    other. hard: [n] bool, whether it begins behind a hard edge; the first one does. seen: [n] seconds at which it was
    looked at, between the two.
    """

    unit: np.ndarray
    ts: np.ndarray
    until: np.ndarray
    hard: np.ndarray
    seen: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        return self.until - self.ts

    @functools.cached_property
    def sums(self) -> np.ndarray:
        """[n + 1, D] what was seen up to each frame, weighed by its seconds."""
        seen = np.zeros((len(self.ts) + 1, self.unit.shape[1]))
        np.cumsum(self.unit * self.weight[:, None], 0, out=seen[1:])
        return seen


def track(
    frames: np.ndarray,
    ts: np.ndarray,
    change: np.ndarray,
    spans: Sequence[tuple[float, float]],
    *,
    looks: float | None = None,
) -> Track | None:
    """Return the part of a film that lies in `spans` (ascending, apart); None where there is none.

    frames: [n, D]. ts: [n] seconds. change: [n], `alike.Thinning`. looks: a second, see `begun`.
    """
    begins, hard = begun(ts, looks), cuts(ts, change)
    ends = np.append(begins[1:], max(spans[-1][1], float(ts[-1])))
    wanted = np.zeros(len(ts), bool)
    for start, stop in spans:
        inside = (begins < stop) & (ends > start)
        if not inside.any():
            continue
        begins[inside] = np.maximum(begins[inside], start)
        ends[inside] = np.minimum(ends[inside], stop)
        hard[int(np.flatnonzero(inside)[0])] = True  # what lies between two spans is not known
        wanted |= inside
    wanted &= ends > begins
    if not wanted.any():
        return None
    lengths = np.linalg.norm(frames[wanted], axis=1, keepdims=True)
    unit = np.divide(frames[wanted], lengths, out=np.zeros_like(frames[wanted]), where=lengths > 0)
    seen = np.clip(ts[wanted], begins[wanted], ends[wanted])
    return Track(unit.astype(np.float32), begins[wanted], ends[wanted], hard[wanted], seen)


def begun(ts: np.ndarray, looks: float | None) -> np.ndarray:
    """Return since when [n] what each frame of a film shows is taken to be there, in seconds.

    It came after the last look that showed something else, and by this one; where in between, no look says, and the
    middle errs least. ts: [n] seconds. looks: a second, where frames were left out that look like the one before: that
    one still stood a look ago. None = every look is here.
    """
    found = ts.astype(np.float64)
    found[1:] -= np.diff(ts) / 2 if looks is None else np.minimum(np.diff(ts), 1 / looks) / 2
    return found


def cuts(ts: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Return which frames [n] begin behind a cut. ts, change: as in `track`.

    What is usual is the median change of the frames a second before and after; those that were left out changed
    nothing. What stands just beside a much larger change is part of it: a cut is in one place.
    """
    changed = np.nan_to_num(change, nan=0.0)
    found = changed > HARD
    if len(ts) < 2:
        return found
    apart = np.diff(ts)
    # Frames that there may be a second. Where the file has fewer than are a multiple of the rate, the distance of two
    # that follow each other varies: 0.2 and 0.27 s at 4 of 15 a second.
    half = max(1, round(USUAL_S / float(apart[apart < 1.5 * apart.min()].mean())))
    for i in np.flatnonzero(found):
        first, last = np.searchsorted(ts, [ts[i] - USUAL_S - 1e-3, ts[i] + USUAL_S + 1e-3])
        around = np.sort(np.delete(changed[first:last], i - first))[::-1]
        usual = around[half - 1] if len(around) >= half else 0.0
        beside = changed[max(0, i - 1) : i + 2][np.abs(ts[max(0, i - 1) : i + 2] - ts[i]) < SHORTEST_S]
        found[i] = changed[i] > STANDS_OUT * usual and STANDS_OUT * changed[i] > beside.max()
    return found


def distances(track: Track) -> np.ndarray:
    """Return for each frame [n] how far apart lie what is seen just before it begins and just after, 1 - cosine.

    That is the larger one of what `AROUND_S` says to compare. 0 for the first frame, behind a hard edge, which is one
    already, and where one nearby lies further apart: of the frames around an edge only one is its place.
    """
    if len(track.ts) < 2:
        return np.zeros(len(track.ts))
    found = np.stack([_peaks(track, around) for around in AROUND_S]).max(0)
    return np.where(track.hard, 0.0, found)


def _peaks(track: Track, around: float) -> np.ndarray:
    """Return the distances [n] of so many seconds on both sides; 0 where one within half of that is larger."""
    far = np.concatenate([_apart(track, at, around) for at in _blocks(np.arange(len(track.ts)))])
    far[0] = 0.0
    return np.where(_beaten(far, track.ts, around / 2), 0.0, far)


def _apart(track: Track, at: np.ndarray, around: float) -> np.ndarray:
    """Return 1 - cosine [m] of what is seen just before and just after some frames begin."""
    here = track.sums[at]
    before = here - _upto(track, track.ts[at] - around)
    after = _upto(track, np.minimum(track.ts[at] + around, track.until[-1])) - here
    scale = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    return np.asarray(1 - np.divide((before * after).sum(1), scale, out=np.ones(len(at)), where=scale > 0))


def _beaten(far: np.ndarray, ts: np.ndarray, near_s: float) -> np.ndarray:
    """Return which frames [n] have one nearby, in seconds, where the distance is larger, or as large and before it."""
    found = np.zeros(len(far), bool)
    for k in range(1, len(far)):
        near = ts[k:] - ts[:-k] <= near_s + 1e-3
        if not near.any():
            break
        found[k:] |= near & (far[:-k] >= far[k:])
        found[:-k] |= near & (far[k:] > far[:-k])
    return found


def _upto(track: Track, at: np.ndarray) -> np.ndarray:
    """Return the weighted sums [m, D] of what was seen up to the seconds `at` [m]."""
    i = np.clip(np.searchsorted(track.ts, at, side="right") - 1, 0, len(track.ts) - 1)
    seen = np.clip(at - track.ts[i], 0.0, track.weight[i])
    return np.asarray(track.sums[i] + track.unit[i] * seen[:, None])


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield some rows at a time: in double precision all of a long film would take gigabytes."""
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]


def candidates(track: Track, soft: np.ndarray) -> np.ndarray:
    """Return the moments that there may be: [m, 2] int32, the first frame and the one behind the last.

    soft: [n] bool, which frames begin behind a soft edge.
    """
    edges = [0, *(np.flatnonzero((track.hard | soft)[1:]) + 1).tolist(), len(track.ts)]
    starts = [first for a, b in itertools.pairwise(edges) for first in _pieces(track, a, b)]
    ends = [*starts[1:], len(track.ts)]
    hard = {0, len(track.ts), *np.flatnonzero(track.hard).tolist()}
    found = []
    for i, first in enumerate(starts):
        for j in range(i, min(i + MOST_CELLS, len(starts))):
            lasts = track.until[ends[j] - 1] - track.ts[first]
            if j > i and (starts[j] in hard or lasts > LONGEST_S):
                break
            if lasts >= SHORTEST_S - 1e-3 or {first, ends[j]} <= hard:
                found.append((first, ends[j]))
    return np.array(found, dtype=np.int32)


def _pieces(track: Track, first: int, last: int) -> list[int]:
    """Return where the parts of a cell begin: one that lasts too long for a moment is cut at frames, evenly."""
    lasts = track.until[last - 1] - track.ts[first]
    if lasts <= LONGEST_S:
        return [int(first)]
    n = int(np.ceil(lasts / LONGEST_S))
    at = np.searchsorted(track.ts[first:last], track.ts[first] + lasts * np.arange(n) / n + 1e-9, side="right") - 1
    return [int(first + i) for i in np.unique(np.clip(at, 0, last - first - 1))]


def means(track: Track, moments: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, for some moments at a time, the direction [m, D] float32 of the mean of each one's frames, and the length
    [m] of that mean.
    """
    seconds = np.concatenate([np.zeros(1), np.cumsum(track.weight)])
    for some in _blocks(moments):
        first, last = some.T
        mean = (track.sums[last] - track.sums[first]) / (seconds[last] - seconds[first])[:, None]
        lengths = np.linalg.norm(mean, axis=1)
        unit = np.divide(mean, lengths[:, None], out=np.zeros_like(mean), where=lengths[:, None] > 0)
        yield unit.astype(np.float32), lengths.astype(np.float32)
