"""`tvr doctor`: what is missing, before it costs an hour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Json, Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.whole.doctor import DoctorReport


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            help="Nothing: this machine. A workspace: its files. A folder or file: videos. NAME:ROOT: a data set."
        ),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    deep: Annotated[bool, typer.Option("--deep", help="Decode the videos instead of only opening them.")] = False,
    as_json: Json = False,
) -> None:
    """Check this machine, a workspace, a folder of videos, or a data set, and say what to do about what is wrong.

    Example: tvr doctor
    """
    from tvr_cli.engine.whole import doctor as engine

    report = engine.examine(target, workspace, deep=deep)
    render.result(report, as_json, lambda: _show(report))
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _show(report: DoctorReport) -> None:
    for check in report.checks:
        render.line(f"{'ok ' if check.ok else 'no '} {check.name}: {check.detail}")
        if check.fix:
            render.line(f"      {check.fix}")
