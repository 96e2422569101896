"""Answering from films by time: every moment that there may be is scored, and the best are the answer. numpy alone.

What a moment's score is says `ranking.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tvr_cli.engine.searching import confidence, curves
from tvr_cli.engine.searching.confidence import MILD, Confidence
from tvr_cli.engine.searching.head_confidence import HeadLines
from tvr_cli.engine.searching.hits import Answering, Moment, SearchOptions
from tvr_cli.engine.searching.ranking import NULL_SHARE, SHARPNESS, Alike, Compared, Ranking
from tvr_cli.results.found import Curve, Hit
from tvr_cli.stores.index.segment import IndexedClip
from tvr_cli.stores.index.shortlist import in_order
from tvr_cli.stores.index.timeline import IndexedFilms

_SCORES = 2**22  # numbers of sentences x frames held at a time
_SLACK_S = 0.05  # that a moment may reach beyond its window
_LOOKED_AT = 2000  # moments, before films that have enough are left out
_PEAKS = 50  # moments of the library that windows are looked through for


def search(
    films: Sequence[IndexedFilms],
    queries: np.ndarray,
    options: SearchOptions,
    ranking: Ranking | None = None,
    lines: Confidence | HeadLines | None = None,
) -> list[list[Hit]]:
    """Answer questions, unit vectors [T, D], with their best moments, best first.

    ranking: None = by comparison with the bank. lines: by which confidence is told, those of a head where it ranks;
    None = it is not. Raises DataError where a hit is damaged on disk.
    """
    ranking = ranking or Compared()
    library = _Library.of(films, options.only)
    size = max(1, _SCORES // max(1, ranking.vectors * library.frames))
    answers: list[list[Hit]] = []
    with np.errstate(all="ignore"):  # a mean without length scores as no number, which comes last
        for start in range(0, len(queries), size):
            some = queries[start : start + size]
            tells: Iterable[Callable[[int], float | None] | None] = itertools.repeat(None)
            scores = np.concatenate([ranking.scores(part, some, among) for part, among in library.parts()], 1)
            if isinstance(lines, Confidence) and lines.why is None:
                tells = (_confidences(library, one, lines) for one in _cosines(films, some, scores, ranking))
            if isinstance(lines, HeadLines):
                tells = [_confidences_by_head(library, query, lines) for query in some]
            for query, one, told in zip(some, scores, tells, strict=False):
                answers.append(_answer(library, query, np.where(library.live, one, np.nan), options, ranking, told))
    return answers


class Finder:
    """Finds what films have of a file: the moments in a window, which a method that scores pairs has ranked, and frames
    by their seconds.
    """

    def __init__(self, films: Sequence[IndexedFilms], ranking: Ranking | None = None):
        self.films, self.ranking = films, ranking or Compared()
        self._where: dict[str, list[tuple[IndexedFilms, int]]] = {}
        for part in films:
            for file in np.unique(part.array("file")[part.live]).tolist():
                self._where.setdefault(part.segment.file_ids[file], []).append((part, file))

    def peaks(self, queries: np.ndarray, options: SearchOptions) -> list[list[Hit]]:
        """Return for each of some questions, unit vectors [T, D], the moments that would be the answer without windows,
        some more than are asked for and however many of one file.
        """
        wanted = SearchOptions(k=max(_PEAKS, options.k), per_file=0, only=options.only)
        return search(self.films, queries, wanted, self.ranking)

    def inside(self, clip: IndexedClip, query: np.ndarray, peaks: Sequence[Hit]) -> list[Moment]:
        """Return the moments of a window, best first: the best in it, and peaks, at least half of each in it.

        A peak may reach beyond the window, so that what two windows cut in two is one moment. query: a unit vector [D].
        """
        found = [(hit.score, Moment(hit.start, hit.end, hit.peak)) for hit in peaks if _mostly_in(hit, clip)]
        best = self._best(clip.file_id, clip.start, clip.end, query)
        if best is not None and not any(best[1].overlaps(moment) for score, moment in found if score >= best[0]):
            found.append(best)
        return [moment for _, moment in sorted(found, key=lambda one: -one[0])]

    def _best(self, file_id: str, start: float, end: float, query: np.ndarray) -> tuple[float, Moment] | None:
        """Return the best moment of a file between two seconds, and its score; None where it has none."""
        found: list[tuple[float, IndexedFilms, int]] = []
        for part, file in self._where.get(file_id, ()):
            number = np.arange(*np.searchsorted(part.array("file"), [file, file + 1]))
            first, last = part.array("moment")[number].T
            begins, ends = part.array("ts")[first], part.array("until")[last - 1]
            number = number[(begins >= start - _SLACK_S) & (ends <= end + _SLACK_S)]
            if len(number):
                scores = self.ranking.some(part, number, query)
                best = int(np.nan_to_num(scores, nan=-np.inf).argmax())
                found.append((float(scores[best]), part, int(number[best])))
        if not found:
            return None
        score, part, number_ = max(found, key=lambda one: one[0])
        frames = part.verified(number_)
        start, end = float(part.array("ts")[frames][0]), float(part.array("until")[frames][-1])
        return score, Moment(start, end, float(part.seen(frames)[_nearest(part, frames, query)]))

    def mean_between(self, file_id: str, start: float, end: float) -> np.ndarray | None:
        """Return the mean [D] of a file's frames between two seconds, verified; None where it has none there."""
        total, lasted = None, 0.0
        for part, file in self._where.get(file_id, ()):
            first, last = np.searchsorted(part.array("file"), [file, file + 1])
            moments = part.array("moment")[first:last]
            low, high = int(moments[:, 0].min()), int(moments[:, 1].max())
            begins = np.maximum(part.array("ts")[low:high], start)
            shown = np.clip(np.minimum(part.array("until")[low:high], end) - begins, 0.0, None)
            surely = shown * (part.seen(slice(low, high)) < end)  # what was seen later may not have been there yet
            shown = surely if surely.any() else shown
            if not shown.any():
                continue
            frames = np.flatnonzero(shown)
            part.segment.verify(part.of_frames, low + int(frames[0]), low + int(frames[-1]) + 1)
            seen = shown[frames] @ part.array("frames")[low + frames].astype(np.float32)
            total, lasted = seen if total is None else total + seen, lasted + float(shown.sum())
        return None if total is None else np.asarray(total / lasted, dtype=np.float32)


