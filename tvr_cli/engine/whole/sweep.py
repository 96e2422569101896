"""`tvr sweep`: methods x encoders x data sets x seeds as one command that goes on where it was stopped.

A sweep is a folder: `sweep.json` (what it is), `cells/` (what became of each cell) and a workspace for each data set,
with one feature store an encoder and a run a cell. A cell is made by the functions of `tvr train` and `tvr evaluate`,
so that it is the single run. Everything is read off the folder: a sweep that was killed has nothing to repair.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tvr_kernels import gemm

from tvr_cli import files, log
from tvr_cli.config import Resolved
from tvr_cli.engine import scorers
from tvr_cli.engine.device import remember_trials
from tvr_cli.engine.evaluation import evaluate
from tvr_cli.engine.extraction import extract
from tvr_cli.engine.features import precompute
from tvr_cli.engine.training import train
from tvr_cli.engine.training.train import TrainOptions
from tvr_cli.engine.training.train_result import TrainSummary
from tvr_cli.engine.whole import sweep_cost
from tvr_cli.engine.whole.search_result import found_in
from tvr_cli.engine.whole.sweep_features import feature_options, frame_plan
from tvr_cli.engine.whole.sweep_plan import (
    Asked,
    Search,
    Table,
    keep_plan,
    kept_plan,
    record_path,
    require_same,
    state_of,
    table_of,
    workspace_of,
)
from tvr_cli.engine.whole.sweep_result import Cell, CellRecord, SweepHead, SweepPreview, SweepReport
from tvr_cli.errors import ConfigError, DataError, Interrupted, TvrError, reason
from tvr_cli.workspace import Workspace

_PATIENCE_S = 24 * 3600.0  # for another shard that makes the features of a data set


@dataclass(frozen=True)
class SweepOptions:
    """How to sweep. name: of its folder, None = the file's. jobs: cells at a time. shard: (i, n), from 1.

    threads: for each cell, None = as `tvr train` for one at a time, else the cores shared out. workers: readers of
    videos.
    """

    name: str | None = None
    jobs: int = 1
    shard: tuple[int, int] = (1, 1)
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    offline: bool = False


@dataclass(frozen=True)
class _Job:
    """One cell, ready to be done in this process or another."""

    folder: Path
    cell: Cell
    resolved: Resolved
    options: SweepOptions
    cpu_gemm: str


def sweep(
    file: Path | None,
    out: Workspace,
    *,
    methods: Sequence[str] = (),
    encoders: Sequence[str] = (),
    data: Sequence[str] = (),
    seeds: Sequence[str] = (),
    assignments: Sequence[str] = (),
    tuned: str | None = None,
    options: SweepOptions | None = None,
    search: Search | None = None,
    dry_run: bool = False,
) -> SweepReport | SweepPreview:
    """Do every cell that is not done, or (dry_run) say what that would be, writing nothing.

    tuned: the name of a search whose best settings the methods get. search: the cells are trials of settings, judged on
    validation alone (`optimise`).
    Failed cells are in the report and raise nothing; the next call tries them again. Raises ConfigError for what cannot
    be asked and for a sweep that is not the one in the folder, DataError for a data set that cannot be read,
    EnvironmentProblem while another sweep works in the folder, Interrupted when the user stops it.
    """
    options = options or SweepOptions()
    _check(options)
    folder = out.sweep_folder(options.name or (file.stem if file is not None else "sweep"))
    found = partial(found_in, out)
    table = table_of(Asked(file, methods, encoders, data, seeds, assignments, search, found, tuned))
    before = kept_plan(folder)
    if before is not None:
        require_same(before, table, folder)
    if dry_run:
        return _preview(folder, table, options)
    started = time.monotonic()
    with _alone(folder, options.shard):
        plan = _agreed(folder, table)
        kept = {cell for cell in table.cells if state_of(folder, cell).state == "done"}
        mine = [cell for cell in _shard(table.cells, options.shard) if cell not in kept and cell.lacks is None]
        _say_empty(table.cells)
        ready = _make_features(folder, table, mine, options)
        _do([_Job(folder, cell, table.resolved(cell), options, plan.cpu_gemm) for cell in ready], options)
    states = [state_of(folder, cell) for cell in table.cells]
    count = {name: sum(s.state == name for s in states) for name in ("done", "failed", "empty", "todo")}
    return SweepReport(folder=folder, cells=states, kept=len(kept), seconds=time.monotonic() - started, **count)


def _check(options: SweepOptions) -> None:
    i, n = options.shard
    if not 1 <= i <= n:
        raise ConfigError(f"--shard: expected I/N with I from 1 to N, such as 1/4, found {i}/{n}")
    if options.jobs < 1:
        raise ConfigError(f"--jobs: expected 1 or more, found {options.jobs}")


def _agreed(folder: Path, table: Table) -> SweepHead:
    """Return the plan of the sweep, written where it is new or larger: shards that begin together agree on one."""
    with files.lock(folder / "shards"):
        before = kept_plan(folder)
        remember_trials()
        plan = _plan(table, before.cpu_gemm if before else gemm.setting())
        if plan != before:
            keep_plan(folder, plan)
    return plan


def _plan(table: Table, cpu_gemm: str) -> SweepHead:
    asked = table.asked
    return SweepHead(
        methods=asked.methods,
        encoders=asked.encoders,
        data=asked.data,
        seeds=asked.seeds,
        settings=table.settings,
        baseline=table.baseline,
        cpu_gemm=cpu_gemm,
        cells=tuple(table.cells),
        search=table.search,
        tuned=table.tuned,
    )


def _preview(folder: Path, table: Table, options: SweepOptions) -> SweepPreview:
    states = [state_of(folder, cell) for cell in table.cells]
    mine = set(_shard(table.cells, options.shard))
    todo = [s.cell for s in states if s.state in ("todo", "failed") and s.cell in mine]
    steps, unknown = sweep_cost.estimate(folder, table, todo, device=options.device, workers=options.workers)
    return SweepPreview(
        folder=folder,
        cells=states,
        todo=len(todo),
        trains=sum(cell.seed is not None for cell in todo),
        steps=steps,
        size_bytes=sum(step.size_bytes or 0 for step in steps),
        hours=sum(step.seconds or 0.0 for step in steps) / 3600.0,
        unknown=unknown,
    )


def _shard(cells: Sequence[Cell], shard: tuple[int, int]) -> list[Cell]:
    """Return the cells of a shard: whole rows, so that the seeds of one method stay on one machine."""
    i, n = shard
    rows = list(dict.fromkeys((cell.data, cell.row) for cell in cells))
    mine = set(rows[i - 1 :: n])
    return [cell for cell in cells if (cell.data, cell.row) in mine]


@contextlib.contextmanager
def _alone(folder: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Hold a sweep's folder: a whole sweep keeps everybody out, a shard whole sweeps and the same shard."""
    i, n = shard
    with contextlib.ExitStack() as held:
        folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(files.lock(folder, wait_s=0.0, shared=n > 1))
        if n > 1:
            held.enter_context(files.lock(folder / "shards" / f"{i}-of-{n}", wait_s=0.0))
        yield


