"""What `tvr table` prints: a row a method and encoder, folded over seeds, and its tests. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tvr_cli.results.base import INLINE, OPTIONAL, Result
from tvr_cli.results.metrics import Deviation, Metrics, Pair
from tvr_cli.significance import Comparison

ALPHA = 0.05


@dataclass(frozen=True)
class HolmTest:
    """A row against the baseline of its table, by a query's mean over seeds. p_holm: p corrected for all of a table."""

    found: Comparison = field(metadata=INLINE)
    p_holm: float

    @property
    def beats(self) -> bool:
        """Whether the row is better than the baseline, by a test that knows how many were made."""
        return self.found.difference > 0 and self.p_holm < ALPHA


@dataclass(frozen=True, kw_only=True)
class PublishedBeside:
    """The authors' t2v R@1 for the row's method, encoder and data set.

    gap: ours less theirs, None where it means nothing. differs: in what the row is another experiment than theirs.
    selected_on: how they chose their weights.
    """

    recipe: str
    t2v_r1: float
    selected_on: str
    gap: float | None
    differs: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A method with an encoder on a data set. seeds: of the runs that are there, () where nothing was trained.

    trials: how many its settings are the best of, by validation; None in a sweep that takes no search's.
    interval: side -> 95 % of R@1 over videos, the mean over seeds. against: the row that it is tested against, None of
    that row itself. pairs_per_second, train_seconds: the mean over seeds, on whatever machine each was.
    """

    row: str
    method: str
    encoder: str
    fidelity: str | None
    seeds: Sequence[int]
    trials: int | None = field(default=None, metadata=OPTIONAL)
    runs: Sequence[str]
    mean: Metrics
    deviation: Deviation
    interval: Mapping[str, Pair]
    against: str | None
    tests: Mapping[str, HolmTest]
    selected_on: str | None
    parameters: int | None
    index_bytes_per_clip: int | None
    pairs_per_second: float | None
    train_seconds: float | None
    published: Sequence[PublishedBeside]

    def bold(self, side: str) -> bool:
        """Whether R@1 of a side beats the baseline's."""
        return side in self.tests and self.tests[side].beats


@dataclass(frozen=True, kw_only=True)
class DataTable:
    """The rows of one data set and gallery. smallest: side -> points of R@1 that can be significant here."""

    data: str
    captions: int | None
    videos: int | None
    smallest: Mapping[str, float]
    rows: Sequence[TableRow]


@dataclass(frozen=True, kw_only=True)
class TableReport(Result):
    """The table of a sweep. left_out: a sentence for every cell without a number. plot: where it was drawn.

    cards: the folder that a card of each row was written to.
    """

    schema = "table"
    folder: Path
    baseline: str
    tables: Sequence[DataTable]
    left_out: Sequence[str]
    plot: Path | None = field(default=None, metadata=OPTIONAL)
    cards: Path | None = field(default=None, metadata=OPTIONAL)
