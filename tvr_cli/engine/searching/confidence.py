"""How sure an answer is: how rare a score like its own is among sentences that are not there. No torch.

Two lines at once, both made of sentences and of no label, for this index (`calibrate.py`):

best    a sentence's best score, when it is not there: of each sentence of the bank, over all moments but those that it
        may well be true of: it is among the best few of the bank there and, where frames rank, says nearly what the
        best one says (third best, but about something else, it is so by chance)
apart   how far the best lies above the mean of the sentence's own scores, when it is about nothing that can be seen:
        of sentences from outside of what the encoder knows

A moment's score is here, where the index ranks moments by their frames, the cosine less what the bank says of it in
general (`ranking.null_of`, the mild one), else what ranks it. Where a head ranks, both lines are its own
(`head_confidence.py`).

The confidence of a moment is the share of these that it exceeds, the smaller of the two. At 0.95 one in twenty
sentences about what is not there gets an answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tvr_cli import commands, log
from tvr_cli.results.found import Hit
from tvr_cli.workspace import Workspace

# Times cosines, before sentences are compared: half of what ranks, so that those that are nearly as good count, too.
MILD = 25.0
SAMPLED = 100  # clips that say what a sentence scores on average, where not all are scored
_STEPS = 100
_SHARE = 150  # one in so many sentences of the bank may be true of a moment
_NEAR = 31  # one in so many says nearly the same as another
ASKED, LEAST_S = 200, 3.0  # sentences of each kind that are asked in any case; seconds that asking them may take
MOST = 4096  # sentences of each kind, of a long bank too: which say nearly the same takes all of them against all
FEWEST, FEWEST_MOMENTS = 20, 30  # sentences of each kind, and moments: of fewer the best is no line to go by


@dataclass(frozen=True)
class Confidence:
    """What an index knows of the scores of sentences that are not there, see the module.

    moments: or windows, that it was found out with. sentences: of the bank; strange: from outside. best, apart: [101]
    the percentiles, None where nothing can be told, and why.
    """

    moments: int
    sentences: int
    strange: int
    best: Sequence[float] | None
    apart: Sequence[float] | None
    why: str | None

    def of(self, score: float, apart: float) -> float | None:
        """Return how sure a moment is. score: its own, apart: of its sentence; both as they were found out."""
        if self.best is None or self.apart is None:
            return None
        return min(_share(score, self.best), _share(apart, self.apart))


def _share(value: float, percentiles: Sequence[float]) -> float:
    """Return the share of what lies below a value."""
    found = float(np.interp(value, percentiles, np.linspace(0, 1, len(percentiles))))
    return found if np.isfinite(found) else 0.0


def of_index(measured: Mapping[str, Any]) -> Confidence | None:
    """Return what an index keeps of it, see `stores/index/head.py`; None of one that was made before."""
    kept = measured.get("confidence")
    return Confidence(**kept) if kept else None


def sure(hits: Sequence[Hit], found: Confidence, scores: Sequence[float], apart: float) -> list[Hit]:
    """Return hits with their confidence. scores: of each, as they were found out."""
    return [replace(hit, confidence=found.of(score, apart)) for hit, score in zip(hits, scores, strict=True)]


def say(found: Confidence | None, workspace: Workspace) -> None:
    """Say once where the index of a workspace cannot tell."""
    if found is None:
        again = commands.tvr("index", overwrite=True, workspace=workspace)
        log.say_once(f"answers have no confidence: the index was made without; {again} makes it again")
    elif found.why is not None:
        log.say_once(f"answers have no confidence: {found.why}")


def of_windows(
    found: Confidence | None, hits: Sequence[Hit], scores: np.ndarray, usual: np.ndarray | None
) -> list[Hit]:
    """Return the hits of one sentence with their confidence. scores: [n] of all windows that it may be of.

    usual: what it scores on average, None = the mean of these.
    """
    if found is None:
        return list(hits)
    apart = apart_of(scores, np.nanmean(scores) if usual is None else usual)
    return sure(hits, found, [hit.score for hit in hits], float(apart))


def apart_by(clips: int) -> int:
    """Return how many clips lie between two of those that say what is usual."""
    return max(1, -(-clips // SAMPLED))


def apart_of(scores: np.ndarray, usual: np.ndarray | np.floating) -> np.ndarray:
    """Return how far the best of a sentence's scores [..., n] lies above its mean [...]."""
    found = np.where(np.isnan(scores), -np.inf, scores).max(-1, initial=-np.inf)
    return np.asarray(found - usual)


