"""`tvr table`: the cells of a sweep as the table of a paper, with intervals, paired tests and what others published."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tvr_cli import commands, config, significance
from tvr_cli.config import Resolved
from tvr_cli.engine import scorers
from tvr_cli.engine.evaluation import compare, ground
from tvr_cli.engine.evaluation.compare import Entry
from tvr_cli.engine.showing import cost_plot
from tvr_cli.engine.whole import sweep_plan, table_card
from tvr_cli.engine.whole.sweep_result import Cell, CellState
from tvr_cli.engine.whole.table_result import DataTable, HolmTest, PublishedBeside, TableReport, TableRow
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.methods import base
from tvr_cli.metrics import Ranks, per_query
from tvr_cli.plans import Wish
from tvr_cli.preset_loader import preset_names
from tvr_cli.results.base import plain
from tvr_cli.results.metrics import Metrics, mean, mean_and_deviation
from tvr_cli.significance import Comparison
from tvr_cli.workspace import Workspace

_SIDES: tuple[Literal["t2v"], Literal["v2t"]] = ("t2v", "v2t")
_TESTED = "R@1"  # one question a side: every further column would make each of them harder to answer


@dataclasses.dataclass(frozen=True)
class _Row:
    """A row before its tests: its cells, their results and ranks."""

    cells: Sequence[Cell]
    entries: Sequence[Entry]

    @property
    def name(self) -> str:
        return self.cells[0].row

    def ranks(self, side: int) -> list[Ranks]:
        return [entry.ranks[side] for entry in self.entries if entry.ranks is not None]


def table(
    sweep: str,
    out: Workspace,
    *,
    baseline: str | None = None,
    seed: int = 0,
    plot: Path | None = None,
    cards: Path | None = None,
) -> TableReport:
    """Return the table of a sweep that is done or under way; what has no number yet is said.

    sweep: its name in a workspace, or its folder. baseline: a method, of which each encoder has its own row, or one
    row as METHOD-ENCODER; None = as the sweep says. seed: of bootstrap and permutation. plot: draw recall against cost.
    cards: write a card of each row into this folder. Raises DataError where there is no sweep or nothing is done,
    ConfigError for a baseline that it has not.
    """
    if plot is not None:
        cost_plot.require_drawable(plot)
    folder = Path(sweep) if (Path(sweep) / "sweep.json").is_file() else out.sweep_folder(Path(sweep).name)
    plan = sweep_plan.require_plan(folder)
    if plan.search is not None:
        again = commands.tvr("sweep", tuned=folder.name, workspace=out)
        raise DataError(
            f"{str(folder)!r} is a search, and its trials were judged on validation alone; a table is of a sweep that "
            f"takes what it found: {again} …"
        )
    states = [sweep_plan.state_of(folder, cell) for cell in plan.cells]
    done = [s.cell for s in states if s.state == "done"]
    if not done:
        raise DataError(f"no cell of the sweep in {str(folder)!r} is done; {_what_to_do(states)}")
    wanted = baseline or plan.baseline
    if wanted not in {*plan.methods, *(cell.row for cell in plan.cells)}:
        known = f"a method ({', '.join(plan.methods)}) or a row such as {done[0].row}"
        raise ConfigError(f"--baseline: expected {known}, found {wanted!r}")
    names = list(dict.fromkeys(cell.data for cell in done))
    report = TableReport(
        folder=folder,
        baseline=wanted,
        tables=tuple(_of_data(folder, [c for c in done if c.data == name], wanted, seed) for name in names),
        left_out=tuple(
            f"{s.cell.run} on {s.cell.data}: {s.reason or 'not done yet'}" for s in states if s.state != "done"
        ),
        plot=plot,
        cards=cards,
    )
    if plot is not None:
        cost_plot.draw(_points(report.tables), plot)
    if cards is not None:
        table_card.write(report, cards, seed=seed)
    return report


def _what_to_do(states: Sequence[CellState]) -> str:
    """Say how a sweep of which nothing is done comes to a table: by going on, or by other cells where none can be."""
    if all(state.state == "empty" for state in states):
        return f"all of them are empty ({states[0].reason}), so begin one with other methods or encoders"
    return "give the command that began it again"


def _of_data(folder: Path, cells: Sequence[Cell], baseline: str, seed: int) -> DataTable:
    workspace = sweep_plan.workspace_of(folder, cells[0].data)
    rows = []
    for name in dict.fromkeys(cell.row for cell in cells):
        own = [cell for cell in cells if cell.row == name]
        rows.append(_Row(own, [compare.read_entry(workspace.run(c.run).path, "test", workspace) for c in own]))
    _require_one_ground(rows)
    tests = _tests(rows, baseline, seed)
    first = rows[0].entries[0].result
    count = max(1, sum(len(found) for found in tests.values()))
    parts = max(len(row.cells) for row in rows)
    return DataTable(
        data=cells[0].data,
        captions=first.captions,
        videos=first.videos,
        smallest={
            side: significance.smallest_difference(len(per_query(rows[0].ranks(i)[0])[1]), tests=count, parts=parts)
            for i, side in enumerate(_SIDES)
        },
        rows=tuple(_row(folder, workspace, row, _against(rows, row, baseline), tests[row.name], seed) for row in rows),
    )


def _require_one_ground(rows: Sequence[_Row]) -> None:
    """Raise DataError unless all results are of the same captions and videos: a table has one gallery."""
    first = rows[0].entries[0]
    for entry in (entry for row in rows for entry in row.entries):
        if told := ground.apart(first.result, entry.result):
            raise DataError(
                f"{entry.label!r} stands on another test set than {first.label!r} ({'; '.join(told)}); the data set "
                "has changed under the sweep: begin another one, with another --name"
            )


def _against(rows: Sequence[_Row], row: _Row, baseline: str) -> _Row | None:
    """Return the row that one is tested against: the one named, else that of the baseline's method on its encoder."""
    found = next((r for r in rows if r.name == baseline), None) or next(
        (r for r in rows if r.cells[0].method == baseline and r.cells[0].encoder == row.cells[0].encoder), None
    )
    return None if found is row else found


