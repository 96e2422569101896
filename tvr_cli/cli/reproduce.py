"""`tvr reproduce`: a published experiment, from its data set to its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import commands
from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Assignments, Device, DryRun, Json, Offline, Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.whole.reproduce import ReproducePreview, ReproduceReport


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
    from tvr_cli.errors import ConfigError
    from tvr_cli.preset_loader import preset_path

    if recipe is None:
        from tvr_cli.engine.whole.recipes import recipes

        found = recipes()
        render.result(found, as_json, lambda: render.exact(found.recipes))
        return
    preset_path("recipes", recipe)
    if data is None:
        full = commands.tvr("reproduce", recipe, data="NAME:ROOT")
        raise ConfigError(f"say where the data set lies: {full}, or NAME:ROOT:VARIANT")
    from tvr_cli.engine.whole import reproduce as engine

    options = engine.ReproduceOptions(tuple(assignments or ()), device, offline, allow_missing, workers)
    if dry_run:
        plan = engine.plan(recipe, data, workspace, options)
        render.result(plan, as_json, lambda: _show_preview(plan))
        return
    report = engine.reproduce(recipe, data, workspace, options)
    render.result(report, as_json, lambda: _show(report))


def _show_preview(plan: ReproducePreview) -> None:
    from tvr_cli.engine.whole.reproduce import MeasuredStep

    asked = plan.experiment
    render.line(f"{asked.recipe}: {asked.method} on {asked.data.name} with {asked.backbone}")
    for number, step in enumerate(plan.steps, start=1):
        size = time = ""
        if isinstance(step, MeasuredStep):
            size = f", about {render.size(step.size_bytes)}"
            time = f", about {render.duration(step.seconds)}" if step.seconds else ""
        render.line(f"{number}. {step.step}: {step.does}{size}{time}")


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
