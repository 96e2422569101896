"""Repeating a run from what its folder says, and comparing the outcome to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tvr_cli import commands, config
from tvr_cli.engine import scorers
from tvr_cli.engine.training import checkpoint
from tvr_cli.engine.training.train import TrainOptions, train
from tvr_cli.engine.training.train import dry_run as train_dry_run
from tvr_cli.engine.training.train_result import RerunPreview, RerunReport
from tvr_cli.errors import DataError
from tvr_cli.files import sha256_file
from tvr_cli.runs import RunDir
from tvr_cli.workspace import Workspace

_COMPARED = ("tvr", "python", "platform", "versions", "git", "device", "devices", "threads", "cpu_gemm")


def rerun(
    run: str, workspace: Workspace, options: TrainOptions, method: str | None = None, *, dry_run: bool = False
) -> RerunReport | RerunPreview:
    """Train again with a run's configuration, features and settings, under a new name (options.run, else the first free
    one that begins with NAME-again), and compare; dry_run: say what would be trained, and write nothing.

    run: its name or path. method: the run's own, see `scorers.experiment_of`.
    Returns the summary of the new run, whether its weights are the same bytes, and what differs in the environment.
    Raises DataError for an unknown run, and when the first one has no weights to compare with.
    """
    first = workspace.find_run(run)
    if dry_run:
        resolved = scorers.experiment_of(first, method)
        return RerunPreview(of=first.name, train=train_dry_run(resolved, workspace, _again(first, options)))
    if not checkpoint.best_path(first.checkpoints).is_file():
        raise DataError(
            f"the run {first.name!r} has no weights to compare with; finish it: "
            + commands.tvr("train", resume=True, run=first.name, workspace=workspace)
        )
    resolved = scorers.experiment_of(first, method)
    summary = train(resolved, workspace, _again(first, options))
    second = workspace.run(summary.run)
    return RerunReport(
        of=first.name,
        identical=_digest(first) == _digest(second),
        environment=environment_differences(first.env(), second.env()),
        before=checkpoint.read_about(checkpoint.best_path(first.checkpoints))["best"],
        after=checkpoint.read_about(checkpoint.best_path(second.checkpoints))["best"],
        train=summary,
    )


def environment_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return path -> [before, now] of everything that may change numbers and is not the same."""
    old, new = (config.flatten({k: env.get(k) for k in _COMPARED}) for env in (before, now))
    return {k: [old.get(k), new.get(k)] for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)}


def _digest(run: RunDir) -> str:
    return sha256_file(checkpoint.best_path(run.checkpoints))


def _again(first: RunDir, options: TrainOptions) -> TrainOptions:
    """Return the options of a training like the first; its name is found and locked where every run's is."""
    devices = first.env().get("devices", 1)
    return dataclasses.replace(options, stem=f"{first.name}-again", like=first, devices=devices)
