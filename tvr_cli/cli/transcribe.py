"""`tvr transcribe`: write down what is said in the videos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import log
from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Device, DryRun, Json, Offline, Workspace, require_threads
from tvr_cli.errors import PartialFailure

if TYPE_CHECKING:
    from tvr_cli.engine.searching.transcribe import TranscribeReport

_TOLD = 20  # videos that were not heard and are told one by one


def transcribe(
    workspace: Workspace = DEFAULT_WORKSPACE,
    model: Annotated[
        str, typer.Option("--model", help="Whisper model: tiny to large-v3, a repository of the hub, or a folder.")
    ] = "small",
    language: Annotated[
        str | None, typer.Option("--language", help="Language that is spoken, such as en; default: guessed by file.")
    ] = None,
    beside: Annotated[
        bool, typer.Option("--beside", help="Write FILM.LANGUAGE.srt beside each video, not into the workspace.")
    ] = False,
    device: Device = "auto",
    offline: Offline = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write down what is said in the videos, as subtitles that a query searches. Needs the extra [speech].

    Example: tvr transcribe --language en
    """
    from tvr_cli.engine.searching import transcribe as engine

    require_threads()
    options = engine.TranscribeOptions(model, language, beside, device, offline, dry_run)
    report = engine.transcribe(workspace, options)
    render.result(report, as_json, lambda: _show(report))
    if report.failed:
        for one in report.failed[:_TOLD]:
            log.logger.warning("%s: %s", one.video_id, one.reason)
        raise PartialFailure(f"{len(report.failed)} of {render.count(report.videos, 'video')} could not be heard")


def _show(report: TranscribeReport) -> None:
    will = "would be heard" if report.dry_run else "heard"
    where = "beside the videos" if report.folder is None else f"in {report.folder}"
    render.line(
        f"{render.count(report.videos, 'video')}: {report.heard} {will} ({render.duration(report.seconds)} of sound, "
        f"model {report.model}), {report.kept} kept, {report.silent} without sound, {report.gone} gone, "
        f"{len(report.failed)} failed"
    )
    render.line(f"subtitles {where}")
