"""`tvr sweep`: methods x encoders x data sets x seeds as one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import api, commands, log
from tvr_cli.cli import render
from tvr_cli.cli.options import (
    DEFAULT_WORKSPACE,
    Assignments,
    Device,
    DryRun,
    Json,
    Offline,
    Threads,
    Workspace,
)
from tvr_cli.errors import PartialFailure

if TYPE_CHECKING:
    from tvr_cli.engine.whole.sweep_result import SweepPreview, SweepReport


def sweep(
    file: Annotated[
        Path | None,
        typer.Argument(help="YAML with a section `sweep`; the rest holds for every cell. Or a shipped one: msrvtt."),
    ] = None,
    methods: Annotated[str | None, typer.Option("--methods", metavar="A,B", help="Methods by preset.")] = None,
    encoders: Annotated[str | None, typer.Option("--encoders", metavar="A,B", help="Backbones.")] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="NAME:ROOT[:VARIANT]", help="A data set; repeatable.")
    ] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", metavar="N,M", help="A run of each; default 0.")] = None,
    assignments: Assignments = None,
    tuned: Annotated[
        str | None, typer.Option("--tuned", metavar="NAME", help="Take the best settings of a search (tvr optimise).")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the sweep's folder below WORKSPACE/sweeps; default: the file's.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Cells at a time, each in a process of its own.")] = 1,
    shard: Annotated[
        str, typer.Option("--shard", metavar="I/N", help="Only the I-th of N parts of the cells.")
    ] = "1/1",
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Videos read at once.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    offline: Offline = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train and evaluate every method with every encoder on every data set; started again, it goes on.

    Example: tvr sweep msrvtt --data msrvtt:/data/MSRVTT --dry-run
    """
    found = api.open_workspace(workspace).sweep(
        file,
        methods=methods or (),
        encoders=encoders or (),
        data=data or (),
        seeds=seeds or (),
        set=assignments or (),
        tuned=tuned,
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
            "failed: %d of %s; the same command tries them again (exit code 5)",
            found.failed, render.count(len(found.cells), "cell"),
        )  # fmt: skip
        raise typer.Exit(PartialFailure.exit_code)


def _show(report: SweepReport, workspace: Workspace) -> None:
    for state in report.cells:
        if state.state in ("failed", "empty"):
            render.line(f"{state.state}: {state.cell.run} on {state.cell.data}: {state.reason}")
    render.line(
        f"{render.count(len(report.cells), 'cell')}: {report.done} done ({report.kept} of them kept), "
        f"{report.failed} failed, {report.empty} empty, {report.todo} to do, in {render.duration(report.seconds)}"
    )
    if report.done:
        render.line(f"kept in {report.folder}; next: {commands.tvr('table', report.folder.name, workspace=workspace)}")


def _show_preview(preview: SweepPreview) -> None:
    rows = [[s.cell.data, s.cell.run, s.state, s.reason or ""] for s in preview.cells]
    render.table(None, ("data", "run", "state", "why"), rows, left=4)
    render.line()
    for step in preview.steps:
        size = "" if step.size_bytes is None else f", about {render.size(step.size_bytes)}"
        time = "" if step.seconds is None else f", about {render.duration(step.seconds)}"
        render.line(f"{step.step}: {step.does}{size}{time}")
    render.line(
        f"{render.count(preview.todo, 'cell')} to do, {render.count(preview.trains, 'run')} to train; about "
        f"{render.size(preview.size_bytes)} and {preview.hours:.1f} hours of what is known"
    )
    for what in preview.unknown:
        render.line(f"not known: {what}")
