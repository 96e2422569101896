"""`tvr import-checkpoint`: the authors' weights as a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import commands
from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Assignments, DryRun, Json, Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.whole.importer import ImportReport


def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="The authors' checkpoint: a state dict of torch, or safetensors.")],
    method: Annotated[str, typer.Option("--method", help="Method that the checkpoint is of.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    run: Annotated[str | None, typer.Option("--run", help="Name of the run; default: the file's.")] = None,
    assignments: Assignments = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a run from a checkpoint of a method's authors; its CLIP becomes a backbone inside the run.

    Example: tvr import-checkpoint pytorch_model.bin.4 --method eaglenet --run eaglenet-authors
    """
    from tvr_cli.engine.whole import importer

    report = importer.import_checkpoint(
        file, method, workspace, run=run, assignments=tuple(assignments or ()), dry_run=dry_run
    )
    render.result(report, as_json, lambda: _show(report, workspace))


def _show(report: ImportReport, workspace: Workspace) -> None:
    sizes = ", ".join(f"{name} {n}" for name, n in asdict(report.sizes).items() if n)
    render.line(f"{report.method} ({report.fidelity}), run {report.run!r}: {report.parameters:,} weights, {sizes}")
    if report.backbone:
        render.line(f"its CLIP: {report.backbone}")
    if report.dropped:
        render.line(f"{len(report.dropped)} names that nothing reads were dropped: {', '.join(report.dropped[:6])} …")
    if report.dry_run:
        render.line("the checkpoint fits; nothing was written")
        return
    then = commands.tvr("evaluate", report.run, workspace=workspace)
    render.line(f"next: {report.next}{commands.workspace_flag(workspace)}, then: {then}")
