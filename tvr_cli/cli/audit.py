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
        list[Path] | None, typer.Argument(help="One or two result JSONs or score matrices; or type a row instead.")
    ] = None,
    queries: Annotated[int | None, typer.Option("--queries", min=1, help="Queries that the row claims.")] = None,
    r1: Annotated[str | None, typer.Option("--r1", help="R@1 in percent, with all digits that were published.")] = None,
    r5: Annotated[str | None, typer.Option("--r5", help="R@5 in percent.")] = None,
    r10: Annotated[str | None, typer.Option("--r10", help="R@10 in percent.")] = None,
    against_queries: Annotated[
        int | None, typer.Option("--against-queries", min=1, help="Queries of a second row.")
    ] = None,
    against_r1: Annotated[str | None, typer.Option("--against-r1", help="R@1 of the second row.")] = None,
    against_r5: Annotated[str | None, typer.Option("--against-r5", help="R@5 of the second row.")] = None,
    against_r10: Annotated[str | None, typer.Option("--against-r10", help="R@10 of the second row.")] = None,
    as_json: Json = False,
) -> None:
    """Say which numbers of queries can produce a row of recalls, and whether two rows really differ.

    Example: tvr audit --queries 1000 --r1 49.1071 --r5 76.1905 --r10 84.0278
    """
    from tvr_cli.engine.evaluation import audit as engine

    typed = engine.Typed(queries, {1: r1, 5: r5, 10: r10})
    against = engine.Typed(against_queries, {1: against_r1, 5: against_r5, 10: against_r10})
    report = engine.audit_typed(results or [], typed, against)
    render.result(report, as_json, lambda: _show(report))


def _show(report: AuditReport) -> None:
    for row in report.rows:
        numbers = ", ".join(f"{name} {value:g}" for name, value in row.recalls.items())
        render.line(f"{row.label}: {numbers}" + (f" over {row.queries} queries" if row.queries else ""))
        render.line(f"  {row.verdict}")
        for name, (low, high) in row.interval.items():
            count = (row.counts or {}).get(name)
            hits = f"{count} of {row.queries}; " if count is not None else ""
            render.line(f"  {name}: {hits}95 % interval {low:.1f} to {high:.1f}")
        if row.possible.known and not row.fits_claim:
            known = ", ".join(f"{n} ({name})" for n, name in row.possible.known.items())
            render.line(f"  test sets in use that fit: {known}")
        for sentence in row.findings or ():
            render.line(f"  {sentence}")
    for found in report.differences:
        verdict = "differ significantly" if found.significant else "do not differ significantly"
        render.line(f"{found.metric}: {found.a:g} and {found.b:g} {verdict} (p = {found.p:.3f}, sampling error alone)")
    for sentence in report.protocols:
        render.line(f"the protocols differ: {sentence}")
