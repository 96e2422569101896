"""`tvr similar`: what in a library looks like a file of it, or like a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import api
from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Backbone, Device, Json, Offline, Searched, require_threads

if TYPE_CHECKING:
    from tvr_cli.results.alike import Alike, SimilarReport


def similar(
    moment: Annotated[
        str, typer.Argument(metavar="PATH[@START-END]", help="File of the library, by id or path, or a moment of it.")
    ],
    workspace: Searched = DEFAULT_WORKSPACE,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of files or moments to show.")] = 10,
    backbone: Backbone = None,
    device: Device = "auto",
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Show what in a library looks like a file of it, or like a moment, and which of it are near-duplicates.

    Example: tvr similar holiday.mp4@12-15 --index out/
    """
    require_threads()
    opened = api.open_workspace(workspace)
    report = opened.ask_for("similar", moment=moment, k=k, backbone=backbone, device=device, offline=offline)
    render.result(report, as_json, lambda: _show(report))


def _show(report: SimilarReport) -> None:
    if not report.results:
        render.line(f"nothing else is in the library that could look like {report.video_id!r}")
        return
    rows = [
        [
            found.rank,
            render.shortest(found.path),
            _said(found),
            *([] if report.whole else [f"{render.seconds(found.start)}–{render.seconds(found.end)}"]),
            f"{found.cosine:.3f}",
        ]
        for found in report.results
    ]
    render.table(None, ("#", "video", "", *(() if report.whole else ("where",)), "cosine"), rows, left=3)


def _said(found: Alike) -> str:
    if found.duplicate is None:
        return "perhaps a near-duplicate (its frames are gone)"
    return "near-duplicate" if found.duplicate else ""
