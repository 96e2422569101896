"""`tvr watch`: a workspace that keeps up with its videos."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import log
from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, OWN_METHOD, Backbone, Device, DryRun, Offline, Workspace
from tvr_cli.errors import ConfigError, PartialFailure

if TYPE_CHECKING:
    from tvr_cli.watching.status import WatchEvent, WatchStatus


def watch(
    videos: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders, video files, or manifests; default: those that the frames came from."),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    settle: Annotated[
        float, typer.Option("--settle", min=0.0, help="Read a file when it has stayed as it is for so many seconds.")
    ] = 2.0,
    poll: Annotated[
        float | None,
        typer.Option("--poll", min=0.1, help="Look every so many seconds, instead of waiting for the system's events."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processors that it may use; default: half of them.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Catch up with what is there, and end.")] = False,
    background: Annotated[bool, typer.Option("--background", help="Go on behind the shell.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Let the watcher of the workspace rest.")] = False,
    go_on: Annotated[bool, typer.Option("--continue", help="Let it go on.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End the watcher of the workspace.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Say what it does, and what failed.")] = False,
    for_backbone: Annotated[
        str | None,
        typer.Option("--for", metavar="BACKBONE", help="Of new frames: pictures that this backbone can use."),
    ] = None,
    segment: Annotated[
        str, typer.Option("--segment", help="As the frames were extracted: auto, none, or LENGTH/OVERLAP.")
    ] = "auto",
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="GLOB", help="Only files that match; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="No files that match; repeatable.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Follow links that lead out of the folders, too.")] = False,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Forget all videos that went before it was started, however many."),
    ] = False,
    run: Annotated[str | None, typer.Option("--run", help="Run whose scores rank; default: as `tvr query`.")] = None,
    method: Annotated[
        str | None, typer.Option("--method", help=f"A method without training instead of a run; or: {OWN_METHOD}")
    ] = None,
    backbone: Backbone = None,
    device: Device = "auto",
    offline: Offline = False,
    dry_run: DryRun = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: an object a line for every event.")] = False,
) -> None:
    """Keep a workspace up to date while videos come, change, move and go.

    Example: tvr watch videos/ --once
    """
    if once + background + pause + go_on + stop + status + dry_run > 1:
        raise ConfigError(
            "--once, --background, --pause, --continue, --stop, --status and --dry-run are seven things to do; "
            "give one of them"
        )
    from tvr_cli.watching import running
    from tvr_cli.watching import status as statuses

    if pause or go_on or stop or status:
        verb = running.pause if pause else running.go_on if go_on else running.stop if stop else statuses.read
        found = verb(workspace)
        doing = "told to pause" if pause else "told to go on" if go_on else ""
        render.result(found, as_json, lambda: _show(found, doing))
        return
    if background:
        named = {"--poll": poll, "--workers": workers, "--for": for_backbone, "--run": run, "--method": method,
                 "--backbone": backbone}  # fmt: skip
        words = [str(word) for flag, value in named.items() if value is not None for word in (flag, value)]
        globs = [("--include", include or ()), ("--exclude", exclude or ())]
        words += [word for flag, some in globs for glob in some for word in (flag, glob)]
        switches = {"--follow": follow, "--forget": forget, "--offline": offline, "--json": as_json}
        words += [flag for flag, on in switches.items() if on]
        words += ["-o", str(workspace), "--settle", str(settle), "--segment", segment, "--device", device]
        started = running.start(workspace, [*words, "--", *map(str, videos or ())])
        render.result(started, as_json, lambda: _show(started))
        return
    from tvr_cli.engine.extraction.extract import ExtractOptions
    from tvr_cli.engine.searching.asked import Asked
    from tvr_cli.watching.passes import Passes

    options = ExtractOptions(
        segment=segment, include=tuple(include or ()), exclude=tuple(exclude or ()), follow=follow, forget=forget,
    )  # fmt: skip
    passes = Passes(workspace, Asked(run, method, backbone), options, for_backbone, device, offline)
    if dry_run:
        from tvr_cli.cli.extract_frames import show_estimate

        show_estimate(running.preview(videos or (), passes), as_json)
        return
    parent = os.environ.get(running.PARENT, "")
    how = running.WatchOptions(poll, settle, workers, once, int(parent) if parent.isdecimal() else None)
    last = running.watch(videos or (), passes, how, lambda event: _tell(event, as_json))
    if once:
        _finish(last, as_json)


def _tell(event: WatchEvent, as_json: bool) -> None:
    """Say an event at once: as a line of JSON, or to people."""
    if as_json:
        render.at_once(event)
    elif event.did == "failed":
        log.logger.warning("%s", event.text)
    else:
        log.logger.info("%s", event.text)


def _finish(last: WatchStatus, as_json: bool) -> None:
    """Print what one catching up did. Exits with 5 when videos failed."""
    render.result(last, as_json, lambda: _show(last))
    if last.failed:
        raise typer.Exit(PartialFailure.exit_code)


def _show(found: WatchStatus, doing: str = "") -> None:
    if found.state == "none":
        render.line(f"no watcher of {found.workspace} runs")
        return
    if found.state == "ended" and not found.videos:
        render.line(f"stopped (process {found.pid})")
        return
    what = {"ended": "is up to date", "paused": "is watched, paused"}.get(found.state, f"is watched, {found.state}")
    render.line(f"{found.workspace} {what}{'' if found.state == 'ended' else f' (process {found.pid})'}")
    if doing:
        render.line(doing)
    if found.progress is not None:
        of = "" if found.progress.of is None else f" of {found.progress.of}"
        render.line(f"{found.progress.what}: {found.progress.done}{of}")
    clips = "no video yet" if found.clips is None else f"{render.count(found.clips, 'clip')} to search"
    render.line(f"{found.read} read, {found.renamed} renamed or moved, {found.forgotten} forgotten; {clips}")
    if found.settling:
        render.line(f"{render.count(found.settling, 'video')} still being written")
    for problem in found.problems:
        render.line(f"problem: {problem.what}: {problem.reason}")
    for failure in found.failures[:20]:
        render.line(f"failed: {failure.what}: {failure.reason}")
    if found.failed > 20:
        render.line(f"failed: … and {found.failed - 20} more")
