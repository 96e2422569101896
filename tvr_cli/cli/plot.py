"""`tvr plot`: the curves of runs as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Json, Workspace


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
    from tvr_cli.engine.showing import plot as engine

    report = engine.plot_named(workspace, runs or [], out)
    render.result(report, as_json, lambda: render.line(str(report.path)))
