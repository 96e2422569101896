"""`tvr evaluate`: the result of a run, of a method without training, or of any score matrix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvr_cli import api
from tvr_cli.cli import render
from tvr_cli.cli.options import (
    DEFAULT_WORKSPACE,
    OWN_METHOD,
    Assignments,
    Backbone,
    Device,
    DryRun,
    Json,
    MemoryBudget,
    Workspace,
)
from tvr_cli.errors import ConfigError

if TYPE_CHECKING:
    from tvr_cli.engine.evaluation.evaluate_result import EvaluatePreview, EvaluateReport, Fair, ScoresReport, Subject

_COLUMNS = ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR")


def evaluate(
    run: Annotated[str | None, typer.Argument(help="Run by name or path; default: the newest run.")] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help=f"A method that needs no training (tvr methods), or {OWN_METHOD}"),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option("--scores", help="Judge a score matrix of any tool: safetensors or npz.")
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "test",
    v2t_protocol: Annotated[str, typer.Option("--v2t-protocol", help="max, best-caption or mean-rank.")] = "max",
    counting: Annotated[
        str, typer.Option("--metrics", help="fair, or clip4clip to reproduce the counting of older code.")
    ] = "fair",
    post: Annotated[list[str] | None, typer.Option("--post", help="Extra labelled rows: dsl, qbnorm.")] = None,
    scale: Annotated[
        str | None,
        typer.Option("--scale", help="What a cosine of one is in the scores: cosine, logit (100) or a number."),
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option("--qrels", help="Judge by relevance too: lines of QUERY 0 ITEM GRADE (TREC).")
    ] = None,
    scores_about: Annotated[
        str | None, typer.Option("--data", help="NAME:ROOT[:VARIANT] that --scores is about; gives it ids.")
    ] = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Judge an incomplete gallery too.")] = False,
    noise_seeds: Annotated[
        int,
        typer.Option("--noise-seeds", min=1, help="Draws of a method that samples when it scores; mean ± deviation."),
    ] = 1,
    rule: Annotated[
        str | None,
        typer.Option("--rule", help="Score as the authors' released test does (tmass: authors); never comparable."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap intervals.")] = 0,
    save_scores: Annotated[
        Path | None, typer.Option("--save-scores", help="Also write the score matrix here, .safetensors or .npz.")
    ] = None,
    protocol_card: Annotated[
        bool, typer.Option("--protocol-card", help="Print a citable block that says how the result came about.")
    ] = False,
    more: Annotated[bool, typer.Option("--more", help="Also print MRR, nDCG@10, bounds of ties and hubness.")] = False,
    backbone: Backbone = None,
    device: Device = "auto",
    memory_budget: MemoryBudget = "512MB",
    stream: Annotated[
        bool | None,
        typer.Option("--stream/--no-stream", help="Never hold the whole matrix; default: when it does not fit."),
    ] = None,
    assignments: Assignments = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Score every caption against every video of a split and report recall and rank in both directions.

    Example: tvr evaluate --method text_guided --split test
    """
    from tvr_cli.engine.evaluation.evaluate_result import EvaluatePreview

    rules: dict[str, Any] = {
        "v2t_protocol": v2t_protocol, "metrics": counting, "post": post or (), "seed": seed,
        "allow_missing": allow_missing, "scale": scale, "qrels": qrels,
    }  # fmt: skip
    result: EvaluateReport | ScoresReport | EvaluatePreview
    if scores is not None:
        if run is not None or method is not None:
            raise ConfigError("--scores judges a file; leave out the run and --method")
        if save_scores is not None or assignments or noise_seeds > 1 or dry_run or rule is not None:
            raise ConfigError(
                "--scores judges a file and writes nothing; leave out --save-scores, --set, --noise-seeds, --rule and "
                "--dry-run"
            )
        result = api.judge_scores(scores, data=scores_about, split=split, **rules)
    else:
        if scores_about is not None:
            raise ConfigError("--data says what a score file is about; a run has its own data set: leave it out")
        result = api.open_workspace(workspace).evaluate(
            run,
            method=method,
            split=split,
            noise_seeds=noise_seeds,
            rule=rule,
            save_scores=save_scores,
            backbone=backbone,
            device=device,
            memory_budget=memory_budget,
            stream=stream,
            set=assignments or (),
            dry_run=dry_run,
            **rules,
        )
    if isinstance(result, EvaluatePreview):
        planned = result
        render.result(planned, as_json, lambda: _show_preview(planned))
        return
    judged = result
    if protocol_card and not as_json:
        for row in api.protocol_card(judged):
            render.line(row)
        return
    render.result(judged, as_json, lambda: show(judged, more=more))


