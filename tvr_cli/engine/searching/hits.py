"""What an answer is, and how it comes from scores: the best clip of each file, and the seconds in it. No torch.

Tensors and arrays of numpy do alike: both ways of searching (`search.py`, `light_search.py`) are made of this.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tvr_cli.engine.searching.way import Way, way_of
from tvr_cli.results.base import OPTIONAL
from tvr_cli.stores.index.segment import IndexedClip
from tvr_cli.stores.index.shortlist import in_order


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer. start, end: seconds in the file at `path`; the span that the method's frame weights point at.

    missing: the file is not at `path` any more (renamed, moved or deleted since). channel: what found it: `picture`,
    `speech` or `both`. said: the words that were found, of the latter two.
    """

    rank: int
    score: float
    video_id: str
    path: str
    start: float
    end: float
    missing: bool = False
    channel: str = "picture"
    said: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """k files an answer; shortlist = clips that the method scores itself (None = what the index was built for)."""

    k: int = 10
    shortlist: int | None = None
    exhaustive: bool = False
    min_score: float | None = None


def stages(measured: Mapping[str, Any], clips: int, options: SearchOptions) -> Way:
    """Return the stages, with the width that was asked for; a shortlist of all clips needs no stage before it.

    measured: of an index of so many clips.
    """
    way = way_of(measured, clips)
    if options.exhaustive or (way.first == "every" and options.shortlist is None):
        return replace(way, shortlist=clips)
    if way.first == "every":
        way = replace(way, first="rough")  # a method without a rough score goes by coarse vectors
    # Several clips of one file are one answer, so a shortlist below k files would starve the second stage.
    width = max(options.shortlist or way.shortlist, options.k)
    return replace(way, shortlist=width, prefilter=max(way.prefilter, width) if way.prefilter else 0)


def of_files(width: int, k: int) -> int:
    """Return how many different files a stage of so many clips is to leave for an answer of k files."""
    return max(k, width // 2)


def best_clips(
    numbers: Any, clip_of: Callable[[int], IndexedClip], rows: Any, scores: np.ndarray, least: float | None
) -> Iterator[tuple[int, IndexedClip]]:
    """Yield the best clip of each file and its position in `rows`, best first, down to the score `least`.

    numbers, rows: [n] the number of each clip's file, and its row, tensors or arrays.
    """
    seen_numbers: set[int] = set()
    seen: set[str] = set()
    for score, group in itertools.groupby(in_order(scores), key=lambda position: float(scores[position])):
        if least is not None and not score >= least:
            return
        equal = [(position, int(numbers[position])) for position in group]
        new = [(p, number, clip_of(int(rows[p]))) for p, number in equal if number not in seen_numbers]
        for position, number, clip in sorted(new, key=lambda found: found[2].id):
            seen_numbers.add(number)
            if clip.file_id not in seen:  # a file may have a number in each segment of the index
                seen.add(clip.file_id)
                yield position, clip


def time_span(weights: Any, ts: Any, start: float, end: float) -> tuple[float, float]:
    """Return the seconds that a clip's frame weights point at.

    weights, ts: [n] of the real frames, tensors or arrays. The span is the contiguous frames around the peak with at
    least half its weight; each frame covers half-way to its neighbours, inside the clip (`start`..`end` seconds).
    """
    peak = int(weights.argmax())
    enough, times = (weights >= weights[peak] / 2).tolist(), ts.tolist()
    first = last = peak
    while first > 0 and enough[first - 1]:
        first -= 1
    while last + 1 < len(times) and enough[last + 1]:
        last += 1
    left = start if first == 0 else (times[first - 1] + times[first]) / 2
    right = end if last + 1 == len(times) else (times[last] + times[last + 1]) / 2
    return max(start, left), min(end, right)
