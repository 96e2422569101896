"""Answering from films by time: every moment that there may be is scored, and the best are the answer. numpy alone.

A moment's score is how much better the sentence fits it than sentences in general do:

    50 cos(q, u) - ln mean over the bank exp(50 cos(n, u))

u is the mean of its frames, q the sentence, n a sentence of the bank. The second term does not depend on q and is kept
in the index. A picture or a moment is compared with frames as it is, by the cosine alone: how well sentences fit says
nothing of it. Taking off the median of the film's moments as well was tried: it cost 5 points of R@1 on joined films of
the toy world and gained 2 in one take (docs/benchmarks.md); where a film is short, it takes off the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tvr_cli.engine.searching.hits import Answering, Hit, Moment, SearchOptions
from tvr_cli.stores.index.shortlist import in_order
from tvr_cli.stores.index.timeline import FRAMES, IndexedFilms

SHARPNESS = 50.0  # of cosines, before they are compared
_ROWS = 4096  # frames that are widened to float32 at a time
_SCORES = 2**22  # numbers of sentences x frames held at a time
_SLACK_S = 0.05  # that a moment may reach beyond its window
_LOOKED_AT = 2000  # moments, before films that have enough are left out


def null_of(unit: np.ndarray, bank: np.ndarray | None) -> np.ndarray:
    """Return what a bank says of moments [m]: ln of the mean of exp(50 cos). unit: [m, D]. bank: [n, D], None = 0."""
    if bank is None:
        return np.zeros(len(unit), np.float32)
    parts = [unit[start : start + _ROWS] @ bank.T * SHARPNESS for start in range(0, len(unit), _ROWS)]
    found = [top[:, 0] + np.log(np.exp(p - top).mean(1)) for p in parts for top in (p.max(1, keepdims=True),)]
    return np.concatenate([np.zeros(0), *found]).astype(np.float32)


Products = Callable[[IndexedFilms, np.ndarray], np.ndarray]


def products(part: IndexedFilms, queries: np.ndarray) -> np.ndarray:
    """Return the products [T, N] of sentences with all frames of a segment."""
    frames = part.array("frames")
    found = np.empty((len(queries), len(frames)), np.float32)
    for start in range(0, len(frames), _ROWS):
        block = frames[start : start + _ROWS].astype(np.float32)
        found[:, start : start + len(block)] = queries @ block.T
    return found


def search(
    films: Sequence[IndexedFilms],
    queries: np.ndarray,
    options: SearchOptions,
    products: Products = products,
    *,
    of_words: bool = True,
) -> list[list[Hit]]:
    """Answer questions, unit vectors [T, D], with their best moments, best first.

    products: as the function of that name; numpy widens half precision a tenth as fast as torch does. of_words: whether
    they are of sentences alone; others score by the cosine. Raises DataError where a hit is damaged on disk.
    """
    library = _Library.of(films, options.only)
    size = max(1, _SCORES // max(1, library.frames))
    answers: list[list[Hit]] = []
    with np.errstate(all="ignore"):  # a mean without length scores as no number, which comes last
        for start in range(0, len(queries), size):
            some = queries[start : start + size]
            cosines = [_cosines(part, products(part, some)) for part in films]
            if of_words:
                cosines = [SHARPNESS * c - part.array("null") for c, part in zip(cosines, films, strict=True)]
            scores = np.concatenate(cosines, 1)
            for query, one in zip(some, scores, strict=True):
                answers.append(_answer(library, query, np.where(library.live, one, np.nan), options))
    return answers


class Finder:
    """Finds what films have of a file: the best moment in a window, which a method that scores pairs has ranked, and
    frames by their seconds.
    """

    def __init__(self, films: Sequence[IndexedFilms]):
        self.films = films
        self._where: dict[str, list[tuple[IndexedFilms, int]]] = {}
        for part in films:
            for file in np.unique(part.array("file")[part.live]).tolist():
                self._where.setdefault(part.segment.file_ids[file], []).append((part, file))

    def best(self, file_id: str, start: float, end: float, query: np.ndarray) -> Moment | None:
        """Return the best moment of a file between two seconds; None where it has none. query: a unit vector [D]."""
        found: list[tuple[float, IndexedFilms, int]] = []
        for part, file in self._where.get(file_id, ()):
            number = np.arange(*np.searchsorted(part.array("file"), [file, file + 1]))
            first, last = part.array("moment")[number].T
            begins, ends = part.array("ts")[first], part.array("until")[last - 1]
            number = number[(begins >= start - _SLACK_S) & (ends <= end + _SLACK_S)]
            if len(number):
                scores = _score_some(part, number, query)
                best = int(np.nan_to_num(scores, nan=-np.inf).argmax())
                found.append((float(scores[best]), part, int(number[best])))
        if not found:
            return None
        _, part, number_ = max(found, key=lambda one: one[0])
        frames = part.verified(number_)
        ts, until = part.array("ts")[frames], part.array("until")[frames]
        return Moment(float(ts[0]), float(until[-1]), float(ts[_nearest(part, frames, query)]))

    def mean_between(self, file_id: str, start: float, end: float) -> np.ndarray | None:
        """Return the mean [D] of a file's frames between two seconds, verified; None where it has none there."""
        total, lasted = None, 0.0
        for part, file in self._where.get(file_id, ()):
            first, last = np.searchsorted(part.array("file"), [file, file + 1])
            moments = part.array("moment")[first:last]
            low, high = int(moments[:, 0].min()), int(moments[:, 1].max())
            begins = np.maximum(part.array("ts")[low:high], start)
            shown = np.clip(np.minimum(part.array("until")[low:high], end) - begins, 0.0, None)
            if not shown.any():
                continue
            frames = np.flatnonzero(shown)
            part.segment.verify(list(FRAMES), low + int(frames[0]), low + int(frames[-1]) + 1)
            seen = shown[frames] @ part.array("frames")[low + frames].astype(np.float32)
            total, lasted = seen if total is None else total + seen, lasted + float(shown.sum())
        return None if total is None else np.asarray(total / lasted, dtype=np.float32)