def _tests(rows: Sequence[_Row], baseline: str, seed: int) -> dict[str, dict[str, HolmTest]]:
    """Return row -> side -> its test, corrected for all tests of the data set."""
    pairs = [(row, against) for row in rows if (against := _against(rows, row, baseline)) is not None]
    # A permutation test cannot give less than 1 / (draws + 1), and Holm multiplies that by the number of tests.
    draws = max(significance.DRAWS, 200 * len(pairs) * len(_SIDES))
    found: list[tuple[str, str, Comparison]] = []
    for row, against in pairs:
        for i, side in enumerate(_SIDES):
            a, b = against.ranks(i), row.ranks(i)
            (one,) = significance.compare_seeds(a, b, (_TESTED,), seed=seed, draws=draws)
            found.append((row.name, side, one))
    corrected = significance.holm([one.p for _, _, one in found])
    tests: dict[str, dict[str, HolmTest]] = {row.name: {} for row in rows}
    for (name, side, one), p in zip(found, corrected, strict=True):
        tests[name][side] = HolmTest(one, p)
    return tests


def _row(
    folder: Path, workspace: Workspace, row: _Row, against: _Row | None, tests: Mapping[str, HolmTest], seed: int
) -> TableRow:
    first, cell = row.entries[0].result, row.cells[0]
    folded, spread = mean_and_deviation([_metrics(entry) for entry in row.entries])
    seconds = [r.train_seconds for c in row.cells if (r := sweep_plan.record_of(folder, c)) is not None]
    known = [s for s in seconds if s is not None]
    return TableRow(
        row=row.name,
        method=cell.method,
        encoder=cell.encoder,
        fidelity=first.fidelity,
        seeds=tuple(c.seed for c in row.cells if c.seed is not None),
        trials=cell.trials,
        runs=tuple(c.run for c in row.cells),
        mean=folded,
        deviation=spread,
        interval={
            side: significance.interval_over_seeds(row.ranks(i), _TESTED, seed=seed) for i, side in enumerate(_SIDES)
        },
        against=against.name if against is not None else None,
        tests=tests,
        selected_on=first.selected_on,
        parameters=_whole(first.cost.get("parameters")),
        index_bytes_per_clip=_whole(first.cost.get("index_bytes_per_clip")),
        pairs_per_second=mean([e.result.cost["pairs_per_second"] for e in row.entries]),
        train_seconds=mean(known) if known else None,
        published=_published(workspace, row, folded.t2v[_TESTED]),
    )


