"""`tvr demo`: the whole pipeline on a toy world that is made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import commands
from tvr_cli.cli import render
from tvr_cli.cli.options import Assignments, Device, DryRun, Json
from tvr_cli.workspace import Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.whole.demo import DemoPreview, DemoReport, MethodRow, Question
    from tvr_cli.engine.whole.demo_films import HeadRow
    from tvr_cli.engine.whole.demo_results import Moments
    from tvr_cli.results.metrics import Rate

DEFAULT_FOLDER = Workspace(Path("out/demo"))


def demo(
    workspace: Annotated[
        Workspace,
        typer.Option(
            "--workspace",
            "-o",
            parser=Workspace.at,
            metavar="<path>",
            help="Folder for the toy videos and everything made from them.",
        ),
    ] = DEFAULT_FOLDER,
    methods: Annotated[
        str, typer.Option("--methods", metavar="A,B|all", help="Methods to compare, or all.")
    ] = "mean,text_guided,glccl",
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="N,M", help="One training run a seed; the table shows mean ± deviation.")
    ] = "0",
    tune: Annotated[
        str, typer.Option("--tune", metavar="head|full", help="full trains the backbone as well (minutes more).")
    ] = "head",
    small: Annotated[bool, typer.Option("--small", help="160 videos instead of 2 700: seconds, for tests.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep/--clean", help="Keep what was made, or remove at the end what demo.json lists.")
    ] = True,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that make and decode videos; default 1 a core.")
    ] = None,
    device: Device = "auto",
    assignments: Assignments = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a toy world of captioned videos, run every command on it, and compare methods.

    Needs no data, no network and no GPU. Running it again keeps what is done.

    Example: tvr demo --small -o out/demo
    """
    from tvr_cli.engine.whole import demo as engine

    result = engine.demo(
        workspace,
        methods=_words(methods),
        seeds=_words(seeds),
        tune=tune,
        small=small,
        keep=keep,
        workers=workers,
        device=device,
        assignments=assignments or (),
        dry_run=dry_run,
    )
    if isinstance(result, engine.DemoPreview):
        preview = result
        render.result(preview, as_json, lambda: _show_preview(preview))
    else:
        report = result
        render.result(report, as_json, lambda: _show(report, kept=keep))


def _show(result: DemoReport, *, kept: bool) -> None:
    """Print the demo for people: the tables, the question with its answers, and what to type next."""
    rows = result.methods
    render.line(result.title)
    render.line()
    n = result.queries
    render.line(f"Text to video on {result.backbone}: {n} test captions against {n} videos; {_uncertainty(result)}")
    render.table(
        None,
        ("method", "R@1", "R@5", "R@10", "trained in"),
        [[r.method, *(_rate(rate) for rate in (r.t2v.r1, r.t2v.r5, r.t2v.r10)), _training(r)] for r in rows],
    )
    kinds = list(rows[0].t2v.by_kind)
    render.line()
    render.line("R@1 by kind of caption; base, order, motion and binding are near copies of each other")
    render.table(
        None,
        ("method", *kinds),
        [[r.method, *(_rate(r.t2v.by_kind[kind]) for kind in kinds)] for r in rows],
    )
    render.line()
    render.line("Where in its own video? Spans by the method (by a window of the same length in the middle), in %")
    render.table(
        None,
        ("method", "IoU ≥ 0.5", "mean IoU", "middle in an event", "seconds"),
        [[r.method, *_moments(r.moments)] for r in rows],
    )
    render.line()
    _show_question(result.query)
    render.line()
    _show_head(result.moment_head)
    render.line()
    render.line(
        f"{render.duration(result.seconds)} in all." + (f" Everything is in {result.workspace}" if kept else "")
    )
    render.line("Your own videos:")
    render.line(f"  {commands.tvr('extract-frames', commands.VIDEOS)}")
    render.line(f"  {commands.tvr('query', 'a dog surfing')}")


def _show_question(asked: Question) -> None:
    start, end = asked.event
    render.line(f'Question: "{asked.query}" (asked of {asked.method}; it happens from {start:g} to {end:g} s)')
    rows = [
        [h.rank, h.path, f"{h.start:.1f}–{h.end:.1f} s", f"{h.score:.3f}", "right" if judged.right else ""]
        for judged in asked.hits
        for h in (judged.hit,)
    ]
    render.table(None, ("#", "video", "where", "score", ""), rows, left=2)


def _show_head(row: HeadRow) -> None:
    render.line(
        f"Moments of {render.count(row.films, 'film')} by time: the first answer is right for {row.first:.1f} % of "
        f"{row.queries} queries with the moment head ({row.trained_on} moments to train on), {row.first_without:.1f} % "
        "without. Ask:"
    )
    render.line(f"  {commands.tvr('query', row.example, workspace=Workspace(row.workspace))}")


def _show_preview(preview: DemoPreview) -> None:
    render.line(f"would make {preview.videos} videos and {preview.captions} captions in {preview.workspace}/videos")
    render.line(f"would join some of them to {render.count(preview.films, 'film')}, and train a moment head on these")
    render.line(f"would take about {render.size(preview.size_bytes)} and extract {preview.frames} frames")
    for row in preview.methods:
        trained = f"train {row.runs} run(s), {row.epochs} epochs each" if row.trains else "nothing to train"
        render.line(f"  {row.method}: {trained}")
    if (clean := preview.clean) is not None:
        there = f"and {render.count(len(clean.removes), 'file')} of an earlier demo" if clean.removes else ""
        render.line(f"would remove at the end what it made {there}".rstrip())
        for name in clean.removes:
            render.line(f"  {name}")
        for name in clean.keeps:
            render.line(f"  kept, changed since: {name}")


def _rate(rate: Rate) -> str:
    if rate.deviation is not None:
        return f"{rate.value:.1f} ± {rate.deviation:.1f}"
    return f"{rate.value:.1f} [{rate.low:.1f}, {rate.high:.1f}]"


def _moments(m: Moments) -> list[str]:
    return [
        f"{m.r1:.1f} ({m.centred_r1:.1f})",
        f"{100 * m.mean_iou:.1f} ({100 * m.centred_mean_iou:.1f})",
        f"{m.inside:.1f} ({m.centred_inside:.1f})",
        f"{m.seconds:.2f}",
    ]


def _uncertainty(result: DemoReport) -> str:
    n = len(result.seeds)
    if n > 1:
        return f"mean ± deviation over {n} seeds"
    return "95 % intervals of the sampling of captions"


def _training(row: MethodRow) -> str:
    if not row.trains:
        return "–"
    return render.duration(row.train_seconds) if row.train_seconds else "kept"


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
