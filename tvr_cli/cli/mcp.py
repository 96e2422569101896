"""`tvr mcp`: the library for agents."""

from __future__ import annotations

from typing import Annotated

import typer

from tvr_cli.cli.options import DEFAULT_WORKSPACE, OWN_METHOD, Backbone, Device, Offline, Workspace


def mcp(
    workspace: Workspace = DEFAULT_WORKSPACE,
    run: Annotated[str | None, typer.Option("--run", help="Run whose scores rank the moments.")] = None,
    method: Annotated[
        str | None, typer.Option("--method", help=f"A method without training instead of a run; or: {OWN_METHOD}")
    ] = None,
    backbone: Backbone = None,
    device: Device = "auto",
    offline: Offline = False,
) -> None:
    """Let an agent search a library, by the Model Context Protocol on standard input and output.

    Example: tvr mcp -o out
    """
    from tvr_cli.server import agents
    from tvr_cli.server.library import Library, Named

    agents.serve(Library(workspace, Named(run, method, backbone, None, device, offline)))
