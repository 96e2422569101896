"""`tvr table`: the cells of a sweep as the table of a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvr_cli import api, log
from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Json, Workspace
from tvr_cli.errors import ConfigError


def table(
    sweep: Annotated[str, typer.Argument(help="Sweep by name, or its folder.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="Method, or METHOD-ENCODER, that the others are tested against."),
    ] = None,
    as_latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX for booktabs instead of Markdown.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV, unrounded.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Also draw recall against cost (needs matplotlib).")
    ] = None,
    cards: Annotated[
        Path | None,
        typer.Option("--cards", metavar="DIR", help="Also write a card of each row, and a paragraph for an appendix."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of bootstrap and permutation.")] = 0,
    as_json: Json = False,
) -> None:
    """Print a sweep as a table: mean and deviation over seeds, intervals over videos, tests against a baseline.

    Example: tvr table msrvtt --latex
    """
    from tvr_cli.engine.whole.table_text import lines_of

    if as_latex + as_csv + as_json > 1:
        raise ConfigError("choose one of --latex, --csv and --json")
    report = api.open_workspace(workspace).table(sweep, baseline=baseline, seed=seed, plot=plot, cards=cards)
    if report.cards is not None:
        log.logger.info("wrote the cards of its rows: %s", report.cards)
    form = "latex" if as_latex else "csv" if as_csv else "markdown"
    render.result(report, as_json, lambda: render.exact(lines_of(report, form)))
