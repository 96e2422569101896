"""`tvr compare`: results side by side, with intervals and paired tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Json, Workspace
from tvr_cli.errors import ConfigError

if TYPE_CHECKING:
    from tvr_cli.engine.evaluation.compare import CompareReport


def compare(
    results: Annotated[
        list[Path], typer.Argument(help="Runs, result JSONs or score matrices; the first is the baseline.")
    ],
    workspace: Workspace = DEFAULT_WORKSPACE,
    split: Annotated[str, typer.Option("--split", help="Split whose results are compared.")] = "test",
    seed: Annotated[int, typer.Option("--seed", help="Seed of bootstrap and permutation.")] = 0,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV, unrounded.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Also draw R@1 with intervals and the ranks (needs matplotlib).")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="NAME:ROOT[:VARIANT] that score matrices without ids are about.")
    ] = None,
    same_gallery: Annotated[
        bool,
        typer.Option("--same-gallery", help="Vouch that results without ids are of the same captions and videos."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare results: a table with 95 % intervals, and a paired test of each one against the first.

    Example: tvr compare mean text_guided
    """
    from tvr_cli.engine.evaluation import compare as tables
    from tvr_cli.engine.showing.compare_plot import compared

    if as_markdown + as_csv + as_json > 1:
        raise ConfigError("choose one of --markdown, --csv and --json")
    report = compared(results, workspace, split=split, seed=seed, plot=plot, data=data, same_gallery=same_gallery)
    if as_markdown:
        for row in tables.markdown(report):
            render.line(row)
    elif as_csv:
        render.exact(tables.csv_text(report).removesuffix("\n").split("\n"))
    else:
        render.result(report, as_json, lambda: _show(report))


def _show(report: CompareReport) -> None:
    from tvr_cli.engine.evaluation.compare import PairedTest, tables_of

    for header, rows in tables_of(report):
        render.table(None, header, rows, left=header.index("t2v R@1 [95 %]"))
    for test in report.tests:
        found = test.found
        if found.metric != "R@1":
            continue
        name = f"{test.against} - {report.rows[0].label}"
        if isinstance(test, PairedTest):
            low, high = test.found.interval
            render.line(
                f"{name}, {test.side} R@1: {found.difference:+.1f} [{low:+.1f}, {high:+.1f}], "
                f"p = {render.p_value(found.p)} ({test.found.test})"
            )
        else:
            p = render.p_value(found.p)
            render.line(f"{name}, {test.found.side} R@1: {found.difference:+.1f}, p = {p} (unpaired: one has no ranks)")
    for label, told in report.apart.items():
        render.line(f"{label} is not tested against {report.rows[0].label}: {'; '.join(told)}")
    for label, told in report.protocols.items():
        for sentence in told:
            render.line(f"{label} stands under another protocol: {sentence}")
