"""How sure an answer is where a moment head ranks: two lines as in `confidence.py`, of what the head reads. No torch.

A head reads what is done, which no frame shows alone, so these lines refuse what is there and does something else. A
moment's score is for this how much of what is said the head reads from it,

    1 - |p - (q - m)|^2 / |q - m|^2

p is what it reads, q the sentence, m the mean of all sentences: 1 where all of it is read, 0 where nothing is. The
cosine, which ranks, does not see how little is read: of a thing that stands still and goes, some of what flickers.

best    of each sentence of the bank its best score, over all moments but those of which no other sentence of the bank
        says more: a head tells the one from the next, so that only the first may be true
apart   the best score of sentences from outside of what the encoder knows

The lines are found out once an index and head, when a query first needs them, and remembered in the user's cache.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tvr_cli import log, user_cache
from tvr_cli.engine.searching import confidence, ranking
from tvr_cli.engine.searching.confidence import Confidence
from tvr_cli.stores.index.timeline import IndexedFilms
from tvr_cli.stores.moment_head import MomentHead

_KIND = "head-confidence"
_MOMENTS = 2048  # read at a time
_SAID_S = 2.0  # after which somebody who waited is told why
Vectors = Callable[[], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class HeadLines:
    """The lines of an index and a head."""

    lines: Confidence
    head: MomentHead

    def of(self, part: IndexedFilms, number: int, query: np.ndarray) -> float | None:
        """Return how sure a moment is, by its number, of a sentence, a unit vector [D]."""
        read = ranking.read(part, slice(number, number + 1), self.head)
        share = float(shares(read, (query - self.head.mean)[None])[0, 0])
        return self.lines.of(share, share)


def shares(read: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Return how much [n, m] of what is said is read. read: [m, D]. said: [n, D], sentences less the mean of all."""
    with np.errstate(all="ignore"):
        found = (2 * said @ read.T - (read**2).sum(1)) / (said**2).sum(1, keepdims=True)
    return np.asarray(found)


def recalled(films: Sequence[IndexedFilms], head: MomentHead, bank: str) -> HeadLines | None:
    """Return the lines of an index and a head that were found out before, None where there are none yet.

    bank: the hash of its sentences.
    """
    kept: Any = user_cache.recall(_KIND, _name(films, head, bank))
    if not isinstance(kept, dict):
        return None
    try:
        return HeadLines(Confidence(**kept), head)
    except TypeError:  # of another version
        return None


def found(films: Sequence[IndexedFilms], head: MomentHead, bank: str, vectors: Vectors) -> HeadLines:
    """Return the lines of an index and a head, found out now where they are not known yet.

    vectors: gives the unit vectors [n, D] of the bank's sentences, and those of sentences from outside.
    """
    if (known := recalled(films, head, bank)) is not None:
        return known
    began = time.monotonic()
    lines = _lines(films, head, *vectors())
    user_cache.keep(_KIND, _name(films, head, bank), asdict(lines))
    if (seconds := time.monotonic() - began) >= _SAID_S:
        log.logger.info("found out what the head reads of sentences that are not there, once, in %.0f s", seconds)
    return HeadLines(lines, head)


def _lines(films: Sequence[IndexedFilms], head: MomentHead, bank: np.ndarray, strange: np.ndarray) -> Confidence:
    bank, strange = bank - head.mean, strange - head.mean
    total = sum(int(part.live.sum()) for part in films)
    began = time.process_time()
    first = next(_read(films, head), None)
    if first is not None:
        shares(first, np.concatenate([bank, strange]))
    cost = (time.process_time() - began) / (1 if first is None else len(first)) * total
    bank, strange = (x[confidence.some_of(len(x), cost, confidence.LEAST_S)] for x in (bank, strange))
    best, top = np.full(len(bank), -np.inf), np.full(len(strange), -np.inf)
    for read in _read(films, head):
        scores = shares(read, bank)
        scores[scores.argmax(0), np.arange(len(read))] = -np.inf  # may be true
        best = np.maximum(best, scores.max(1, initial=-np.inf))
        top = np.maximum(top, shares(read, strange).max(1, initial=-np.inf))
    return confidence.drawn(best[np.isfinite(best)], top[np.isfinite(top)], total)


def _read(films: Sequence[IndexedFilms], head: MomentHead) -> Iterator[np.ndarray]:
    """Yield what a head reads [m, D] from moments that answers may be of, some at a time."""
    for part in films:
        for start in range(0, len(part.live), _MOMENTS):
            some = slice(start, start + _MOMENTS)
            read = ranking.read(part, some, head)[part.live[some]]
            yield read[np.isfinite(read).all(1)]


def _name(films: Sequence[IndexedFilms], head: MomentHead, bank: str) -> str:
    parts = [f"{part.segment.sha256} {hashlib.sha256(part.live.tobytes()).hexdigest()}" for part in films]
    return " ".join([head.sha256, bank, *parts])
