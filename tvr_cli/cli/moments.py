"""`tvr moments`: do the moments hold that a search finds?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, OWN_METHOD, Backbone, Device, Json, NoHead, Offline, Searched
from tvr_cli.defaults import FOUND
from tvr_cli.errors import ConfigError

if TYPE_CHECKING:
    from tvr_cli.engine.evaluation.moments.result import Measure, MomentsReport


def moments(
    truth: Annotated[
        Path, typer.Option("--truth", help="What is right: JSONL of your own, or an annotation file of a data set.")
    ],
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", help="Judge moments of any tool, or the JSON of tvr query, instead of a search."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Format of the truth, where it is not seen: jsonl, qvhighlights, charades-sta, activitynet-captions, "
            "didemo or tvr-ranking.",
        ),
    ] = None,
    train: Annotated[
        Path | None, typer.Option("--train", help="Fit query-blind windows on this truth, not on what is judged.")
    ] = None,
    workspace: Searched = DEFAULT_WORKSPACE,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Moments that an answer lists, where the whole library is asked.")
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Run whose scores rank the moments, or a moment head.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help=f"A method without training instead of a run; or: {OWN_METHOD}")
    ] = None,
    backbone: Backbone = None,
    no_head: NoHead = False,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            "--min-confidence",
            min=0.0,
            max=1.0,
            help="A moment of the library below this is no answer, as for tvr query; default: 0.95.",
        ),
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Every moment is an answer, however sure it is.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap intervals.")] = 0,
    device: Device = "auto",
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Judge the moments that a search finds, counted as each data set's own code counts, beside query-blind answers.

    Example: tvr moments --truth truth.jsonl --index out/
    """
    from tvr_cli.engine.searching.asked import Asked
    from tvr_cli.engine.whole import moments as engine

    if show_all and min_confidence is not None:
        raise ConfigError("--all asks for no confidence, --min-confidence for some; give one of them")
    least = None if show_all else FOUND if min_confidence is None else min_confidence
    searched = engine.Searched(Asked(run, method, backbone), k, not no_head, least, device, offline)
    report = engine.moments(truth, workspace, searched, format=format, predictions=predictions, train=train, seed=seed)
    render.result(report, as_json, lambda: _show(report))


def _show(report: MomentsReport) -> None:
    told, answers = report.truth, report.answers
    absent = f", {told.absent} of them absent" if told.absent else ""
    render.line(
        f"{told.format}: {render.count(told.queries, 'query', 'queries')}{absent}; "
        f"{render.count(told.moments, 'moment')} of {render.count(told.videos, 'video')}"
    )
    render.line(f"answered by {answers.path}: {answers.answered} of {told.queries} with a moment")
    names = list(dict.fromkeys(name for measure in report.measures for name in measure.priors))
    rows = [
        (
            measure.name,
            measure.of,
            _number(measure, measure.value),
            _interval(measure),
            measure.queries,
            *(_number(measure, measure.priors.get(name)) for name in names),
        )
        for measure in report.measures
    ]
    render.table(None, ("", "counted as", "value", "95 % interval", "queries", *names), rows, left=2)
    blind = ", ".join(names)
    render.line(f"in percent, or seconds (s); intervals: bootstrap over {report.intervals.unit}")
    render.line(f"{blind}: answers that look at no query, fitted on {report.fitted_on}")
    for note in report.notes:
        render.line(f"note: {note}")


def _number(measure: Measure, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f} s" if measure.unit == "seconds" else f"{value:.1f}"


def _interval(measure: Measure) -> str:
    if measure.interval is None:
        return "–"
    low, high = measure.interval
    digits = 2 if measure.unit == "seconds" else 1
    return f"{low:.{digits}f} to {high:.{digits}f}"