def _metrics(entry: Entry) -> Metrics:
    result = entry.result
    assert result.t2v is not None and result.v2t is not None and result.rsum is not None  # a sweep's own evaluation
    return Metrics(result.t2v, result.v2t, result.rsum)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


# ---------------------------------------------------------------------------------------------------------- published


def _published(workspace: Workspace, row: _Row, r1: float) -> list[PublishedBeside]:
    """Return what authors report of the row's method, encoder and data set; a gap only where nothing differs."""
    entry = row.entries[0]
    result, cell = entry.result, row.cells[0]
    found = []
    for name, recipe in _recipes().items():
        theirs = recipe.experiment
        value = (theirs.recipe.published or {}).get("t2v", {}).get("R@1") if theirs.recipe else None
        same = theirs.backbone.name == cell.encoder and theirs.data.name == result.data.name
        if theirs.recipe is None or value is None or not same or theirs.method != result.method:
            continue
        differs = _differs(workspace, cell, entry.tree, recipe)
        if theirs.data.variant is not None and theirs.data.variant != result.data.variant:
            differs.append(f"data.variant is {result.data.variant!r}, {theirs.data.variant!r} is theirs")
        if result.gallery.scored != result.gallery.expected:
            differs.append(f"the gallery has {result.gallery.scored} of {result.gallery.expected} videos")
        found.append(
            PublishedBeside(
                recipe=name,
                t2v_r1=float(value),
                selected_on=theirs.recipe.selected_on,
                gap=None if differs else r1 - float(value),
                differs=differs,
            )
        )
    return found


@functools.cache
def _recipes() -> Mapping[str, Resolved]:
    return {
        name: config.resolve(config.preset_layers("recipes", name), scorers.options_schema)
        for name in preset_names("recipes")
    }


def _differs(workspace: Workspace, cell: Cell, tree: Mapping[str, Any] | None, recipe: Resolved) -> list[str]:
    """Say in what a cell is another experiment than a recipe's: its features, its method's options, its training."""
    experiment = recipe.experiment
    store = workspace.newest_features(cell.encoder)
    wish = Wish.from_experiment(experiment, base.load_class(experiment.method).needs)
    told = wish.differences(store.identity, store.backbone_name) if store is not None else []
    if tree is None:
        return [*told, "it was not trained"]
    ours, theirs = config.flatten(tree), config.flatten(plain(recipe.tree()))
    return told + [
        f"{path} is {ours.get(path)!r}, {theirs[path]!r} is theirs"
        for path in theirs
        if path.startswith(("train.", "method.")) and not config.is_free(path) and ours.get(path) != theirs[path]
    ]


def _points(tables: Sequence[DataTable]) -> list[cost_plot.Point]:
    """Return what can be drawn: rows of which it is known what a clip takes in the index."""
    return [
        cost_plot.Point(
            row.method,
            f"{sweep_plan.short_name(row.encoder)} on {found.data}",
            row.mean.t2v[_TESTED],
            row.interval["t2v"][0],
            row.interval["t2v"][1],
            row.index_bytes_per_clip,
        )
        for found in tables
        for row in found.rows
        if row.index_bytes_per_clip
    ]
