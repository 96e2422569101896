"""One experiment under several seeds: train and evaluate a run of each, and report mean ± deviation.

The run of seed s is `NAME-seed<s>`. The same command again keeps runs that are finished, goes on with one that was
interrupted, and does the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tvr_cli import log
from tvr_cli.config import Resolved
from tvr_cli.engine import evaluate, train
from tvr_cli.engine.train import TrainOptions
from tvr_cli.engine.training import checkpoint
from tvr_cli.errors import Interrupted
from tvr_cli.files import read_json, sha256_file
from tvr_cli.methods import base
from tvr_cli.runs import RunDir
from tvr_cli.version import __version__
from tvr_cli.workspace import Workspace

SCHEMA = "tvr/train-seeds@1"
Resolve = Callable[[int], Resolved]  # the experiment with a seed


def train_seeds(resolve: Resolve, seeds: Sequence[int], workspace: Workspace, options: TrainOptions) -> dict[str, Any]:
    """Train and evaluate a run of each seed, and return what `tvr train --seeds --json` prints.

    options.run: what the runs' names begin with, None = the method's name. Raises what training and evaluation raise;
    Interrupted says that the same command goes on.
    """
    rows = [_one(resolve(seed), seed, workspace, options) for seed in seeds]
    experiment = resolve(seeds[0]).experiment
    splits = [name for name in ("validation", "test") if all(row[name] is not None for row in rows)]
    return {
        "schema": SCHEMA,
        "tvr": __version__,
        "dry_run": False,
        "method": experiment.method,
        "fidelity": base.load_class(experiment.method).fidelity,
        "tune": experiment.train.tune,
        "selected_on": experiment.train.select_on,
        "seeds": list(seeds),
        "runs": rows,
        "mean": {name: fold([row[name] for row in rows], _mean) for name in splits},
        "deviation": {name: fold([row[name] for row in rows], _deviation) for name in splits},
    }


def dry_run(resolve: Resolve, seeds: Sequence[int], workspace: Workspace, options: TrainOptions) -> dict[str, Any]:
    """Return what `train_seeds` would do, writing nothing: the plan of the first seed, and what is there of each."""
    runs = {seed: run_of(workspace, resolve(seed), seed, options) for seed in seeds}
    first = dataclasses.replace(options, run=runs[seeds[0]].name)
    return {
        **train.dry_run(resolve(seeds[0]), workspace, first),
        "schema": SCHEMA,
        "seeds": list(seeds),
        "runs": [{"seed": seed, "run": run.name, "begun": run.config_path.is_file()} for seed, run in runs.items()],
    }


def run_of(workspace: Workspace, resolved: Resolved, seed: int, options: TrainOptions) -> RunDir:
    """Return the run of a seed, whether it exists or not."""
    stem = options.run or resolved.experiment.method.rpartition(".")[2]
    return workspace.run(f"{stem}-seed{seed}")


def fold(results: Sequence[Mapping[str, Any]], how: Callable[[Sequence[float]], float | None]) -> dict[str, Any]:
    """Fold the metrics of several results (`t2v`, `v2t`, `rsum`) into one, number by number."""
    folded: dict[str, Any] = {
        side: {k: how([r[side][k] for r in results]) for k in results[0][side]} for side in ("t2v", "v2t")
    }
    return {**folded, "rsum": how([r["rsum"] for r in results])}


def _one(resolved: Resolved, seed: int, workspace: Workspace, options: TrainOptions) -> dict[str, Any]:
    """Train, go on with, or keep the run of one seed, evaluate it, and return its row."""
    run = run_of(workspace, resolved, seed, options)
    begun, before = run.config_path.is_file(), checkpoint.last_path(run.checkpoints)
    log.logger.info("seed %d: run %s", seed, run.name)
    try:
        # A finished run has no step left to do: going on with it changes nothing.
        summary = train.train(resolved, workspace, dataclasses.replace(options, run=run.name, resume=begun))
    except Interrupted as e:
        told = f"seed {seed}: {e.__cause__ or e}; give the same command again, and finished seeds are kept"
        raise Interrupted(told) from e
    best = checkpoint.read_about(checkpoint.best_path(run.checkpoints))["best"]
    return {
        "seed": seed,
        "run": run.name,
        "path": str(run.path),
        "kept": begun and before == checkpoint.last_path(run.checkpoints),
        "steps": summary["steps"],
        "seconds": summary["seconds"],
        "best_step": best["step"],
        "validation": _metrics(best["metrics"]) if best["metrics"] else None,
        "test": _tested(run, resolved.experiment.method, workspace, options),
    }


def _tested(run: RunDir, method: str, workspace: Workspace, options: TrainOptions) -> dict[str, Any] | None:
    """Return a run's metrics on the test split as `tvr evaluate` gives and keeps them; None without such a split."""
    path = run.results / "test.json"
    if path.is_file() and read_json(path).get("checkpoint") == sha256_file(checkpoint.best_path(run.checkpoints)):
        return _metrics(read_json(path))
    scorer, store = evaluate.load(workspace, run=run.name, method=method, backbone=None)
    if len(store.split("test")) == 0:
        log.logger.warning("warning: the captions have no test split; only validation is reported")
        return None
    judged = evaluate.EvaluateOptions(device=options.device, memory_budget=options.memory_budget)
    return _metrics(evaluate.evaluate(scorer, store, workspace, judged))


def _metrics(result: Mapping[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("t2v", "v2t", "rsum")}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation, None of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