def _score_some(part: IndexedFilms, number: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the scores [m] of some moments of one film for one sentence."""
    moments = part.array("moment")[number]
    low, high = int(moments.min()), int(moments.max())
    seconds = part.array("until")[low:high] - part.array("ts")[low:high]
    dots = part.array("frames")[low:high].astype(np.float32) @ query
    sums = np.concatenate([np.zeros(1), np.cumsum(dots * seconds)])
    lasted = np.concatenate([np.zeros(1), np.cumsum(seconds)])
    first, last = moments[:, 0] - low, moments[:, 1] - low
    with np.errstate(all="ignore"):
        cosine = (sums[last] - sums[first]) / ((lasted[last] - lasted[first]) * part.array("length")[number])
    return np.asarray(SHARPNESS * cosine - part.array("null")[number])


def _nearest(part: IndexedFilms, frames: slice, query: np.ndarray) -> int:
    return int((part.array("frames")[frames].astype(np.float32) @ query).argmax())


@dataclass(frozen=True)
class _Library:
    """All moments of some segments, one after the other. file: [M] numbers, of each segment its own. frames: in all.

    starts: the number of each segment's first moment, and of all.
    """

    films: Sequence[IndexedFilms]
    file: np.ndarray
    live: np.ndarray
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
        live = np.concatenate(lives)
        starts = np.cumsum([0, *(len(part.live) for part in films)])
        return _Library(films, np.concatenate(files), live, sum(len(part.array("ts")) for part in films), starts)

    def at(self, number: int) -> tuple[IndexedFilms, int]:
        """Return the films that a moment is among, and its number there."""
        of = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self.films[of], number - int(self.starts[of])


def _cosines(part: IndexedFilms, products: np.ndarray) -> np.ndarray:
    """Return the cosines [T, M] with all moments of a segment. products: [T, N]."""
    seconds = part.array("until") - part.array("ts")
    sums = np.zeros((len(products), len(seconds) + 1))
    np.cumsum(products * seconds, 1, out=sums[:, 1:])
    lasted = np.concatenate([np.zeros(1), np.cumsum(seconds)])
    first, last = np.clip(part.array("moment"), 0, len(seconds)).T  # damage may lose a hit, and ends nothing
    return np.asarray((sums[:, last] - sums[:, first]) / ((lasted[last] - lasted[first]) * part.array("length")))


def _answer(library: _Library, query: np.ndarray, scores: np.ndarray, options: SearchOptions) -> list[Hit]:
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
    return [_peaked(hit, library, shown[hit.video_id, hit.start, hit.end], query) for hit in found.hits()]


def _peaked(hit: Hit, library: _Library, number: int, query: np.ndarray) -> Hit:
    """Return a hit with the second of its nearest frame, verified."""
    part, local = library.at(number)
    frames = part.verified(local)
    return replace(hit, peak=float(part.array("ts")[frames][_nearest(part, frames, query)]))
