"""How well moments of films fit what is asked. numpy alone.

`Compared`, without training: how much better the sentence fits a moment than sentences in general do,

    50 cos(q, u) - ln mean over the bank exp(50 cos(n, u))

u is the mean of its frames, q the sentence, n a sentence of the bank. The second term does not depend on q and is kept
in the index. Taking off the median of the film's moments as well was tried: it cost 5 points of R@1 on joined films of
the toy world and gained 2 in one take (docs/benchmarks.md); where a film is short, it takes off the answer.

`Alike`, for pictures and moments, which are compared with frames as they are: the cosine alone. How well sentences fit
a moment says nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tvr_cli.stores.index.timeline import IndexedFilms

SHARPNESS = 50.0  # of cosines, before they are compared
MILD = SHARPNESS / 2  # with which sentences that are nearly as good count, too
_ROWS = 4096  # frames that are widened to float32 at a time
Products = Callable[[IndexedFilms, np.ndarray], np.ndarray]


class Ranking(Protocol):
    """What scores moments for sentences. vectors: how many directions of a sentence are looked for in each frame."""

    @property
    def vectors(self) -> int: ...

    @property
    def by_bank(self) -> bool:
        """Whether scores have the bank's term taken off, as those of `Compared`."""

    def scores(self, part: IndexedFilms, queries: np.ndarray) -> np.ndarray:
        """Return the scores [T, M] of all moments of a segment. queries: unit vectors [T, D]."""

    def some(self, part: IndexedFilms, number: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Return the scores [m] of some moments of one film, by their numbers, for one sentence [D]."""

    def frames(self, part: IndexedFilms, film: slice, query: np.ndarray) -> np.ndarray:
        """Return how well each frame [n] of a film fits alone, from the first to the last of its moments.

        film: the numbers of these.
        """


def products(part: IndexedFilms, queries: np.ndarray) -> np.ndarray:
    """Return the products [T, N] of sentences with all frames of a segment."""
    frames = part.array("frames")
    found = np.empty((len(queries), len(frames)), np.float32)
    for start in range(0, len(frames), _ROWS):
        block = frames[start : start + _ROWS].astype(np.float32)
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

    vectors, by_bank = 1, False

    def scores(self, part: IndexedFilms, queries: np.ndarray) -> np.ndarray:
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

    vectors, by_bank = 1, True

    def scores(self, part: IndexedFilms, queries: np.ndarray) -> np.ndarray:
        return np.asarray(SHARPNESS * Alike(self.products).scores(part, queries) - part.array("null"))

    def some(self, part: IndexedFilms, number: np.ndarray, query: np.ndarray) -> np.ndarray:
        return np.asarray(SHARPNESS * Alike().some(part, number, query) - part.array("null")[number])

    def frames(self, part: IndexedFilms, film: slice, query: np.ndarray) -> np.ndarray:
        """See `Ranking`; the bank says of a frame what it says of the shortest moment that has it."""
        moments, null = part.array("moment")[film], part.array("null")[film]
        first, last = int(moments[:, 0].min()), int(moments[:, 1].max())
        said = np.full(last - first, np.nan)
        for i in np.argsort(moments[:, 0] - moments[:, 1], kind="stable"):  # the longest first
            said[moments[i, 0] - first : moments[i, 1] - first] = null[i]
        return np.asarray(SHARPNESS * Alike().frames(part, film, query) - said)


def _frames_of(part: IndexedFilms, film: slice) -> np.ndarray:
    moments = part.array("moment")[film]
    return part.array("frames")[int(moments[:, 0].min()) : int(moments[:, 1].max())].astype(np.float32)


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
