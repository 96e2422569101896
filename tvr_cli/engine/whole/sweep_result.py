"""What `tvr sweep` prints and keeps: its cells, what became of each, and its dry run. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tvr_cli.results.base import INLINE, OPTIONAL, Result, key

# todo: nothing is there, or a part. empty: cannot be, and why. elsewhere: of another shard, and not done.
State = Literal["todo", "done", "failed", "empty"]


@dataclass(frozen=True)
class Cell:
    """One method with one encoder on one data set under one seed. seed: None where nothing is trained.

    run: its name in the workspace of the data set. method: the preset. lacks: why it cannot be, None where it can.
    trial: its number in a search. trials: how many its settings are the best of, in a sweep that takes a search's.
    """

    method: str
    encoder: str
    data: str
    seed: int | None
    run: str
    lacks: str | None = field(default=None, metadata=OPTIONAL)
    trial: int | None = field(default=None, metadata=OPTIONAL)
    trials: int | None = field(default=None, metadata=OPTIONAL)

    @property
    def row(self) -> str:
        """What the runs of its seeds have in common."""
        return self.run if self.seed is None else self.run.removesuffix(f"-seed{self.seed}")


@dataclass(frozen=True, kw_only=True)
class CellRecord(Result):
    """What became of a cell, kept in `cells/DATA/RUN.json`. reason: of a failure.

    train_seconds: None where nothing was trained, or where training was interrupted and its whole time is not known.
    validation: t2v R@1 and rsum of the kept weights on validation, of a trial.
    """

    schema = "sweep-cell"
    state: Literal["done", "failed"]
    reason: str | None = field(default=None, metadata=OPTIONAL)
    train_seconds: float | None = None
    validation: Sequence[float] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class SearchHead:
    """A search of settings. trials: of each method. ranges: method -> path of a setting -> what is drawn from.

    settings: method -> what was drawn for each trial, in order.
    """

    trials: int
    seed: int
    ranges: Mapping[str, Mapping[str, str]]
    settings: Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class SweepHead(Result):
    """What a sweep is, kept in its `sweep.json`: two sweeps in one folder are one only where this is the same.

    settings: what else decides every cell, from the file and `--set`. cpu_gemm: the matrix product of all its cells.
    search: where its cells are trials. tuned: row -> path -> value that a search found, where it takes a search's.
    """

    schema = "sweep-plan"
    methods: Sequence[str]
    encoders: Sequence[str]
    data: Sequence[str]
    seeds: Sequence[int]
    settings: Mapping[str, Any]
    baseline: str
    cpu_gemm: str
    cells: Sequence[Cell]
    search: SearchHead | None = field(default=None, metadata=OPTIONAL)
    tuned: Mapping[str, Mapping[str, Any]] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class CellState:
    """A cell and what became of it. reason: of a failed or an empty one."""

    cell: Cell = field(metadata=INLINE)
    state: State
    reason: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class SweepReport(Result):
    """What a sweep has come to. cells = done + failed + empty + todo (of other shards); kept: done before this call."""

    schema = "sweep"
    dry_run: Literal[False] = field(default=False, init=False)
    folder: Path
    cells: Sequence[CellState]
    done: int
    kept: int
    failed: int
    empty: int
    todo: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PlannedWork:
    """A part of a sweep. size_bytes, seconds: None where they are not known; `does` says why."""

    step: str
    does: str
    size_bytes: int | None = field(metadata=key("bytes"))
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class SweepPreview(Result):
    """What a sweep would do. trains: how many of the cells to do train. hours: of what is known; unknown: the rest."""

    schema = "sweep"
    dry_run: Literal[True] = field(default=True, init=False)
    folder: Path
    cells: Sequence[CellState]
    todo: int
    trains: int
    steps: Sequence[PlannedWork]
    size_bytes: int = field(metadata=key("bytes"))
    hours: float
    unknown: Sequence[str]
