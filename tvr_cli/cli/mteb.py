"""`tvr mteb`: a run on tasks of MTEB, in MTEB's own folder of results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Device, DryRun, Json, Offline, Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.whole.mteb_result import MtebPreview, MtebReport


def mteb(
    tasks: Annotated[str, typer.Option("--tasks", metavar="A,B", help="MTEB's names, or MODULE.CLASS of one's own.")],
    run: Annotated[str | None, typer.Option("--run", help="A run; default: the newest.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="A method without training instead of a run.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Videos read at once.")] = None,
    device: Device = "auto",
    offline: Offline = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Run a trained run on tasks of MTEB, and write the folder of results that MTEB takes.

    Example: tvr mteb --tasks MSRVTTT2V,MSRVTTV2T --run glccl --dry-run
    """
    from tvr_cli.engine.whole import mteb as engine

    found = engine.run_tasks(
        workspace,
        [name.strip() for name in tasks.split(",") if name.strip()],
        run=run,
        method=method,
        options=engine.MtebOptions(device, workers, offline),
        dry_run=dry_run,
    )
    if found.dry_run:
        render.result(found, as_json, lambda: _show_preview(found))
    else:
        render.result(found, as_json, lambda: _show(found))


def _show(report: MtebReport) -> None:
    for one in report.scores:
        asked = f"{render.count(one.queries, 'query', 'queries')}, {render.count(one.documents, 'document')}"
        rows = [[metric, f"{value:.5f}", f"{one.tvr[metric]:.5f}"] for metric, value in one.mteb.items()]
        render.table(f"{one.task} ({one.split}): {asked}", ("metric", "MTEB", "tvr"), rows)
        if one.tied:
            render.line(
                f"of {render.count(one.tied, 'query', 'queries')} a right answer is tied with another: MTEB orders "
                "those by their ids, tvr takes the mean over all orders"
            )
        if one.unread:
            render.line(f"{render.count(one.unread, 'video')} could not be read, and no query finds them")
        render.line(f"kept in {one.file}")


def _show_preview(preview: MtebPreview) -> None:
    rows = [[t.task, t.direction, t.dataset, t.revision[:12], ", ".join(t.splits)] for t in preview.tasks]
    render.table(None, ("task", "direction", "data set", "revision", "splits"), rows, left=5)
    seen = "not known" if preview.trained_on is None else ", ".join(preview.trained_on) or "none of MTEB"
    render.line(f"{preview.model} ({preview.revision}), trained on: {seen}")
    render.line(f"nothing was downloaded; results would be kept in {preview.folder}")