def show(result: EvaluateReport | ScoresReport, *, more: bool = False) -> None:
    """Print a result for people: what was scored, one row a direction, then post-processed rows with their notes.

    more: also the numbers that only `--json` has otherwise.
    """
    from tvr_cli.engine.evaluation.evaluate_result import EvaluateReport, Fair, ScoresReport

    gallery, judged = result.gallery, result.judged
    subject = result.subject if isinstance(result, EvaluateReport) else None  # not known of a score file
    about = result.subject if isinstance(result, EvaluateReport) else result
    on = f" on {subject.backbone}, split {subject.split}" if subject else ""
    render.line(f"{about.method} ({about.fidelity}){on}")
    if subject and subject.rule is not None:
        render.line(f"rule: {subject.rule}, that of the authors' released test; not comparable with any other number")
    render.line(
        f"{about.captions} captions; {gallery.scored}/{gallery.expected} videos, "
        f"{gallery.zero_filled} zero-filled; selected on {_selection(subject) if subject else 'unknown'}"
    )
    if isinstance(judged, Fair) and judged.queries is not None:
        render.line(f"queries: {judged.queries['t2v']} captions to video, {judged.queries['v2t']} videos to text")
    if judged.metrics == "clip4clip":
        render.line("metrics: clip4clip (the counting of older code: ties inflate the number of ranks)")
    if subject and subject.word_importance != "none":
        render.line(f"word importance: {subject.word_importance}")
    draws = result.draws if isinstance(result, EvaluateReport) else None
    rows = [
        _row("text to video", judged.t2v, draws.deviation.t2v if draws else None),
        _row(f"video to text ({judged.v2t_protocol})", judged.v2t, draws.deviation.v2t if draws else None),
    ]
    posts = judged.post or () if isinstance(judged, Fair) else ()
    for extra in posts:
        rows.append(_row(f"t2v + {extra.name} (transductive)", extra.t2v))
        if extra.name == "dsl":
            rows.append(_row(f"v2t + {extra.name} (transductive)", extra.v2t))
    render.table(None, ("", *_COLUMNS), rows)
    for extra in posts:
        at = f"scores times {extra.temperature:g}, a cosine of one being {extra.scale:g}"
        render.line(f"{extra.name}: {extra.note}; {at}; not comparable with the rows above")
    intervals = judged.intervals if isinstance(judged, Fair) else None
    for side, found in (("t2v", intervals.t2v), ("v2t", intervals.v2t)) if intervals else ():
        low, high = found["R@1"]
        render.line(f"{side} R@1 95 % interval {low:.1f} to {high:.1f} (bootstrap over videos)")
    spread = _spread(judged.bounds) if isinstance(judged, Fair) else ""
    ties = judged.ties
    render.line(f"rsum {judged.rsum:.1f}; tied queries: {ties['t2v']} t2v, {ties['v2t']} v2t{spread}")
    if isinstance(judged, Fair):
        _show_relevance(judged)
        if more:
            _show_more(judged)
        for doubt in judged.doubts or ():
            render.line(f"warning: {doubt}")
    data = subject.data if subject else result.data if isinstance(result, ScoresReport) else None
    for note in (data and data.notes) or ():
        render.line(f"note: {note}")


def _show_relevance(judged: Fair) -> None:
    if judged.qrels is None:
        return
    rows = [
        (name, judged.qrels.queries[side], *found.values())
        for side, name, found in (
            ("t2v", "text to video", judged.qrels.t2v), ("v2t", "video to text", judged.qrels.v2t)
        )
    ]  # fmt: skip
    names = next((tuple(found) for found in (judged.qrels.t2v, judged.qrels.v2t) if found), ())
    render.table("by relevance, several right answers a query", ("", "queries", *names), rows)


def _show_more(judged: Fair) -> None:
    for side, found in (("t2v", judged.t2v), ("v2t", judged.v2t)):
        low, high = judged.bounds[side]["R@1"]
        render.line(
            f"{side} MRR {found['MRR']:.4f}, nDCG@10 {found['nDCG@10']:.1f}; "
            f"by the luck of ties R@1 is {low:.1f} to {high:.1f}"
        )
    if judged.hubness is not None:
        videos = render.count(judged.hubness.videos, "video")
        render.line(f"hubness: the top 1 % ({videos}) take {judged.hubness.share:.1f} % of the first places")


def _selection(subject: Subject) -> str:
    """Say on what the weights were chosen: the split, and which captions stood in for it."""
    split, validation = subject.selected_on, subject.validation
    return f"{split} ({validation})" if split == "val" and validation not in (None, "the validation split") else split


def _show_preview(preview: EvaluatePreview) -> None:
    about, gallery = preview.subject, preview.gallery
    render.line(f"{about.method} ({about.fidelity}) on {about.backbone}, split {about.split}")
    if about.rule is not None:
        render.line(f"rule: {about.rule}, that of the authors' released test; not comparable with any other number")
    render.line(f"{about.captions} captions; {gallery.scored}/{gallery.expected} videos; {preview.pairs} pairs")
    how = "ranks are streamed" if preview.streamed else f"the matrix takes {render.size(preview.size_bytes)}"
    render.line(f"{how}; the result would be in {preview.writes}; nothing was written")


def _row(label: str, found: Mapping[str, float], deviation: Mapping[str, float | None] | None = None) -> list[Any]:
    values = [found.get(c) for c in _COLUMNS]
    if deviation is not None:
        return [label, *[f"{v:.1f} ± {deviation[c]:.1f}" for v, c in zip(values, _COLUMNS, strict=True)]]
    return [label, *values]


def _spread(bounds: Mapping[str, Mapping[str, Any]]) -> str:
    """Say what the ties could make of R@1, where that shows."""
    told = []
    for side in ("t2v", "v2t"):
        low, high = bounds[side]["R@1"]
        if high - low >= 0.05:
            told.append(f"{side} R@1 between {low:.1f} and {high:.1f}")
    return f" (by luck: {', '.join(told)})" if told else ""
