"""How an answer comes from scores: the best moments, some of each file, never overlapping. No torch.

Tensors and arrays of numpy do alike: both ways of searching (`search.py`, `light_search.py`) are made of this.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tvr_cli.engine.searching.way import Way, way_of
from tvr_cli.results.found import Hit
from tvr_cli.stores.index.segment import IndexedClip
from tvr_cli.stores.index.shortlist import in_order


@dataclass(frozen=True, slots=True)
class HeadWish:
    """Which moment head ranks moments by time. named: the folder of its run, None = the newest that fits. use: whether
    one does at all.
    """

    named: str | None = None
    use: bool = True


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """k moments an answer, per_file of one file at most (0 = all); with 1, an answer is k files.

    shortlist: clips that the method scores itself (None = what the index was built for). only: the ids of the files
    that an answer may be of, None = all; a shortlist knows nothing of it. min_confidence: what has less is not
    found, but among the nearest (`results.found.Answer`); None = everything is a hit. without: moments of files, by
    id, that no answer overlaps: what is asked with is not what was looked for. curves: whether hits have their file's
    curve. head: what ranks moments by time.
    """

    k: int = 10
    shortlist: int | None = None
    exhaustive: bool = False
    min_score: float | None = None
    per_file: int = 1
    only: frozenset[str] | None = None
    min_confidence: float | None = None
    without: tuple[tuple[str, Moment], ...] = ()
    curves: bool = False
    head: HeadWish = HeadWish()


@dataclass(frozen=True, slots=True)
class Moment:
    """Seconds of a file, found in a clip or on its timeline. peak: where it is found best."""

    start: float
    end: float
    peak: float

    def overlaps(self, other: Moment) -> bool:
        return self.start < other.end and other.start < self.end


@dataclass
class _OfFile:
    """What one file has in an answer. left_out: of those that score better than the last hit."""

    shown: list[Moment] = field(default_factory=list)
    left_out: list[Moment] = field(default_factory=list)


class Answering:
    """One answer on its way: takes moments, best first, until it is full.

    A moment that overlaps one of its file that scored better is that one again. Beyond `per_file` a file's moments are
    counted and not shown.
    """

    def __init__(self, options: SearchOptions):
        self._k, self._per_file, self._without = options.k, options.per_file, options.without
        self._files: dict[str, _OfFile] = {}
        self._hits: list[Hit] = []

    @property
    def is_full(self) -> bool:
        return len(self._hits) >= self._k

    def has_enough_of(self, file_id: str) -> bool:
        """Whether nothing more of a file can be shown."""
        return 0 < self._per_file <= len(self._files.get(file_id, _NOTHING).shown)

    def take(self, score: float, file_id: str, path: str, moment: Moment) -> None:
        """Show, count or drop the next best moment."""
        of = self._files.setdefault(file_id, _OfFile())
        if self.is_full or any(moment.overlaps(other) for other in (*of.shown, *of.left_out)):
            return
        if any(of_file == file_id and moment.overlaps(other) for of_file, other in self._without):
            return
        if self.has_enough_of(file_id):
            of.left_out.append(moment)
            return
        of.shown.append(moment)
        self._hits.append(Hit(len(self._hits) + 1, score, file_id, path, moment.start, moment.end, moment.peak))

    def hits(self) -> list[Hit]:
        """Return the answer."""
        return [replace(hit, more=len(self._files[hit.video_id].left_out)) for hit in self._hits]


_NOTHING = _OfFile()


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
    numbers: Any, clip_of: Callable[[int], IndexedClip], rows: Any, scores: np.ndarray, options: SearchOptions
) -> Iterator[tuple[int, IndexedClip]]:
    """Yield clips and their positions in `rows`, best first, down to the least score; one a file where that is asked.

    numbers, rows: [n] the number of each clip's file, and its row, tensors or arrays. Of equal clips the one with the
    smaller id comes first.
    """
    once = options.per_file == 1 and not options.without  # the best clip of a file may not count
    seen_numbers: set[int] = set()
    seen: set[str] = set()
    for score, group in itertools.groupby(in_order(scores), key=lambda position: float(scores[position])):
        if options.min_score is not None and not score >= options.min_score:
            return
        equal = [(position, int(numbers[position])) for position in group]
        new = [(p, number, clip_of(int(rows[p]))) for p, number in equal if number not in seen_numbers]
        for position, number, clip in sorted(new, key=lambda found: found[2].id):
            if not once:
                yield position, clip
                continue
            seen_numbers.add(number)
            if clip.file_id not in seen:  # a file may have a number in each segment of the index
                seen.add(clip.file_id)
                yield position, clip


def answer(
    best: Iterator[tuple[int, IndexedClip]],
    scores: np.ndarray,
    moments: Callable[[Sequence[tuple[int, IndexedClip]]], Sequence[Sequence[Moment]]],
    options: SearchOptions,
) -> list[Hit]:
    """Return the answer that clips give, best first. moments: finds those of each of some clips, best first."""
    found = Answering(options)
    while not found.is_full and (some := list(itertools.islice(best, options.k))):
        # Of a file that can show nothing more a clip is counted as it is: only what may be shown is looked into.
        open_ = [(p, clip) for p, clip in some if not found.has_enough_of(clip.file_id)]
        seen = dict(zip((p for p, _ in open_), moments(open_), strict=True)) if open_ else {}
        for position, clip in some:
            for moment in seen.get(position) or [Moment(clip.start, clip.end, clip.start)]:
                found.take(float(scores[position]), clip.file_id, clip.path, moment)
    return found.hits()


def moment_of(weights: Any, ts: Any, start: float, end: float) -> Moment:
    """Return the moment that a clip's frame weights point at; its peak is the frame with most of the weight.

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
    begins, ends = max(start, left), min(end, right)
    return Moment(begins, ends, min(max(begins, times[peak]), ends))


def time_span(weights: Any, ts: Any, start: float, end: float) -> tuple[float, float]:
    """Return the seconds that a clip's frame weights point at, as `moment_of` does."""
    found = moment_of(weights, ts, start, end)
    return found.start, found.end
