"""`tvr doctor`: what is missing, before it costs an hour."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Json, Workspace


def doctor(
    target: Annotated[
        str | None, typer.Argument(help="Nothing: this machine. A folder or file: videos. NAME:ROOT: a data set.")
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    deep: Annotated[bool, typer.Option("--deep", help="Decode the videos instead of only opening them.")] = False,
    as_json: Json = False,
) -> None:
    """Check this machine, a folder of videos, or a data set, and say what to do about what is wrong.

    Example: tvr doctor
    """
    from tvr_cli.engine import doctor as engine

    checks = engine.examine(target, workspace, deep=deep)
    payload = engine.payload(checks, target or "environment")
    render.result(payload, as_json, lambda: _show(payload))
    if code := engine.exit_code(checks):
        raise typer.Exit(code)


def _show(payload: dict[str, Any]) -> None:
    for check in payload["checks"]:
        render.line(f"{'ok ' if check['ok'] else 'no '} {check['name']}: {check['detail']}")
        if check["fix"]:
            render.line(f"      {check['fix']}")
