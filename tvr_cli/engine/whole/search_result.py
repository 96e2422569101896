"""What a search of settings (`tvr optimise`) has come to: its trials on validation, and the best of each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tvr_cli import commands
from tvr_cli.engine.whole import sweep_plan
from tvr_cli.engine.whole.sweep_plan import Found
from tvr_cli.engine.whole.sweep_result import Cell, PlannedWork, SweepHead
from tvr_cli.errors import DataError
from tvr_cli.results.base import OPTIONAL, Result
from tvr_cli.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial that is done. t2v_r1, rsum: of the kept weights, on validation. settings: what was drawn, {} of 0."""

    trial: int
    run: str
    t2v_r1: float
    rsum: float
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SearchRow:
    """The trials of a method with an encoder on a data set, best first. todo: neither done nor failed."""

    data: str
    method: str
    encoder: str
    done: int
    failed: int
    todo: int
    best: Trial | None
    trials: Sequence[Trial]


@dataclass(frozen=True, kw_only=True)
class OptimiseReport(Result):
    """What a search has come to. trials: of each method, the same for all. failures: a sentence each."""

    schema = "optimise"
    dry_run: Literal[False] = field(default=False, init=False)
    folder: Path
    trials: int
    seed: int
    rows: Sequence[SearchRow]
    failures: Sequence[str]
    seconds: float

    @property
    def failed(self) -> int:
        return sum(row.failed for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class PlannedTrials:
    """What would be tried of a method. ranges: path -> what is drawn from. first: the settings of the first draws."""

    method: str
    ranges: Mapping[str, str]
    first: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class OptimisePreview(Result):
    """What a search would do. todo: trials to train. steps, unknown, hours: as `tvr sweep --dry-run` has them."""

    schema = "optimise"
    dry_run: Literal[True] = field(default=True, init=False)
    folder: Path
    trials: int
    seed: int
    methods: Sequence[PlannedTrials]
    empty: Sequence[str] = field(default=(), metadata=OPTIONAL)
    todo: int
    steps: Sequence[PlannedWork]
    hours: float
    unknown: Sequence[str]


def rows_of(folder: Path, plan: SweepHead) -> list[SearchRow]:
    """Return the rows of a search.

    The best has the highest t2v R@1 on validation, of equal ones the highest rsum, of those the first.
    """
    states = [state for cell in plan.cells if (state := sweep_plan.state_of(folder, cell)).state != "empty"]
    rows = []
    for key in dict.fromkeys((s.cell.data, s.cell.method, s.cell.encoder) for s in states):
        own = [s for s in states if (s.cell.data, s.cell.method, s.cell.encoder) == key]
        done = [_trial(folder, s.cell, plan) for s in own if s.state == "done"]
        trials = sorted(done, key=lambda t: (-t.t2v_r1, -t.rsum, t.trial))
        data, method, encoder = key
        rows.append(
            SearchRow(
                data=data,
                method=method,
                encoder=encoder,
                done=len(trials),
                failed=sum(s.state == "failed" for s in own),
                todo=sum(s.state == "todo" for s in own),
                best=trials[0] if trials else None,
                trials=trials,
            )
        )
    return rows


def found_in(out: Workspace, name: str) -> Found:
    """Return what the search of a name found. Raises DataError where there is none, or a trial of it is not done."""
    folder = out.sweep_folder(name)
    plan = sweep_plan.require_plan(folder)
    if plan.search is None:
        raise DataError(f"expected a search of settings (tvr optimise) at {str(folder)!r}, found a sweep")
    rows = rows_of(folder, plan)
    if todo := sum(row.todo for row in rows):
        again = commands.tvr("optimise", ",".join(plan.methods), name=name)
        raise DataError(
            f"{todo} trials of the search {name!r} are not done, and the best of fewer is another budget than was "
            f"asked for; give the command that began it again: {again} …"
        )
    keys = {(row.data, row.method, row.encoder): row for row in rows}
    best = {key: row.best.settings for key, row in keys.items() if row.best is not None}
    return Found(best, {key: row.done for key, row in keys.items()})


def _trial(folder: Path, cell: Cell, plan: SweepHead) -> Trial:
    record = sweep_plan.record_of(folder, cell)
    assert plan.search is not None and cell.trial is not None and record is not None, "a search's, and it is done"
    if record.validation is None or len(record.validation) != 2:
        where = sweep_plan.record_path(folder, cell)
        raise DataError(f"{str(where)!r} says no result on validation; move it elsewhere, and the trial is done again")
    r1, rsum = record.validation
    settings = plan.search.settings[cell.method][cell.trial]
    return Trial(trial=cell.trial, run=cell.run, t2v_r1=r1, rsum=rsum, settings=settings)
