"""What `tvr mteb` prints: MTEB's numbers with tvr's own of the same scores beside them. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tvr_cli.results.base import OPTIONAL, Result

Direction = Literal["t2v", "v2t"]


@dataclass(frozen=True, kw_only=True)
class MtebTask:
    """A task of MTEB that tvr can take. dataset, revision: on the hub, as MTEB pins them."""

    task: str
    direction: Direction
    dataset: str
    revision: str
    splits: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class MtebScores:
    """One split and subset of a task. mteb, tvr: the same metrics by both countings, 0 to 1.

    tied: queries with a right answer that another one ties with: MTEB orders those by their ids, tvr takes the mean
    over all orders. unread: videos that could not be decoded, which no query finds. file: MTEB's result.
    """

    task: str
    split: str
    subset: str
    queries: int
    documents: int
    unread: int
    tied: int
    mteb: Mapping[str, float]
    tvr: Mapping[str, float]
    file: Path


@dataclass(frozen=True, kw_only=True)
class MtebReport(Result):
    """What was done. folder: MTEB's own, with `results/`. trained_on: MTEB's tasks on what the run was trained on."""

    schema = "mteb"
    dry_run: Literal[False] = field(default=False, init=False)
    folder: Path
    model: str
    revision: str
    trained_on: Sequence[str] | None = field(default=None, metadata=OPTIONAL)
    scores: Sequence[MtebScores]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class MtebPreview(Result):
    """What would be done: nothing was downloaded, and no video was looked at."""

    schema = "mteb"
    dry_run: Literal[True] = field(default=True, init=False)
    folder: Path
    model: str
    revision: str
    trained_on: Sequence[str] | None = field(default=None, metadata=OPTIONAL)
    tasks: Sequence[MtebTask]