class Tops:
    """The best scores of sentences on their way: scores of all of them come in, for some moments at a time.

    near: which sentences of the bank say nearly the same (`near_of`); None = all may be true together.
    """

    def __init__(self, bank: int, strange: int, near: np.ndarray | None = None):
        self._bank, self._near, self.moments = bank, near, 0
        self._best = np.full(bank, -np.inf)
        self._top, self._sum = np.full(strange, -np.inf), np.zeros(strange)

    def add(self, scores: np.ndarray, *, against: bool = False) -> None:
        """Take scores [bank + strange, m], sentences of the bank first.

        against: they are cosines, to be compared with what the bank says of the moment before they are (`evidence`).
        """
        scores = scores[:, np.isfinite(scores).all(0)].astype(np.float64)
        if not scores.shape[1]:
            return
        bank, strange = scores[: self._bank], scores[self._bank :]
        own = bank - usual_of(bank) if against else bank
        self._best = np.maximum(self._best, np.where(may_be_true(bank, self._near), -np.inf, own).max(1))
        self._top = np.maximum(self._top, strange.max(1))
        self._sum += strange.sum(1)
        self.moments += scores.shape[1]

    def lines(self) -> Confidence:
        """Return what was found out."""
        mean = self._sum / max(1, self.moments)
        return lines(self._best, self._top - mean, mean, self.moments)


def may_be_true(bank: np.ndarray, near: np.ndarray | None = None) -> np.ndarray:
    """Return which sentences of a bank [n, m] may be true of each moment: among its best few, and near to its best one.

    near: [n, n] of `near_of`, None = the best few all may.
    """
    few = max(1, len(bank) // _SHARE)
    found = bank >= least_true(bank) if len(bank) > few else np.ones(bank.shape, bool)
    return found if near is None else found & near[:, bank.argmax(0)]


def near_of(vectors: np.ndarray) -> np.ndarray:
    """Return which sentences say nearly what another says, [n, n]: itself and its nearest. vectors: unit, [n, D]."""
    alike = vectors @ vectors.T
    few = min(len(alike), max(1, len(alike) // _NEAR))
    least = np.partition(alike, len(alike) - few, axis=1)[:, len(alike) - few, None]
    return np.asarray(alike >= least - 1e-6)  # what is equally near but for rounding is near


def least_true(bank: np.ndarray) -> np.ndarray:
    """Return the score [m] from which a sentence of the bank [n, m] is among the best few of a moment."""
    few = min(len(bank), max(1, len(bank) // _SHARE))
    return np.asarray(np.partition(bank, len(bank) - few, axis=0)[len(bank) - few])


def usual_of(cosines: np.ndarray) -> np.ndarray:
    """Return how well sentences in general fit moments [m], by the cosines [n, m] of a bank."""
    top = cosines.max(0)
    return np.asarray(top + np.log(np.exp(MILD * (cosines - top)).mean(0)) / MILD)


def some_of(n: int, cost: float, seconds: float) -> np.ndarray:
    """Return which of n sentences there is time for, ascending. cost: what all of them would take, seconds.

    They are drawn: neighbours in a bank may be alike, and every eighth of them say the same thing each time.
    """
    count = min(n, MOST, max(ASKED, math.floor(n * max(seconds, LEAST_S) / max(cost, 1e-9))))
    return np.sort(np.random.default_rng(0).permutation(n)[:count])


def lines(best: np.ndarray, apart: np.ndarray, mean: np.ndarray, moments: int) -> Confidence:
    """Return the lines of sentences' best scores. best: [n], infinite where a sentence has no moment left.

    apart, mean: [n] of sentences from outside.
    """
    best, about = best[np.isfinite(best)], (moments, len(best), len(apart))
    if moments < FEWEST_MOMENTS:
        return cannot(f"it takes {FEWEST_MOMENTS} moments or windows to tell, and the index has {moments}", *about)
    if min(len(best), len(apart)) >= FEWEST and not float(np.median(apart)) > 1e-2 * float(np.std(mean)):
        return cannot("all of the index looks alike", *about)
    return drawn(best, apart, moments)


def drawn(best: np.ndarray, apart: np.ndarray, moments: int) -> Confidence:
    """Return lines as they are drawn of scores, finite all, of as many sentences as it takes to tell."""
    if len(best) < FEWEST or len(apart) < FEWEST:
        why = f"it takes {FEWEST} sentences to tell, and the bank has {min(len(best), len(apart))}"
        return cannot(why, moments, len(best), len(apart))
    steps = np.linspace(0, 1, _STEPS + 1)
    lines = (np.quantile(best, steps).tolist(), np.quantile(apart, steps).tolist())
    return Confidence(moments, len(best), len(apart), *lines, None)


def cannot(why: str, moments: int = 0, sentences: int = 0, strange: int = 0) -> Confidence:
    """Return that nothing can be told."""
    return Confidence(moments, sentences, strange, None, None, why)
