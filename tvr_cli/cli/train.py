"""`tvr train`: train a method on a workspace's features, or continue a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvr_cli import api, commands
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
from tvr_cli.errors import ConfigError

if TYPE_CHECKING:
    from tvr_cli.engine.searching.head_training import HeadPreview, HeadReport
    from tvr_cli.engine.training.train_result import SeedsPreview, SeedsReport, TrainPreview, TrainSummary
    from tvr_cli.results.metrics import Deviation, Metrics


def train(
    method: Annotated[str | None, typer.Option("--method", help="Method by name (tvr methods), or dotted.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="A published experiment, like gare-msrvtt.")] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="YAML file on top of the preset.")] = None,
    assignments: Assignments = None,
    moments: Annotated[
        bool, typer.Option("--moments", help="A head that ranks moments, from captions with start and end.")
    ] = False,
    run: Annotated[str | None, typer.Option("--run", help="Name of the run; default: the method's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run (--run, or the newest).")] = False,
    captions: Annotated[Path | None, typer.Option("--captions", help="captions.jsonl, if not beside videos.")] = None,
    backbone: Backbone = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Initial weights, order and noise depend on it.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="N,M", help="A run of each seed, evaluated on test; reports mean ± deviation."),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1)] = None,
    tune: Annotated[
        str | None, typer.Option("--tune", help="head: backbone frozen, cached features. full: gradients reach it.")
    ] = None,
    select_on: Annotated[
        str | None, typer.Option("--select-on", help="val, or test as many papers do: every result will say so.")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes that decode frames for --tune full.")
    ] = None,
    memory_budget: MemoryBudget = "512MB",
    gradients: Annotated[
        str | None, typer.Option("--gradients", help="exact, or authors: averaged over devices as CLIP4Clip's are.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option("--devices", min=1, help="Train on so many of this machine; the same numbers.")
    ] = None,
    offline: Offline = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a method on a folder's features; the best weights on validation are kept, any run can be resumed.

    Example: tvr train --method glccl --epochs 10
    """
    from tvr_cli.engine.training.train_result import SeedsReport, TrainSummary

    out = api.open_workspace(workspace)
    if moments:
        _require_alone(
            method=method, recipe=recipe, config=config_file, set=assignments, resume=resume, seeds=seeds,
            epochs=epochs, batch_size=batch_size, tune=tune, select_on=select_on, threads=threads, workers=workers,
            gradients=gradients, devices=devices,
        )  # fmt: skip
        head = out.train_moments(
            run=run, captions=captions, backbone=backbone, seed=seed or 0, device=device, offline=offline,
            dry_run=dry_run,
        )  # fmt: skip
        render.result(head, as_json, lambda: _show_head(head, workspace))
        return
    asked: dict[str, Any] = {
        "method": method, "recipe": recipe, "config": config_file, "set": assignments or (), "run": run,
        "captions": captions, "backbone": backbone, "epochs": epochs, "batch_size": batch_size, "tune": tune,
        "select_on": select_on, "gradients": gradients, "device": device, "threads": threads, "workers": workers,
        "memory_budget": memory_budget, "devices": devices, "offline": offline, "dry_run": dry_run,
    }  # fmt: skip
    if seeds is not None:
        if resume or seed is not None:
            raise ConfigError("--seeds names all seeds and goes on by itself; leave out --seed and --resume")
        several = out.train_seeds(seeds, **asked)
        rows = (
            (lambda: _show_seeds(several, workspace))
            if isinstance(several, SeedsReport)
            else lambda: _show_seeds_preview(several)
        )
        render.result(several, as_json, rows)
        return
    result = out.train(seed=seed, resume=resume, **asked)
    if not out.speaks:
        return
    human = (lambda: _show(result, workspace)) if isinstance(result, TrainSummary) else lambda: show_preview(result)
    render.result(result, as_json, human)


def _require_alone(**flags: Any) -> None:
    """Raise ConfigError where a flag that trains a method was given with --moments."""
    if given := [f"--{name.replace('_', '-')}" for name, value in flags.items() if value]:
        raise ConfigError(
            f"--moments is solved in one step and has no method, epochs or optimizer; leave out {', '.join(given)}"
        )


