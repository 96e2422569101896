"""`tvr audit`: can these numbers be?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli.cli import render
from tvr_cli.cli.options import Json

if TYPE_CHECKING:
    from tvr_cli.engine.evaluation.audit import AuditReport


def audit(
    results: Annotated[
        list[Path] | None,
        typer.Argument(help="One or two runs' folders, result JSONs or score matrices; or type a row."),
    ] = None,
    queries: Annotated[int | None, typer.Option("--queries", min=1, help="Queries that the row claims.")] = None,
    r1: Annotated[
        str | None, typer.Option("--r1", help="R@1 with all digits that were published: 44.5, 44,5, 44.5% or 0.445.")
    ] = None,
    r5: Annotated[str | None, typer.Option("--r5", help="R@5 in percent.")] = None,
    r10: Annotated[str | None, typer.Option("--r10", help="R@10 in percent.")] = None,
    against_queries: Annotated[
        int | None, typer.Option("--against-queries", min=1, help="Queries of a second row.")
    ] = None,
    against_r1: Annotated[str | None, typer.Option("--against-r1", help="R@1 of the second row.")] = None,
    against_r5: Annotated[str | None, typer.Option("--against-r5", help="R@5 of the second row.")] = None,
    against_r10: Annotated[str | None, typer.Option("--against-r10", help="R@10 of the second row.")] = None,
    split: Annotated[str, typer.Option("--split", help="Split whose result of a run's folder is audited.")] = "test",
    scores: Annotated[
        Path | None, typer.Option("--scores", help="A score matrix, to set --scores-shifted beside.")
    ] = None,
    scores_shifted: Annotated[
        Path | None,
        typer.Option(
            "--scores-shifted", help="The same code's scores with the captions shifted by one, or with fewer videos."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say which numbers of queries can produce a row of recalls, and whether two rows really differ.

    Example: tvr audit --queries 1000 --r1 49.1071 --r5 76.1905 --r10 84.0278
    """
    from tvr_cli.engine.evaluation import audit as engine

    typed = engine.Typed(queries, {1: r1, 5: r5, 10: r10})
    against = engine.Typed(against_queries, {1: against_r1, 5: against_r5, 10: against_r10})
    report = engine.audit_asked(
        results or [], typed, against, split=split, scores=scores, scores_shifted=scores_shifted
    )
    if isinstance(report, engine.AuditReport):
        audited = report
        render.result(audited, as_json, lambda: _show(audited))
        return
    verdict = report.verdict
    render.result(report, as_json, lambda: render.line(verdict))


_SIDES = {"t2v": "text to video", "v2t": "video to text"}


def _show(report: AuditReport) -> None:
    for row in report.rows:
        numbers = ", ".join(f"{name} {value:g}" for name, value in row.recalls.items())
        which = f"{row.label}, {_SIDES[row.side]}" if row.side else row.label
        render.line(f"{which}: {numbers}" + (f" over {row.queries} queries" if row.queries else ""))
        if row.read_as:
            render.line(f"  {row.read_as}")
        render.line(f"  {row.verdict}")
        for name, (low, high) in row.interval.items():
            count = (row.counts or {}).get(name)
            hits = f"{count} of {row.queries}; " if count is not None else ""
            render.line(f"  {name}: {hits}95 % interval {low:.1f} to {high:.1f}")
        if row.interval_of:
            render.line(f"  intervals: of {row.interval_of}")
        if row.possible.known and not row.fits_claim:
            known = ", ".join(f"{n} ({name})" for n, name in row.possible.known.items())
            render.line(f"  test sets in use that fit: {known}")
        for sentence in row.findings or ():
            render.line(f"  {sentence}")
    for found in report.differences:
        verdict = "differ significantly" if found.significant else "do not differ significantly"
        p = render.p_value(found.p)
        side = f"{found.side} " if found.side else ""
        render.line(f"{side}{found.metric}: {found.a:g} and {found.b:g} {verdict} (p = {p}, sampling error alone)")
    for sentence in report.apart:
        render.line(f"no test of one against the other: {sentence}" if not report.differences else sentence)
    for sentence in report.protocols:
        render.line(f"the protocols differ: {sentence}")
