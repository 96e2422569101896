"""A table as text: what is bold, and what only looks as if it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvr_cli.engine.whole import table_text
from tvr_cli.engine.whole.table_result import DataTable, HolmTest, TableReport, TableRow
from tvr_cli.results.metrics import Deviation, Metrics
from tvr_cli.significance import Comparison

_NAMES = ("R@1", "R@5", "R@10", "MdR", "MnR")


def row(name: str, r1: float, p_holm: float | None) -> TableRow:
    """A row of one seed, ten points apart from a baseline of 30. p_holm: None for the baseline itself."""
    values = dict.fromkeys(_NAMES, 1.0) | {"R@1": r1}
    found = Comparison("R@1", 30.0, r1, r1 - 30.0, (r1 - 35.0, r1 - 25.0), 0.001, "a test")
    return TableRow(
        row=f"{name}-tiny",
        method=name,
        encoder="tiny",
        fidelity=None,
        seeds=(0,),
        runs=(name,),
        mean=Metrics(values, values, 2 * (r1 + 2.0)),
        deviation=Deviation(dict.fromkeys(_NAMES), dict.fromkeys(_NAMES), None),
        interval={"t2v": (r1 - 3, r1 + 3), "v2t": (r1 - 3, r1 + 3)},
        against=None if p_holm is None else "mean-tiny",
        tests={} if p_holm is None else {"t2v": HolmTest(found, p_holm), "v2t": HolmTest(found, 0.9)},
        selected_on="val",
        parameters=0,
        index_bytes_per_clip=6668,
        pairs_per_second=1000.0,
        train_seconds=None,
        published=(),
    )


@pytest.fixture(scope="module")
def report() -> TableReport:
    rows = (
        row("mean", 30.0, None),
        row("better", 40.5, 0.049),
        row("luckier", 50.5, 0.051),  # the largest number of the column, and no test says so
        row("worse", 20.5, 0.001),
    )
    table = DataTable(data="toy", captions=100, videos=100, smallest={"t2v": 7.0, "v2t": 7.0}, rows=rows)
    return TableReport(folder=Path("out"), baseline="mean", tables=(table,), left_out=())


@pytest.mark.parametrize(("form", "bold"), [("markdown", "**40.5**"), ("latex", "\\textbf{40.5}")])
def test_bold_is_what_beats_the_baseline_by_its_corrected_test_and_nothing_else(
    report: TableReport, form: str, bold: str
) -> None:
    text = "\n".join(table_text.lines_of(report, form))
    mark = bold[:2] if form == "markdown" else "\\textbf"
    assert text.count(bold) == 1 and text.count(mark) == (2 if form == "markdown" else 1)
    assert "50.5" in text and "20.5" in text


def test_the_tests_of_a_row_stand_below_with_both_of_their_p(report: TableReport) -> None:
    assert any(
        line.startswith("- better-tiny - mean-tiny, t2v R@1: +10.5 [+5.5, +15.5], p = 0.001, 0.049 after Holm")
        for line in table_text.markdown(report)
    )
