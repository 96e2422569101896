"""`tvr index`: build the search index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import api
from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, OWN_METHOD, Backbone, Device, DryRun, Json, Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.searching.precision import Precision


def index(
    run: Annotated[
        str | None, typer.Option("--run", help="Run that scores; default: the newest, else a method without training.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help=f"A method without training instead of a run; or: {OWN_METHOD}")
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    backbone: Backbone = None,
    first: Annotated[
        str | None, typer.Option("--first", help="Backbone whose clip vectors find the candidates; with --then.")
    ] = None,
    then: Annotated[
        str | None, typer.Option("--then", help="Backbone on whose features the method ranks them; with --first.")
    ] = None,
    bank: Annotated[
        Path | None,
        typer.Option(
            "--null",
            help="File of sentences, one a line, about nothing in the library; default: those that ship with tvr.",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="KIND", help="file, lance (a LanceDB table in the workspace) or lance:URI."),
    ] = None,
    coarse_memory: Annotated[
        str | None,
        typer.Option("--coarse-memory", help="With lance: above this, clips are found by cells; default 4GB."),
    ] = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Rebuild even if it is up to date.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Encode every clip once, so that a query only combines.

    Example: tvr index --method text_guided
    """
    report = api.open_workspace(workspace).index(
        run=run,
        method=method,
        backbone=backbone,
        first=first,
        then=then,
        bank=bank,
        store=store,
        coarse_memory=coarse_memory,
        device=device,
        overwrite=overwrite,
        dry_run=dry_run,
    )

    def human() -> None:
        what = "would index" if dry_run else "indexed" if report.built else "up to date:"
        clips, videos = render.count(report.clips, "clip"), render.count(report.videos, "video")
        found_by = f", candidates by {report.first}" if report.first is not None else ""
        render.line(f"{what} {clips} of {videos} with {report.method}{found_by}")
        if not dry_run:
            if report.built and report.added < report.clips:
                render.line(f"{report.added} added, {report.removed} taken out, the rest kept")
            render.line(f"{render.size(report.size_bytes)} in {report.path}")
            if (found := report.precision) is not None:
                render.line(_precision(found))
            if report.search is not None:
                render.line(render.search_way(report.search, report.clips))
            if report.recall is not None:
                render.line(render.recall(report.recall))
            if report.moments is not None:
                render.line(f"moments of frames by time, compared with {report.moments.against or 'nothing else'}")

    render.result(report, as_json, human)


def _precision(found: Precision) -> str:
    kept = "half precision" if found.stored == "float16" else "full precision"
    if found.largest_error is None:
        return f"{kept}: {found.reason}"
    where = f"({found.of}; {render.count(found.clips, 'clip')} scored, largest difference {found.largest_error:.1g})"
    return f"{kept}: {found.reason} {where}"
