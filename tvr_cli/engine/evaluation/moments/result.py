"""What `tvr moments` prints: each number beside its interval and its query-blind priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tvr_cli.results.base import INLINE, Result
from tvr_cli.results.metrics import Pair


@dataclass(frozen=True, kw_only=True)
class JudgedTruth:
    """The truth that was judged by. absent: queries that nothing answers. queries: of all of them."""

    path: str
    format: str
    sha256: str
    queries: int
    absent: int
    moments: int
    videos: int


@dataclass(frozen=True, kw_only=True)
class JudgedAnswers:
    """What was judged: the workspace or the file that answered, and how many queries it answered with a moment."""

    path: str
    of: str
    answered: int


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number. of: whose counting it is, `tvr` = its own. unit: percent or seconds. value: None = no query has it.

    queries: how many it is about. priors: name -> the same number of answers that look at no query.
    """

    name: str
    of: str
    unit: str
    value: float | None
    interval: Pair | None
    queries: int
    priors: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """How intervals came about. unit: what was drawn again."""

    level: float
    unit: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class MomentsReport(Result):
    """Moments, judged. fitted_on: the file that query-blind windows were fitted on. notes: what to know beside it."""

    schema = "moments"
    tvr: str
    truth: JudgedTruth
    answers: JudgedAnswers
    measures: Sequence[Measure]
    fitted_on: str
    intervals: Drawn = field(metadata=INLINE)
    notes: Sequence[str] = ()
