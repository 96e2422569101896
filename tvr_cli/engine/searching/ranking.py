"""How well moments of films fit what is asked. numpy alone.

`Compared`, without training: how well the sentence fits, less most of how well sentences in general do,

    50 cos(q, u) - 0.7 ln mean over the bank exp(50 cos(n, u))

u is the mean of a moment's frames, q the sentence, n a sentence of the bank. The second term does not depend on q and
is kept in the index. All of it is too much: a moment that no sentence fits, an empty picture, would win by what its
bank lacks, the more so the less the bank has of the library (docs/benchmarks.md). Taking off the median of the film's
moments as well was tried: it cost 5 points of R@1 on joined films of the toy world and gained 2 in one take; where a
film is short, it takes off the answer.

`Alike`, for pictures and moments, which are compared with frames as they are: the cosine alone. How well sentences fit
a moment says nothing of it.

`ByHead`: the cosine of what a head reads from a moment, p, and of the sentence less the mean of all, q - m. A head is
linear, p = sum of A_i x_i over the mean of the moment's frames and the frames in the middle of its thirds, so (q - m) p
is the sum of (A_i' (q - m)) x_i: four directions a sentence, looked for in the same frames by one scan. What remains is
the length of p, which no sentence changes: it is computed once an index and head, and remembered in the user's cache.
Without the length, and less the bank's sentences in the same space, films held out were answered worse.

Four directions cost twice what one does. So where a segment has more than `_ALL` moments, one direction is looked for
in all of its frames, the sum of the four, which gives the score if each frame of a moment were its mean; the best
`_SHARE` of the moments by it are scored by all four, and the others stand below these in the order that they have. What
that misses is measured (docs/benchmarks.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tvr_cli import user_cache
from tvr_cli.engine.searching.confidence import MILD
from tvr_cli.stores.index.timeline import IndexedFilms
from tvr_cli.stores.moment_head import PARTS, MomentHead

SHARPNESS = 50.0  # of cosines, before they are compared
NULL_SHARE = 0.7  # of what the bank says of a moment, that is taken off
_ROWS = 4096  # frames that are widened to float32 at a time
_ALL = 40_000  # moments of a segment that a head scores one and all
_SHARE, _LEAST = 0.05, 5_000  # of more: how many of them


class Products(Protocol):
    """What multiplies sentences with frames."""

    def __call__(self, part: IndexedFilms, queries: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the products [T, N] of sentences [T, D] with frames of a segment. rows: which, None = all of them."""