def _say_empty(cells: Sequence[Cell]) -> None:
    for told in dict.fromkeys(cell.lacks for cell in cells if cell.lacks is not None):
        log.logger.warning("warning: an empty cell: %s", told)


# ----------------------------------------------------------------------------------------------------------- features


def _make_features(folder: Path, table: Table, cells: Sequence[Cell], options: SweepOptions) -> list[Cell]:
    """Make frames once a data set and features once an encoder; return the cells that have what they need.

    An encoder that cannot be used, for want of its weights for example, fails its own cells.
    """
    ready: list[Cell] = []
    for corpus in table.corpora:
        of_data = [cell for cell in cells if cell.data == corpus.label]
        if not of_data:
            continue
        workspace = workspace_of(folder, corpus.label)
        with files.lock(workspace.root, wait_s=_PATIENCE_S):
            extract.extract(
                corpus.manifest, workspace, frame_plan(workspace, corpus, table.asked.encoders),
                extract.ExtractOptions(workers=options.workers),
            )  # fmt: skip
            for encoder in dict.fromkeys(cell.encoder for cell in of_data):
                own = [cell for cell in of_data if cell.encoder == encoder]
                try:
                    wanted = feature_options(table, corpus, encoder, device=options.device, offline=options.offline)
                    log.logger.info("features of %s on %s", encoder, corpus.label)
                    precompute.precompute(workspace, encoder, corpus.manifest, wanted)
                except Interrupted:
                    raise
                except TvrError as e:
                    for cell in own:
                        _keep(folder, cell, CellRecord(state="failed", reason=f"no features of {encoder}: {e}"))
                else:
                    ready += own
    return ready


# -------------------------------------------------------------------------------------------------------------- cells


