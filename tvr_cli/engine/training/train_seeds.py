"""One experiment under several seeds: train and evaluate a run of each, and report mean ± deviation.

The run of seed s is `NAME-seed<s>`. The same command again keeps runs that are finished, goes on with one that was
interrupted, and does the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from tvr_cli import log
from tvr_cli.config import Resolved
from tvr_cli.engine.evaluation import evaluate
from tvr_cli.engine.evaluation.evaluate_result import EvaluateReport
from tvr_cli.engine.training import checkpoint, train
from tvr_cli.engine.training.train import TrainOptions
from tvr_cli.engine.training.train_result import PlannedSeed, SeedRow, SeedsPreview, SeedsReport
from tvr_cli.errors import Interrupted
from tvr_cli.files import sha256_file
from tvr_cli.methods import base
from tvr_cli.results.base import read
from tvr_cli.results.metrics import Metrics, mean_and_deviation
from tvr_cli.runs import RunDir
from tvr_cli.version import __version__
from tvr_cli.workspace import Workspace

Resolve = Callable[[int], Resolved]  # the experiment with a seed


def train_seeds(resolve: Resolve, seeds: Sequence[int], workspace: Workspace, options: TrainOptions) -> SeedsReport:
    """Train and evaluate a run of each seed.

    options.run: what the runs' names begin with, None = the method's name. Raises what training and evaluation raise;
    Interrupted says that the same command goes on.
    """
    rows = [_one(resolve(seed), seed, workspace, options) for seed in seeds]
    experiment = resolve(seeds[0]).experiment
    by_split = {"validation": [row.validation for row in rows], "test": [row.test for row in rows]}
    whole = {split: found for split, all_of in by_split.items() if len(found := [m for m in all_of if m]) == len(rows)}
    folded = {split: mean_and_deviation(found) for split, found in whole.items()}
    return SeedsReport(
        tvr=__version__,
        method=experiment.method,
        fidelity=base.load_class(experiment.method).fidelity,
        tune=experiment.train.tune,
        selected_on=experiment.train.select_on,
        seeds=seeds,
        runs=rows,
        mean={split: mean for split, (mean, _) in folded.items()},
        deviation={split: deviation for split, (_, deviation) in folded.items()},
    )


def dry_run(resolve: Resolve, seeds: Sequence[int], workspace: Workspace, options: TrainOptions) -> SeedsPreview:
    """Return what `train_seeds` would do, writing nothing: the preview of the first seed, and what is there of each."""
    runs = {seed: run_of(workspace, resolve(seed), seed, options) for seed in seeds}
    first = dataclasses.replace(options, run=runs[seeds[0]].name)
    return SeedsPreview(
        first=train.dry_run(resolve(seeds[0]), workspace, first),
        seeds=seeds,
        runs=[PlannedSeed(seed, run.name, run.begun) for seed, run in runs.items()],
    )


def run_of(workspace: Workspace, resolved: Resolved, seed: int, options: TrainOptions) -> RunDir:
    """Return the run of a seed, whether it exists or not."""
    stem = options.run or resolved.experiment.method.rpartition(".")[2]
    return workspace.run(f"{stem}-seed{seed}")


def _one(resolved: Resolved, seed: int, workspace: Workspace, options: TrainOptions) -> SeedRow:
    """Train, go on with, or keep the run of one seed, evaluate it, and return its row."""
    run = run_of(workspace, resolved, seed, options)
    begun, before = run.begun, checkpoint.last_path(run.checkpoints)
    log.logger.info("seed %d: run %s", seed, run.name)
    try:
        # A finished run has no step left to do: going on with it changes nothing.
        summary = train.train(resolved, workspace, dataclasses.replace(options, run=run.name, resume=begun))
    except Interrupted as e:
        told = f"seed {seed}: {e.__cause__ or e}; give the same command again, and finished seeds are kept"
        raise Interrupted(told) from e
    path = checkpoint.best_path(run.checkpoints)
    best = checkpoint.read_about(path)["best"]
    return SeedRow(
        seed=seed,
        run=run.name,
        path=run.path,
        kept=begun and before == checkpoint.last_path(run.checkpoints),
        steps=summary.steps,
        seconds=summary.seconds,
        best_step=best["step"],
        validation=read(Metrics, best["metrics"], repr(str(path))) if best["metrics"] else None,
        test=_tested(run, resolved.experiment.method, workspace, options),
    )


def _tested(run: RunDir, method: str, workspace: Workspace, options: TrainOptions) -> Metrics | None:
    """Return a run's metrics on the test split as `tvr evaluate` gives and keeps them; None without such a split."""
    path = run.results / "test.json"
    kept = EvaluateReport.from_file(path) if path.is_file() else None
    if kept is not None and kept.subject.checkpoint == sha256_file(checkpoint.best_path(run.checkpoints)):
        return Metrics.of(kept.judged)
    scorer, store = evaluate.load(workspace, run=run.name, method=method, backbone=None)
    if len(store.split("test")) == 0:
        log.logger.warning("warning: the captions have no test split; only validation is reported")
        return None
    judged = evaluate.EvaluateOptions(device=options.device, memory_budget=options.memory_budget)
    return Metrics.of(evaluate.evaluate(scorer, store, workspace, judged).judged)