class Ranking(Protocol):
    """What scores moments for sentences. vectors: how many directions of a sentence are looked for in each frame."""

    @property
    def vectors(self) -> int: ...

    @property
    def products(self) -> Products:
        """What multiplies sentences with frames."""

    def scores(self, part: IndexedFilms, queries: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        """Return the scores [T, M] of all moments of a segment. queries: unit vectors [T, D].

        among: [M] bool, those that an answer may be of, None = all; the scores of others may be less exact.
        """

    def some(self, part: IndexedFilms, number: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Return the scores [m] of some moments of one film, by their numbers, for one sentence [D]."""

    def frames(self, part: IndexedFilms, film: slice, query: np.ndarray) -> np.ndarray:
        """Return how well each frame [n] of a film fits alone, from the first to the last of its moments.

        film: the numbers of these.
        """


def products(part: IndexedFilms, queries: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """See `Products`."""
    frames = part.array("frames")
    found = np.empty((len(queries), len(frames) if rows is None else len(rows)), np.float32)
    for start in range(0, found.shape[1], _ROWS):
        some = slice(start, start + _ROWS)
        block = frames[some if rows is None else rows[some]].astype(np.float32)
        found[:, start : start + len(block)] = queries @ block.T
    return found


def null_of(unit: np.ndarray, bank: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return what a bank says of moments [m]: ln of the mean of exp(50 cos), and of exp(25 cos), in which its best
    sentences count for less (`confidence.py`). unit: [m, D]. bank: [n, D], None = 0.
    """
    if bank is None or not len(unit):
        return np.zeros(len(unit), np.float32), np.zeros(len(unit), np.float32)
    parts = [unit[start : start + _ROWS] @ bank.T for start in range(0, len(unit), _ROWS)]
    sharp, mild = (np.concatenate([_of_bank(p, by) for p in parts]).astype(np.float32) for by in (SHARPNESS, MILD))
    return sharp, mild


def cosines_of(part: IndexedFilms, number: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the cosines [T, m] of sentences, unit vectors [T, D], with some moments of one film, by their numbers."""
    dots, first, last, seconds = _of_film(part, number, queries)
    return np.asarray(_mean(dots, first, last, seconds) / part.array("length")[number])


def _of_bank(products: np.ndarray, sharpness: float) -> np.ndarray:
    """Return ln of the mean of exp(sharpness x products [m, n]) for each moment."""
    top = products.max(1)
    return np.asarray(sharpness * top + np.log(np.exp(sharpness * (products - top[:, None])).mean(1)))


@dataclass(frozen=True)
class Alike:
    """The ranking of pictures and moments. products: as the function of that name; numpy widens half precision a tenth
    as fast as torch does.
    """

    products: Products = products

    vectors = 1

    def scores(self, part: IndexedFilms, queries: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(_means(part, self.products(part, queries)) / part.array("length"))

    def some(self, part: IndexedFilms, number: np.ndarray, query: np.ndarray) -> np.ndarray:
        dots, first, last, seconds = _of_film(part, number, query[None])
        with np.errstate(all="ignore"):
            return np.asarray(_mean(dots[0], first, last, seconds) / part.array("length")[number])

    def frames(self, part: IndexedFilms, film: slice, query: np.ndarray) -> np.ndarray:
        return np.asarray(_frames_of(part, film) @ query)


@dataclass(frozen=True)
class Compared:
    """The ranking of sentences without training. products: as in `Alike`."""

    products: Products = products

    vectors = 1

    def scores(self, part: IndexedFilms, queries: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(SHARPNESS * Alike(self.products).scores(part, queries) - NULL_SHARE * part.array("null"))

    def some(self, part: IndexedFilms, number: np.ndarray, query: np.ndarray) -> np.ndarray:
        return np.asarray(SHARPNESS * Alike().some(part, number, query) - NULL_SHARE * part.array("null")[number])

    def frames(self, part: IndexedFilms, film: slice, query: np.ndarray) -> np.ndarray:
        """See `Ranking`; the bank says of a frame what it says of the shortest moment that has it."""
        moments, null = part.array("moment")[film], part.array("null")[film]
        first, last = int(moments[:, 0].min()), int(moments[:, 1].max())
        said = np.full(last - first, np.nan)
        for i in np.argsort(moments[:, 0] - moments[:, 1], kind="stable"):  # the longest first
            said[moments[i, 0] - first : moments[i, 1] - first] = null[i]
        return np.asarray(SHARPNESS * Alike().frames(part, film, query) - NULL_SHARE * said)


def _frames_of(part: IndexedFilms, film: slice) -> np.ndarray:
    moments = part.array("moment")[film]
    return part.array("frames")[int(moments[:, 0].min()) : int(moments[:, 1].max())].astype(np.float32)


@dataclass(frozen=True, eq=False)
class ByHead:
    """The ranking of sentences by a head. products: as in `Alike`."""

    head: MomentHead
    products: Products = products
    _of: dict[str, _Looked] = field(default_factory=dict, init=False, repr=False, compare=False)

    vectors = PARTS

    def scores(self, part: IndexedFilms, queries: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        asked = self._asked(queries)  # [T, 4, D]
        if len(part.live) <= _ALL:
            dots = self.products(part, asked.reshape(-1, asked.shape[-1]))
            return self._of_all(part, dots.reshape(*asked.shape[:2], -1))
        found = _means(part, self.products(part, asked.sum(1))) / self._known(part).length
        for one, directions in zip(found, asked, strict=True):
            self._sharpen(one, part, directions, among)
        return np.asarray(found)

    def _of_all(self, part: IndexedFilms, dots: np.ndarray) -> np.ndarray:
        """Return the scores [T, M] of all moments. dots: [T, 4, N] products with all frames."""
        known, found = self._known(part), _means(part, dots[:, 0])
        for i, at in enumerate(known.thirds, 1):
            found += dots[:, i][:, at]
        return found / known.length

    def _sharpen(self, rough: np.ndarray, part: IndexedFilms, asked: np.ndarray, among: np.ndarray | None) -> None:
        """Score the best of rough scores [M] by all directions [4, D], in place; the others stand below, in order."""
        ranked = np.nan_to_num(rough if among is None else np.where(among, rough, -np.inf), nan=-np.inf)
        count = min(max(_LEAST, int(_SHARE * len(ranked))), int((ranked > -np.inf).sum()))
        if not count:
            return
        best = np.argpartition(-ranked, count - 1)[:count]
        exact = self._of_some(part, best, asked)
        rest = np.ones(len(rough), bool)
        rest[best] = False
        lowest, highest = (x[np.isfinite(x)] for x in (exact, rough[rest]))
        if len(lowest) and len(highest):
            rough[rest] += min(0.0, lowest.min() - highest.max())
        rough[best] = exact

    def _of_some(self, part: IndexedFilms, number: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Return the scores [m] of some moments of any films, by their numbers. asked: [4, D]."""
        known, seconds = self._known(part), part.array("until") - part.array("ts")
        first, last = np.clip(part.array("moment")[number], 0, len(seconds)).T
        at = known.thirds[:, number]
        begun = np.bincount(first, minlength=len(seconds) + 1) - np.bincount(last, minlength=len(seconds) + 1)
        needed = np.cumsum(begun)[:-1] > 0
        needed[at] = True
        rows = np.flatnonzero(needed)
        dots = self.products(part, asked, rows)
        first, last = np.searchsorted(rows, first), np.searchsorted(rows, last)
        found = _mean(dots[0], first, last, seconds[rows])
        for of, where in zip(dots[1:], np.searchsorted(rows, at), strict=True):
            found += of[where]
        return np.asarray(found / known.length[number])

    def some(self, part: IndexedFilms, number: np.ndarray, query: np.ndarray) -> np.ndarray:
        dots, first, last, seconds = _of_film(part, number, self._asked(query[None])[0])
        found = _mean(dots[0], first, last, seconds)
        for of, at in zip(dots[1:], thirds(first, last, seconds), strict=True):
            found += of[at]
        with np.errstate(all="ignore"):
            return np.asarray(found / self._known(part).length[number])

    def frames(self, part: IndexedFilms, film: slice, query: np.ndarray) -> np.ndarray:
        """See `Ranking`; a frame is read as a moment that shows nothing else."""
        read = _frames_of(part, film) @ self.head.weights.sum(0)
        less = query - self.head.mean
        with np.errstate(all="ignore"):
            return np.asarray(read @ less / (np.linalg.norm(read, axis=1) * np.linalg.norm(less)))

    def _asked(self, queries: np.ndarray) -> np.ndarray:
        """Return the directions [T, 4, D] that sentences are looked for in."""
        return np.einsum("idk,tk->tid", self.head.weights, self.head.asked(queries), optimize=True).astype(np.float32)

    def _known(self, part: IndexedFilms) -> _Looked:
        name = part.segment.sha256
        if name not in self._of:
            self._of[name] = _Looked(_thirds_of(part), self._lengths(part, name))
        return self._of[name]

    def _lengths(self, part: IndexedFilms, name: str) -> np.ndarray:
        """Return the length [M] of what the head reads from each moment of a segment."""
        kind, name = "moment-head", f"{name} {self.head.sha256}"
        kept = user_cache.recall_bytes(kind, name)
        if kept is not None and len(kept) == 4 * len(part.live):
            return np.frombuffer(kept, np.float32)
        found = _lengths(part, self.head)
        user_cache.keep_bytes(kind, name, found.tobytes())
        return found


@dataclass(frozen=True, eq=False)
class _Looked:
    """What a head needs of the moments of a segment besides products. thirds: [3, M] frames. length: [M], of p."""

    thirds: np.ndarray
    length: np.ndarray


def thirds(first: np.ndarray, last: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Return the frames [3, m] that are on screen in the middle of each third of moments.

    first, last: [m] the first frame of each and the one behind the last. seconds: [n] that each frame stands.
    """
    lasted = np.concatenate([np.zeros(1), np.cumsum(seconds)])
    middles = (np.arange(PARTS - 1)[:, None] + 0.5) / (PARTS - 1)
    at = np.searchsorted(lasted, lasted[first] + (lasted[last] - lasted[first]) * middles + 1e-9, side="right") - 1
    return np.clip(at, first, np.maximum(last - 1, first))


def _thirds_of(part: IndexedFilms) -> np.ndarray:
    seconds = part.array("until") - part.array("ts")
    first, last = np.clip(part.array("moment"), 0, len(seconds)).T
    return np.minimum(thirds(first, last, seconds), len(seconds) - 1)


def _lengths(part: IndexedFilms, head: MomentHead) -> np.ndarray:
    """Return the length [M] of what a head reads from each moment, some at a time, whose frames lie together."""
    found = np.empty(len(part.live), np.float32)
    for start in range(0, len(found), _ROWS):
        found[start : start + _ROWS] = np.linalg.norm(read(part, slice(start, start + _ROWS), head), axis=1)
    return found


def read(part: IndexedFilms, some: slice, head: MomentHead) -> np.ndarray:
    """Return what a head reads [m, D] from moments that follow each other, by their numbers."""
    moments = np.clip(part.array("moment")[some], 0, len(part.array("ts")))  # damage may lose a hit, and ends nothing
    first, last = moments.T
    low, high = int(first.min()), int(last.max())
    unit = part.array("frames")[low:high].astype(np.float32)
    seconds = part.array("until")[low:high] - part.array("ts")[low:high]
    mean = _mean(unit.T, first - low, last - low, seconds).T.astype(np.float32)
    found = mean @ head.weights[0]
    looked = np.minimum(thirds(first - low, last - low, seconds), len(seconds) - 1)
    for at, weights in zip(looked, head.weights[1:], strict=True):
        found += unit[at] @ weights
    return np.asarray(found)


def _means(part: IndexedFilms, products: np.ndarray) -> np.ndarray:
    """Return the means [T, M] over the frames of each moment, by their seconds, of products [T, N] with all frames."""
    seconds = part.array("until") - part.array("ts")
    first, last = np.clip(part.array("moment"), 0, len(seconds)).T  # damage may lose a hit, and ends nothing
    return _mean(products, first, last, seconds)


def _mean(products: np.ndarray, first: np.ndarray, last: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    sums = np.zeros((*products.shape[:-1], len(seconds) + 1))
    np.cumsum(products * seconds, -1, out=sums[..., 1:])
    lasted = np.concatenate([np.zeros(1), np.cumsum(seconds)])
    return np.asarray((sums[..., last] - sums[..., first]) / (lasted[last] - lasted[first]))


def _of_film(
    part: IndexedFilms, number: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return what some moments [m] of one film are scored by: the products [T, n] of sentences with the frames that
    they have, the first frame of each among these and the one behind the last, and how long each frame stands.
    """
    moments = part.array("moment")[number]
    low, high = int(moments.min()), int(moments.max())
    dots = queries @ part.array("frames")[low:high].astype(np.float32).T
    return dots, moments[:, 0] - low, moments[:, 1] - low, part.array("until")[low:high] - part.array("ts")[low:high]
