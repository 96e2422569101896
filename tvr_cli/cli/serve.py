"""`tvr serve`: the library in a browser on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, OWN_METHOD, Backbone, Device, Json, Offline, Workspace
from tvr_cli.errors import ConfigError

if TYPE_CHECKING:
    from tvr_cli.server.running import ServeReport


def serve(
    workspace: Workspace = DEFAULT_WORKSPACE,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; another than this machine's needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen at.")] = 8765,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", envvar="TVR_SERVE_TOKEN", help="What whoever asks must know; made where --host needs one."
        ),
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="Run whose scores rank the moments.")] = None,
    method: Annotated[
        str | None, typer.Option("--method", help=f"A method without training instead of a run; or: {OWN_METHOD}")
    ] = None,
    backbone: Backbone = None,
    clips: Annotated[
        Path | None,
        typer.Option("--clips", metavar="DIR", help="Where the page saves clips; default: clips/ in the workspace."),
    ] = None,
    watch: Annotated[
        list[Path] | None,
        typer.Option(
            "--watch", metavar="VIDEOS", help="Keep up with these videos, too, as `tvr watch` does; repeatable."
        ),
    ] = None,
    watch_workers: Annotated[
        int | None,
        typer.Option("--watch-workers", min=1, help="Processors for that; default: half of them."),
    ] = None,
    background: Annotated[bool, typer.Option("--background", help="Go on behind the shell.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End the server of the workspace.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Say whether one runs, and where.")] = False,
    device: Device = "auto",
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Search a library in the browser; queries of the same workspace are answered by it, too.

    Example: tvr serve --background
    """
    if background + stop + status > 1:
        raise ConfigError("--background, --stop and --status are three things to do; give one of them")
    if watch_workers is not None and not watch:
        raise ConfigError("--watch-workers is for --watch VIDEOS; give both, or neither")
    from tvr_cli.server import running

    if stop or status:
        report = running.stop(workspace) if stop else running.status(workspace)
        render.result(report, as_json, lambda: _show(report))
        return
    from tvr_cli.server.library import Named

    address = running.address_of(host, port, token)
    named = {"--run": run, "--method": method, "--backbone": backbone}
    words = [word for flag, value in named.items() if value is not None for word in (flag, value)]
    words += ["-o", str(workspace), "--device", device, *(["--offline"] if offline else [])]
    workers = [] if watch_workers is None else [str(watch_workers)]
    if background:
        words += ["--host", address.host, "--port", str(port)]
        words += [] if clips is None else ["--clips", str(clips)]
        words += [word for videos in watch or () for word in ("--watch", str(videos))]
        words += [word for number in workers for word in ("--watch-workers", number)]
        started = running.start(workspace, words, address.token, filled=bool(watch))
        render.result(started, as_json, lambda: _show(started))
        return
    words += [word for number in workers for word in ("--workers", number)]
    watched = [*words, "--", *map(str, watch)] if watch else None
    library = Named(run, method, backbone, None, device, offline)
    served = running.serve(workspace, library, address, clips, watched)
    if as_json:
        render.result(served, as_json, lambda: None)


def _show(report: ServeReport) -> None:
    if report.did == "nothing":
        render.line(f"no server of {report.workspace} runs")
    elif report.did == "stopped":
        render.line(f"stopped (process {report.pid})")
    else:
        render.line(f"{report.workspace} is served at {report.url} (process {report.pid})")
