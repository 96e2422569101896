"""`tvr train`: train a method on a workspace's features, or continue a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tvr_cli.cli import render
from tvr_cli.cli.options import (
    DEFAULT_WORKSPACE,
    Assignments,
    Backbone,
    Device,
    DryRun,
    Json,
    MemoryBudget,
    Offline,
    Threads,
    Workspace,
)


def train(
    method: Annotated[str | None, typer.Option("--method", help="Method by name (tvr methods), or dotted.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="A published experiment, like gare-msrvtt.")] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="YAML file on top of the preset.")] = None,
    assignments: Assignments = None,
    run: Annotated[str | None, typer.Option("--run", help="Name of the run; default: the method's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run (--run, or the newest).")] = False,
    captions: Annotated[Path | None, typer.Option("--captions", help="captions.jsonl, if not beside videos.")] = None,
    backbone: Backbone = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Initial weights, order and noise depend on it.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1)] = None,
    tune: Annotated[
        str | None, typer.Option("--tune", help="head: backbone frozen, cached features. full: gradients reach it.")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes that decode frames for --tune full.")
    ] = None,
    memory_budget: MemoryBudget = "512MB",
    offline: Offline = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a method on a folder's features; the best weights on validation are kept, any run can be resumed.

    Example: tvr train --method glccl --epochs 10
    """
    from tvr_cli.engine import train as engine
    from tvr_cli.engine.score import parse_bytes

    flags = {
        "train.seed": seed, "train.epochs": epochs, "train.batch_size": batch_size, "train.tune": tune,
        "backbone.name": backbone,
    }  # fmt: skip
    options = engine.TrainOptions(
        run=run, resume=resume, captions=captions, device=device, offline=offline, threads=threads,
        workers=workers, memory_budget=parse_bytes(memory_budget),
    )  # fmt: skip
    resolved, options = engine.experiment_of(
        workspace, options, method=method, recipe=recipe, config_file=config_file, assignments=assignments, flags=flags
    )
    if dry_run:
        payload = engine.dry_run(resolved, workspace, options)
        render.result(payload, as_json, lambda: show_plan(payload))
        return
    result = engine.train(resolved, workspace, options)
    render.result(result, as_json, lambda: show(result))


def show(result: dict[str, Any]) -> None:
    """Print the end of a run: what was learned, where it lies, what to do next."""
    render.line(
        f"{result['method']} ({result['fidelity']}), run {result['run']!r}: {result['steps']} steps in "
        f"{render.duration(result['seconds'])}, {result['samples_per_s']:.0f} pairs a second"
    )
    best = result["best"]
    if best and "t2v" in best:
        columns = ("", "R@1", "R@5", "R@10", "MdR", "MnR")
        rows = [[side, *[best[side][c] for c in columns[1:]]] for side in ("t2v", "v2t")]
        render.table(f"best on {result['selected_on']}, step {best['step']}", columns, rows)
    render.line(f"kept in {result['path']}; next: tvr evaluate {result['run']}")


def show_plan(payload: dict[str, Any]) -> None:
    """Print a dry run: the store, every leaf with its origin, the parameter groups."""
    store = payload["store"]
    if store["exists"]:
        holds = f"{store['clips']} clips, {store['captions']} captions"
        render.line(f"features {store['fingerprint']} ({store['backbone']}): {holds}")
    else:
        render.line(f"needs features of {store['backbone']}, which do not exist yet; next: {store['next']}")
    if payload["pairs"]:
        render.line(f"{payload['pairs']} pairs an epoch, {payload['steps']} steps")
    shown = [leaf for leaf in payload["config"] if not leaf["path"].startswith("recipe.")]  # prose, in --json only
    leaves = [[leaf["path"], str(leaf["value"]), leaf["origin"]] for leaf in shown]
    render.table(
        f"{payload['method']} ({payload['fidelity']}), run {payload['run']!r}",
        ("leaf", "value", "origin"),
        leaves,
        left=3,
    )
    groups = [
        [g["group"], _rate(g["lr"]), _rate(g["weight_decay"]), g["tensors"], g["parameters"], ", ".join(g["names"][:2])]
        for g in payload["groups"]
    ]
    render.table("parameters", ("group", "lr", "weight decay", "tensors", "numbers", "first"), groups)


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"
