"""The table of a sweep as text: Markdown, LaTeX with booktabs, CSV. Renderings of a `TableReport`, no more."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from tvr_cli import config
from tvr_cli.engine.whole.sweep_plan import short_name
from tvr_cli.engine.whole.table_result import ALPHA, DataTable, TableReport, TableRow
from tvr_cli.results.base import plain

_RECALLS, _RANKS = ("R@1", "R@5", "R@10"), ("MdR", "MnR")


def markdown(report: TableReport) -> list[str]:
    """Return the lines of the tables as Markdown, one a data set, with what has to be said below each."""
    lines: list[str] = []
    for table in report.tables:
        header, rows = _cells(table, bold="**{}**", plus="±", missing="–")
        lines += [f"### {table.data}: {table.captions} captions, {table.videos} videos", ""]
        lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        lines += ["", *(f"- {note}" for note in notes(report, table)), ""]
    return lines + [f"- left out: {told}" for told in report.left_out]


def latex(report: TableReport) -> list[str]:
    """Return the lines of the tables as LaTeX for booktabs; notes are comments."""
    lines = ["% needs \\usepackage{booktabs}"]
    for table in report.tables:
        header, rows = _cells(table, bold="\\textbf{{{}}}", plus="$\\pm$", missing="--")
        lines += [f"% {table.data}: {table.captions} captions, {table.videos} videos"]
        lines += [f"\\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}", "\\toprule"]
        lines += [" & ".join(_tex(name) for name in header) + " \\\\", "\\midrule"]
        lines += [" & ".join([*map(_tex, row[:2]), *row[2:]]) + " \\\\" for row in rows]
        lines += ["\\bottomrule", "\\end{tabular}", *(f"% {note}" for note in notes(report, table))]
    return lines + [f"% left out: {told}" for told in report.left_out]


def csv_text(report: TableReport) -> str:
    """Return the rows of all tables as CSV, floats unrounded."""
    flat = []
    for table in report.tables:
        for row in table.rows:
            told = {k: v for k, v in plain(row).items() if k not in ("published", "interval", "runs", "seeds")}
            ends = {
                f"interval.{side}.{end}": v
                for side, pair in row.interval.items()
                for end, v in zip(("low", "high"), pair, strict=True)
            }
            tests = {
                f"tests.{side}.{k}": v
                for side, test in told.pop("tests").items()
                for k, v in test.items()
                if k != "interval"
            }
            seeds = {"seeds": " ".join(map(str, row.seeds)), "runs": " ".join(row.runs)}
            published = {"published": "; ".join(_published(row, i) for i in range(len(row.published)))}
            flat.append({"data": table.data, **config.flatten(told), **seeds, **ends, **tests, **published})
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(dict.fromkeys(k for row in flat for k in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def notes(report: TableReport, table: DataTable) -> list[str]:
    """Return what a reader of the numbers has to know, a sentence each."""
    bold = (
        f"bold: R@1 is above that of the baseline {report.baseline} by a paired test over videos, p < {ALPHA:g} after "
        f"Holm's correction for {sum(len(row.tests) for row in table.rows)} tests"
    )
    smallest = ", ".join(f"{side} {points:.2f}" for side, points in table.smallest.items())
    told = [
        bold,
        f"the smallest difference of R@1 that this gallery can show: {smallest} points",
        "± is the deviation over seeds, [ ] the 95 % interval over videos of the mean over seeds; seconds are of the "
        "machine that each cell ran on",
    ]
    if budgets := {row.trials for row in table.rows if row.trials}:
        told.append(
            "trials: how many settings a method had, the best on validation taken (tvr optimise)"
            + ("" if len(budgets) == 1 else "; methods had unequal budgets, which favours those that had more")
        )
    for row in table.rows:
        for side, test in row.tests.items():
            low, high = test.found.interval
            told.append(
                f"{row.row} - {row.against}, {side} R@1: {test.found.difference:+.1f} [{low:+.1f}, {high:+.1f}], p = "
                f"{test.found.p:.2g}, {test.p_holm:.2g} after Holm ({test.found.test})"
            )
        told += [_published(row, i) for i in range(len(row.published))]
    return told


def _published(row: TableRow, i: int) -> str:
    one = row.published[i]
    said = f"{row.row}: published t2v R@1 {one.t2v_r1:.1f} ({one.recipe}, selected on {one.selected_on})"
    if one.gap is not None:
        return f"{said}, here {one.gap:+.1f}"
    more = f" and {len(one.differs) - 3} more" if len(one.differs) > 3 else ""
    return f"{said} is of another experiment and cannot stand beside it: {'; '.join(one.differs[:3])}{more}"


def _encoder(row: TableRow) -> str:
    """Return an encoder's name; of a folder of one's own the last part, which a sweep has once: no path in a paper."""
    return short_name(row.encoder) if row.encoder.startswith("local:") else row.encoder


def _cells(table: DataTable, *, bold: str, plus: str, missing: str) -> tuple[list[str], list[list[str]]]:
    """Return header and rows as text: two columns of names, then numbers."""
    searched = any(row.trials is not None for row in table.rows)
    header = ["method", "encoder", *(["trials"] if searched else []), "seeds"]
    header += [f"t2v {name}" for name in _RECALLS[:1]] + ["[95 %]", *_RECALLS[1:], *_RANKS]
    header += [f"v2t {name}" for name in _RECALLS[:1]] + ["[95 %]", *_RECALLS[1:], *_RANKS]
    header += ["rsum", "parameters", "index B/clip", "pairs/s", "training s"]
    rows = []
    for row in table.rows:
        cells = [row.method, _encoder(row), *([str(row.trials or 0)] if searched else [])]
        cells.append(str(len(row.seeds)) if row.seeds else missing)
        for side in ("t2v", "v2t"):
            found, spread = getattr(row.mean, side), getattr(row.deviation, side)
            numbers = [_number(found[name], spread[name], plus) for name in (*_RECALLS, *_RANKS)]
            first = bold.format(numbers[0]) if row.bold(side) else numbers[0]
            low, high = row.interval[side]
            cells += [first, f"[{low:.1f}, {high:.1f}]", *numbers[1:]]
        cells.append(_number(row.mean.rsum, row.deviation.rsum, plus))
        cells += [_count(v, missing) for v in (row.parameters, row.index_bytes_per_clip, row.pairs_per_second)]
        cells.append(missing if row.train_seconds is None else f"{row.train_seconds:.1f}")
        rows.append(cells)
    return header, rows


def _number(value: float, spread: float | None, plus: str) -> str:
    return f"{value:.1f}" if spread is None else f"{value:.1f} {plus} {spread:.1f}"


def _count(value: float | None, missing: str) -> str:
    return missing if value is None else f"{value:,.0f}"


def _tex(text: str) -> str:
    """Escape what LaTeX takes for a command in a name."""
    for mark in "_%#&$":
        text = text.replace(mark, f"\\{mark}")
    return text


def lines_of(report: TableReport, form: str) -> Sequence[str]:
    """Return the lines of a form: `markdown`, `latex` or `csv`."""
    if form == "csv":
        return csv_text(report).removesuffix("\n").split("\n")
    return latex(report) if form == "latex" else markdown(report)
