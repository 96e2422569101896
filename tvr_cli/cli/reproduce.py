"""`tvr reproduce`: a published experiment, from its data set to its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Assignments, Device, DryRun, Json, Offline, Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.whole.recipes import RecipesReport
    from tvr_cli.engine.whole.reproduce import Experiment, ReproducePreview, ReproduceReport


def reproduce(
    recipe: Annotated[str | None, typer.Argument(help="Recipe, like gare-msrvtt-b32; nothing: list them.")] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME:ROOT[:VARIANT]", help="Where the data set lies.")
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    assignments: Assignments = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Go on with an incomplete data set; outputs carry the count.")
    ] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Videos read at once.")] = None,
    device: Device = "auto",
    offline: Offline = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Check a data set, extract, compute features, train and evaluate as a recipe says; started again, it continues.

    Example: tvr reproduce gare-msrvtt-b32 --data msrvtt:/data/MSRVTT --dry-run
    """
    from tvr_cli.engine.whole import recipes as engine

    found = engine.follow(
        recipe,
        data,
        workspace,
        assignments=assignments or (),
        device=device,
        offline=offline,
        allow_missing=allow_missing,
        workers=workers,
        dry_run=dry_run,
    )
    render.result(found, as_json, lambda: _show_any(found))


def _show_any(found: RecipesReport | ReproducePreview | ReproduceReport) -> None:
    from tvr_cli.engine.whole.recipes import RecipesReport

    if isinstance(found, RecipesReport):
        render.exact(found.recipes)
    elif found.dry_run:
        _show_preview(found)
    else:
        _show(found)


def _show_preview(preview: ReproducePreview) -> None:
    from tvr_cli.engine.whole.reproduce import MeasuredStep

    asked = preview.experiment
    render.line(f"{asked.recipe}: {asked.method} on {asked.data.name} with {asked.backbone}")
    for number, step in enumerate(preview.steps, start=1):
        size = time = ""
        if isinstance(step, MeasuredStep):
            size = f", about {render.size(step.size_bytes)}"
            time = f", about {render.duration(step.seconds)}" if step.seconds else ""
        render.line(f"{number}. {step.step}: {step.does}{size}{time}")
    _show_notes(asked)


def _show(report: ReproduceReport) -> None:
    from tvr_cli.cli.evaluate import show

    show(report.result)
    published = report.published
    if published is not None:
        ours = report.result.judged.t2v["R@1"]
        note = "" if published.exact else ", indicative: the revision of their code is unknown"
        render.line(
            f"published t2v R@1 {published.t2v_r1:.1f} (best epoch on {published.selected_on}{note}); "
            f"here {ours:.1f}, {ours - published.t2v_r1:+.1f}"
        )
    elif report.changed:
        render.line(f"not the published experiment; changed: {', '.join(report.changed)}")
    elif not report.experiment.reports:
        render.line("no published number is known for this recipe")
    _show_notes(report.experiment)


def _show_notes(experiment: Experiment) -> None:
    """Print what the authors' sources leave open."""
    if experiment.gpus:
        render.line(f"the authors trained on {experiment.gpus} GPUs")
    for note in experiment.notes:
        render.line(f"note: {note}")