def _show_head(result: HeadReport | HeadPreview, workspace: Workspace) -> None:
    """Print what a moment head was, or would be, trained on, and how it does on what was held out."""
    if result.moments is None:
        of = f" of {result.backbone}" if result.backbone else ""
        render.line(f"would compute features{of} first, which are not there or not as new as their frames")
        render.line(f"would train run {result.run!r} on those of their captions that have times")
        return
    said = f"{render.count(result.moments, 'moment')} of {render.count(result.videos or 0, 'video')}"
    where = f"features {result.store} ({result.backbone}, {result.fps:g} frames a second)"
    if result.dry_run:
        render.line(f"would train run {result.run!r} on {said}, {where}")
        return
    render.line(f"run {result.run!r}: trained on {said}, {where}, in {render.duration(result.seconds)}")
    if (held := result.held_out) is not None:
        render.line(
            f"of {held.moments} moments of the validation split {held.first:.1f} % stand first for their sentence, "
            f"{held.first_without:.1f} % without the head"
        )
    render.line(f"kept in {result.path}; next: {commands.tvr('query', 'a dog surfing', workspace=workspace)}")


def _show_seeds(result: SeedsReport, workspace: Workspace) -> None:
    """Print what several seeds gave: a row each, then mean ± deviation, on validation and on test."""
    count = len(result.seeds)
    render.line(f"{result.method} ({result.fidelity}), {count} seeds, selected on {result.selected_on}")
    columns = ("seed", "t2v R@1", "R@5", "R@10", "MdR", "MnR", "v2t R@1", "R@5", "R@10", "rsum")
    for split, mean in result.mean.items():
        rows = [[str(row.seed), *_numbers(getattr(row, split))] for row in result.runs]
        if count > 1:
            pairs = zip(_numbers(mean), _numbers(result.deviation[split]), strict=True)
            rows.append(["mean ± deviation", *[f"{m:.1f} ± {d:.1f}" for m, d in pairs]])
        render.line()
        render.table(split, columns, rows)
    verb, named = ("compare", {}) if count > 1 else ("evaluate", commands.own_method(result.method))
    runs = [row.run for row in result.runs]
    render.line(f"next: {commands.tvr(verb, *runs, **named, workspace=workspace)}")


def _show_seeds_preview(preview: SeedsPreview) -> None:
    """Print the dry run of several seeds: the runs, then the preview of the first."""
    for row in preview.runs:
        render.line(f"seed {row.seed}: {row.run}{' (begun; goes on)' if row.begun else ''}")
    show_preview(preview.first)


def _numbers(found: Metrics | Deviation) -> list[float | None]:
    names = ("R@1", "R@5", "R@10")
    return [*(found.t2v[c] for c in (*names, "MdR", "MnR")), *(found.v2t[c] for c in names), found.rsum]


def _show(result: TrainSummary, workspace: Workspace) -> None:
    """Print the end of a run: what was learned, where it lies, what to do next."""
    render.line(
        f"{result.method} ({result.fidelity}), run {result.run!r}: {result.steps} steps in "
        f"{render.duration(result.seconds)}, {result.samples_per_s:.0f} pairs a second"
    )
    if result.best is not None and (found := result.best.metrics) is not None:
        columns = ("", "R@1", "R@5", "R@10", "MdR", "MnR")
        rows = [[side, *[values[c] for c in columns[1:]]] for side, values in (("t2v", found.t2v), ("v2t", found.v2t))]
        render.table(f"best on {result.selected_on}, step {result.best.step}", columns, rows)
    then = commands.tvr("evaluate", result.run, **commands.own_method(result.method), workspace=workspace)
    render.line(f"kept in {result.path}; next: {then}")


def show_preview(preview: TrainPreview) -> None:
    """Print a dry run: the store, every leaf with its origin, the parameter groups."""
    store = preview.store
    if store.exists:
        render.line(f"features {store.fingerprint} ({store.backbone}): {store.clips} clips, {store.captions} captions")
    else:
        render.line(f"needs features of {store.backbone}, which do not exist yet; next: {store.next}")
    if preview.pairs:
        render.line(f"{preview.pairs} pairs an epoch, {preview.steps} steps")
    shown = [leaf for leaf in preview.config if not leaf.path.startswith("recipe.")]  # prose, in --json only
    leaves = [[leaf.path, str(leaf.value), leaf.origin] for leaf in shown]
    render.table(
        f"{preview.method} ({preview.fidelity}), run {preview.run!r}",
        ("leaf", "value", "origin"),
        leaves,
        left=3,
    )
    groups = [
        [g.group, _rate(g.lr), _rate(g.weight_decay), g.tensors, g.parameters, ", ".join(g.names[:2])]
        for g in preview.groups
    ]
    render.line()
    render.table("parameters", ("group", "lr", "weight decay", "tensors", "numbers", "first"), groups)


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"