def _mostly_in(hit: Hit, clip: IndexedClip) -> bool:
    return (
        hit.video_id == clip.file_id
        and min(hit.end, clip.end) - max(hit.start, clip.start) >= (hit.end - hit.start) / 2
    )


def _nearest(part: IndexedFilms, frames: slice, query: np.ndarray) -> int:
    return int((part.array("frames")[frames].astype(np.float32) @ query).argmax())


@dataclass(frozen=True)
class _Library:
    """All moments of some segments, one after the other. file: [M] numbers, of each segment its own. frames: in all.

    live: [M] that an answer may be of, there: [M] that are in the index at all. starts: the number of each segment's
    first moment, and of all.
    """

    films: Sequence[IndexedFilms]
    file: np.ndarray
    live: np.ndarray
    there: np.ndarray
    frames: int
    starts: np.ndarray

    @staticmethod
    def of(films: Sequence[IndexedFilms], only: frozenset[str] | None) -> _Library:
        files, lives, before = [], [], 0
        for part in films:
            files.append(part.array("file").astype(np.int64) + before)
            before += part.segment.files
            lives.append(part.live)
            if only is not None:
                named = [number for number, name in enumerate(part.segment.file_ids.all()) if name in only]
                lives[-1] = part.live & np.isin(part.array("file"), named)
        live, there = np.concatenate(lives), np.concatenate([part.live for part in films])
        starts = np.cumsum([0, *(len(part.live) for part in films)])
        frames = sum(len(part.array("ts")) for part in films)
        return _Library(films, np.concatenate(files), live, there, frames, starts)

    def parts(self) -> Iterator[tuple[IndexedFilms, np.ndarray]]:
        """Yield each segment and which of its moments an answer may be of."""
        return zip(self.films, np.split(self.live, self.starts[1:-1]), strict=True)

    def at(self, number: int) -> tuple[IndexedFilms, int]:
        """Return the films that a moment is among, and its number there."""
        of = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self.films[of], number - int(self.starts[of])


