"""`tvr explain`: why a file answers a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import api, log
from tvr_cli.cli import render
from tvr_cli.cli.options import (
    DEFAULT_WORKSPACE,
    OWN_METHOD,
    Backbone,
    Device,
    Json,
    NoHead,
    Offline,
    Searched,
    require_threads,
)

if TYPE_CHECKING:
    from tvr_cli.results.explained import ExplainReport

_BAR = 20  # letters of the longest


def explain(
    text: Annotated[str, typer.Argument(help="The sentence.")],
    video: Annotated[str, typer.Argument(help="A file of the library by id or path, PATH@START-END for a part of it.")],
    workspace: Searched = DEFAULT_WORKSPACE,
    out: Annotated[Path | None, typer.Option("--out", help="Draw it: .png, .svg or .pdf, or .html for a page.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    run: Annotated[str | None, typer.Option("--run", help="Run whose scores are explained.")] = None,
    method: Annotated[
        str | None, typer.Option("--method", help=f"A method without training instead of a run; or: {OWN_METHOD}")
    ] = None,
    backbone: Backbone = None,
    first: Annotated[
        str | None,
        typer.Option("--first", help="The first backbone of an index of two, where it is a module of your own."),
    ] = None,
    no_head: NoHead = False,
    device: Device = "auto",
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Show which seconds of a file count for a sentence, and what each word does to that.

    Example: tvr explain "a red circle" test/00003.mp4 --out why.html
    """
    require_threads()
    opened = api.open_workspace(workspace)
    if out is not None:
        opened.require_drawable(out, overwrite=overwrite)  # before anything is computed
    report = opened.ask_for(
        "explain",
        sentence=text,
        video=video,
        run=run,
        method=method,
        backbone=backbone,
        first=first,
        no_head=no_head,
        device=device,
        offline=offline,
    )
    if out is not None:
        log.logger.info("drew %s", opened.draw(report, out, overwrite=overwrite))
    render.result(report, as_json, lambda: _show(report))


def _show(report: ExplainReport) -> None:
    where = f"{render.seconds(report.start)}–{render.seconds(report.end)}"
    best = f"best at {render.seconds(report.peak)} ({where}), score {report.score:.3f} by {report.by}"
    render.line(f"{report.video_id}: {best}")
    most = max((abs(word.contribution) for word in report.words), default=0.0) or 1.0
    rows = [
        [word.word, ("-" if word.contribution < 0 else "+") * round(_BAR * abs(word.contribution) / most),
         f"{word.contribution:+.3f}", render.seconds(report.ts[_top(word.values)])]
        for word in report.words
    ]  # fmt: skip
    render.table(None, ("word", "", "does", "most at"), rows, left=2)


def _top(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
