"""`tvr plot`: the curves of runs as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvr_cli import commands
from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Json, Workspace
from tvr_cli.errors import DataError


def plot(
    runs: Annotated[list[str] | None, typer.Argument(help="Runs by name or path; default: the newest.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Picture to write, .png, .svg or .pdf; default: RUN/curves.png.")
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Draw loss, validation recall, rates and gradient norms of one or several runs.

    Example: tvr plot glccl --out curves.svg
    """
    from tvr_cli.engine.showing.plot import plot as engine

    found = [workspace.find_run(name) for name in runs or []]
    if not found:
        newest = workspace.newest_run()
        if newest is None:
            train = commands.tvr("train", workspace=workspace)
            raise DataError(f"expected a run in {str(workspace.runs_folder)!r}, found none; train one: {train}")
        found = [newest]
    report = engine(found, out or found[0].path / "curves.png")
    render.result(report, as_json, lambda: render.line(str(report.path)))