def _cosines(films: Sequence[IndexedFilms], queries: np.ndarray, scores: np.ndarray, ranking: Ranking) -> np.ndarray:
    """Return the cosines [T, M] of sentences with the means of moments. scores: [T, M], of the ranking."""
    if isinstance(ranking, Compared):
        null = np.concatenate([part.array("null") for part in films])
        return np.asarray((scores + NULL_SHARE * null) / SHARPNESS)
    return np.concatenate([Alike(ranking.products).scores(part, queries) for part in films], 1)


def _confidences(library: _Library, cosines: np.ndarray, lines: Confidence) -> Callable[[int], float | None]:
    """Return what tells how sure a moment is, by its number. cosines: [M] of one sentence.

    What a filter left is held to the lines of the whole index.
    """
    apart = float(confidence.apart_of(cosines[library.live], np.nanmean(cosines[library.there])))

    def told(number: int) -> float | None:
        part, local = library.at(number)
        return lines.of(float(cosines[number]) - float(part.array("mild")[local]) / MILD, apart)

    return told


def _confidences_by_head(library: _Library, query: np.ndarray, lines: HeadLines) -> Callable[[int], float | None]:
    """Return what tells how sure a moment is, by its number, where a head ranks for one sentence [D]."""

    def told(number: int) -> float | None:
        part, local = library.at(number)
        return lines.of(part, local, query)

    return told


def _answer(
    library: _Library,
    query: np.ndarray,
    scores: np.ndarray,
    options: SearchOptions,
    ranking: Ranking,
    told: Callable[[int], float | None] | None,
) -> list[Hit]:
    """Take moments, best first; films that have enough are left out after every so many."""
    found, shown = Answering(options), dict[tuple[str, float, float], int]()
    rest = np.flatnonzero(scores >= (-np.inf if options.min_score is None else options.min_score))
    while len(rest) and not found.is_full:
        seen, full = 0, set[int]()
        for position in in_order(scores[rest]):
            seen += 1
            number = int(rest[position])
            part, local = library.at(number)
            file_id, path, start, end = part.span(local)
            shown[file_id, start, end] = number
            found.take(float(scores[number]), file_id, path, Moment(start, end, start))
            if found.has_enough_of(file_id):
                full.add(int(library.file[number]))
            if found.is_full or (full and seen >= _LOOKED_AT):
                break
        rest = rest[~np.isin(library.file[rest], list(full))] if seen < len(rest) else rest[:0]
    numbers = {hit: shown[hit.video_id, hit.start, hit.end] for hit in found.hits()}
    hits = [_peaked(hit, library, number, query) for hit, number in numbers.items()]
    if told is not None:
        hits = [replace(hit, confidence=told(number)) for hit, number in zip(hits, numbers.values(), strict=True)]
    if not options.curves:
        return hits
    low, high = curves.reach(scores[library.live])
    made: dict[str, Curve] = {}
    for hit, number in numbers.items():
        if hit.video_id not in made:
            part, local = library.at(number)
            ts, values = frame_scores(part, local, query, ranking)
            made[hit.video_id] = curves.thinned(ts, values, low, high)
    return [replace(hit, curve=made[hit.video_id]) for hit in hits]


def frame_scores(part: IndexedFilms, number: int, query: np.ndarray, ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds and the scores [n] of single frames of the film that a moment is of, verified."""
    file = part.array("file")
    of_file = slice(*np.searchsorted(file, [file[number], file[number] + 1]))
    part.segment.verify(part.of_moments, of_file.start, of_file.stop)
    moments = part.array("moment")[of_file]
    first, last = int(moments[:, 0].min()), int(moments[:, 1].max())
    part.segment.verify(part.of_frames, first, last)
    return part.seen(slice(first, last)), ranking.frames(part, of_file, query)


def _peaked(hit: Hit, library: _Library, number: int, query: np.ndarray) -> Hit:
    """Return a hit with the second of its nearest frame, verified."""
    part, local = library.at(number)
    frames = part.verified(local)
    return replace(hit, peak=float(part.seen(frames)[_nearest(part, frames, query)]))