def _do(jobs: Sequence[_Job], options: SweepOptions) -> None:
    """Do cells one after another, or several at a time in processes of their own."""
    if options.jobs == 1:
        for number, job in enumerate(jobs, start=1):
            log.logger.info("cell %d of %d: %s on %s", number, len(jobs), job.cell.run, job.cell.data)
            _run(job)
        return
    threads = options.threads or max(1, (os.cpu_count() or 1) // options.jobs)
    shared = dataclasses.replace(options, threads=threads)
    _do_at_once([dataclasses.replace(job, options=shared) for job in jobs], options.jobs)


def _do_at_once(jobs: Sequence[_Job], most: int) -> None:
    """Do cells in processes, `most` at a time. Raises Interrupted, when they have saved what they had, on Ctrl-C."""
    context: Any = multiprocessing.get_context("spawn")
    waiting = list(jobs)
    running: dict[Any, tuple[Any, _Job]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < most:
                job = waiting.pop(0)
                log.logger.info("cell %d of %d: %s", len(jobs) - len(waiting), len(jobs), job.cell.run)
                process = context.Process(target=_run_apart, args=(job,), name=job.cell.run)
                process.start()
                running[process.sentinel] = process, job
            for sentinel in wait(list(running)):
                process, job = running.pop(sentinel)
                process.join()
                if process.exitcode != 0:
                    told = f"its process ended with {process.exitcode} before it could say why"
                    _keep(job.folder, job.cell, CellRecord(state="failed", reason=told))
    except KeyboardInterrupt:
        for process, _ in running.values():
            process.terminate()  # a training saves and stops, as on Ctrl-C; what has nothing to save just ends
        for process, _ in running.values():
            process.join()
        raise Interrupted("the sweep was stopped; give the same command again, and finished cells are kept") from None


def _run_apart(job: _Job) -> None:
    """Do a cell in a process of its own, which ends when the sweep's does, however that ended."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C of a terminal reaches the sweep alone, which passes it on once: twice would be "at once"
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()
    with contextlib.suppress(Interrupted, KeyboardInterrupt):  # the sweep says so, once
        _run(job)


def _follow(sentinel: Any) -> None:
    """Wait for the end of another process, then end this one at once: what it was doing can be gone on with."""
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def _run(job: _Job) -> None:
    """Do a cell and keep what became of it. Raises Interrupted when the user stops it, and nothing else."""
    try:
        record = _cell(job)
    except Interrupted as e:
        told = f"{job.cell.run}: {e.__cause__ or e}; give the same command again, and finished cells are kept"
        raise Interrupted(told) from e
    except Exception as e:  # the one loop over cells: what one of them meets is told, and the others go on
        told = str(e) if isinstance(e, TvrError) else f"{type(e).__name__}: {reason(e)}"
        log.logger.error("failed: %s on %s: %s", job.cell.run, job.cell.data, told)
        _keep(job.folder, job.cell, CellRecord(state="failed", reason=told))
    else:
        _keep(job.folder, job.cell, record)


def _cell(job: _Job) -> CellRecord:
    """Train, where there is something to train, and evaluate on test; a trial never sees that."""
    cell, options = job.cell, job.options
    gemm.use(job.cpu_gemm)
    workspace = workspace_of(job.folder, cell.data)
    run, method, seconds = workspace.run(cell.run), job.resolved.experiment.method, None
    if cell.seed is not None:
        begun = run.begun
        summary = train.train(
            job.resolved, workspace,
            TrainOptions(
                run=cell.run, resume=begun, device=options.device, offline=options.offline, threads=options.threads,
                workers=options.workers,
            ),
        )  # fmt: skip
        seconds = None if begun else summary.seconds
        if cell.trial is not None:
            return CellRecord(state="done", train_seconds=seconds, validation=_validation(summary))
        scorer, store = evaluate.load(workspace, run=cell.run, method=method, backbone=None)
    else:
        store = workspace.features_for(cell.encoder)
        scorer = scorers.untrained_as(job.resolved, store)
    evaluate.evaluate(scorer, store, workspace, evaluate.EvaluateOptions(device=options.device, under=cell.run))
    return CellRecord(state="done", train_seconds=seconds)


def _validation(summary: TrainSummary) -> tuple[float, float]:
    """Return t2v R@1 and rsum of a run's kept weights on validation."""
    if summary.best is None or summary.best.metrics is None:
        raise DataError(f"the run {summary.run!r} has no result on validation to choose by")
    return summary.best.metrics.t2v["R@1"], summary.best.metrics.rsum


def _keep(folder: Path, cell: Cell, record: CellRecord) -> None:
    files.write_json(record_path(folder, cell), record.to_json())
