"""`tvr optimise`: a random search of settings, on validation, with the same budget for every method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvr_cli import api, commands, log
from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Assignments, Device, DryRun, Json, Offline, Threads, Workspace
from tvr_cli.errors import PartialFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tvr_cli.engine.whole.search_result import OptimisePreview, OptimiseReport

_SHOWN = 5  # trials of a method; --json has all


def optimise(
    methods: Annotated[str, typer.Argument(metavar="METHOD[,METHOD]", help="Methods by preset.")],
    encoders: Annotated[str | None, typer.Option("--encoders", metavar="A,B", help="Backbones.")] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="NAME:ROOT[:VARIANT]", help="A data set; repeatable.")
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="Settings of each method; the first is its preset.")
    ] = 16,
    seed: Annotated[int, typer.Option("--seed", help="Of what is drawn.")] = 0,
    ranges: Annotated[
        Path | None, typer.Option("--ranges", help="YAML with what is searched, in place of what ships.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML as of tvr sweep: encoders, data, what holds for every trial.")
    ] = None,
    assignments: Assignments = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Of its folder below WORKSPACE/sweeps; default: search, or the file's.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Trials at a time, each in a process of its own.")] = 1,
    shard: Annotated[
        str, typer.Option("--shard", metavar="I/N", help="Only the I-th of N parts of the trials.")
    ] = "1/1",
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Videos read at once.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    offline: Offline = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Search the settings of methods at random, on validation alone; started again, it goes on.

    Example: tvr optimise xpool,wti --encoders demo-tiny --data demo:videos --trials 8 --dry-run
    """
    found = api.open_workspace(workspace).optimise(
        methods,
        encoders=encoders or (),
        data=data or (),
        trials=trials,
        seed=seed,
        ranges=ranges,
        config=config,
        set=assignments or (),
        name=name,
        jobs=jobs,
        shard=shard,
        workers=workers,
        device=device,
        threads=threads,
        offline=offline,
        dry_run=dry_run,
    )
    if found.dry_run:
        render.result(found, as_json, lambda: _show_preview(found))
        return
    render.result(found, as_json, lambda: _show(found, workspace))
    if found.failed:
        log.logger.warning(
            "failed: %s; the same command tries them again (exit code 5)", render.count(found.failed, "trial")
        )
        raise typer.Exit(PartialFailure.exit_code)


def _show(report: OptimiseReport, workspace: Workspace) -> None:
    for row in report.rows:
        rows = [[t.trial, _said(t.settings), f"{t.t2v_r1:.1f}", f"{t.rsum:.1f}"] for t in row.trials[:_SHOWN]]
        title = f"{row.method} with {row.encoder} on {row.data}: the best of {row.done}, by validation"
        render.table(title, ("trial", "settings", "t2v R@1", "rsum"), rows, left=2)
        left = [f"{n} {what}" for n, what in ((row.failed, "failed"), (row.todo, "to do")) if n]
        if left:
            render.line(f"{', '.join(left)} of {report.trials}")
    for told in report.failures:
        render.line(f"failed: {told}")
    if report.rows and not any(row.todo for row in report.rows):
        again = commands.tvr("sweep", tuned=report.folder.name, workspace=workspace)
        render.line(f"kept in {report.folder}; next, with the same methods, encoders and data: {again} …")


def _show_preview(preview: OptimisePreview) -> None:
    for method in preview.methods:
        rows = [[path, said] for path, said in method.ranges.items()]
        render.table(
            f"{method.method}: {preview.trials} trials, seed {preview.seed}", ("setting", "from"), rows, left=2
        )
        for settings in method.first:
            render.line(f"for example: {_said(settings)}")
    for told in preview.empty:
        render.line(f"an empty cell: {told}")
    for step in preview.steps:
        size = "" if step.size_bytes is None else f", about {render.size(step.size_bytes)}"
        render.line(f"{step.step}: {step.does}{size}")
    render.line(f"{render.count(preview.todo, 'trial')} to train; about {preview.hours:.1f} hours of what is known")
    for what in preview.unknown:
        render.line(f"not known: {what}")


def _said(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in settings.items()) or "the preset"
