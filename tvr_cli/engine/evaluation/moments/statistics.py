"""Numbers over queries: each takes how often a draw has each query, so that a bootstrap can ask for it again.

`weights` are [B, N], B draws of N queries; all ones is the number itself. A draw that has no value for it gives NaN.
numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tvr_cli.metrics import Floats


class Statistic(Protocol):
    """A number over queries."""

    def __call__(self, weights: Floats) -> Floats:
        """Return [B] values. weights: [B, N]."""
        ...

    @property
    def queries(self) -> int:
        """How many queries it is about."""
        ...


@dataclass(frozen=True)
class Mean:
    """The mean of values [N], in percent; NaN where a query does not count."""

    values: Floats
    scale: float = 100.0

    @property
    def queries(self) -> int:
        return int((~np.isnan(self.values)).sum())

    def __call__(self, weights: Floats) -> Floats:
        counts = ~np.isnan(self.values)
        held = np.where(counts, self.values, 0.0)
        return self.scale * _divided(weights @ held, weights @ counts.astype(np.float64))


@dataclass(frozen=True)
class Median:
    """The (lower) median of values [N]; NaN where a query does not count."""

    values: Floats

    @property
    def queries(self) -> int:
        return int((~np.isnan(self.values)).sum())

    def __call__(self, weights: Floats) -> Floats:
        order = np.argsort(self.values)[: self.queries]  # NaN comes last
        if not len(order):
            return np.full(len(weights), np.nan)
        reached = np.cumsum(weights[:, order], axis=1)
        half = reached[:, -1:] / 2
        middle = np.argmax(reached >= half, axis=1)
        return np.where(half[:, 0] > 0, self.values[order][middle], np.nan)


@dataclass(frozen=True)
class RejectionF1:
    """F1 in percent of saying no, the queries that are absent being what is looked for.

    absent, refused: [N], whether nothing answers a query, and whether it was answered with nothing.
    """

    absent: np.ndarray
    refused: np.ndarray

    @property
    def queries(self) -> int:
        return len(self.absent)

    def __call__(self, weights: Floats) -> Floats:
        right = weights @ (self.absent & self.refused).astype(np.float64)
        wrong = weights @ (self.absent != self.refused).astype(np.float64)
        return 100.0 * _divided(2 * right, 2 * right + wrong, empty=0.0)


@dataclass(frozen=True)
class Auroc:
    """The chance in percent that a query which is there has a higher score than one which is absent; a tie is half."""

    absent: np.ndarray
    score: Floats

    @property
    def queries(self) -> int:
        return len(self.absent)

    def __call__(self, weights: Floats) -> Floats:
        order = np.argsort(self.score, kind="stable")
        starts = np.flatnonzero(np.append(True, np.diff(self.score[order]) != 0))  # of each run of equal scores
        there, gone = (
            np.add.reduceat(weights[:, order] * side[order], starts, axis=1) for side in (~self.absent, self.absent)
        )
        below = np.cumsum(gone, axis=1) - gone / 2
        return 100.0 * _divided((there * below).sum(1), there.sum(1) * gone.sum(1))


def _divided(above: Floats, below: Floats, *, empty: float = np.nan) -> Floats:
    return np.divide(above, below, out=np.full(len(above), empty), where=below > 0)
