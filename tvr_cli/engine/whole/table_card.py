"""A card for a row of `tvr table`: what a reader must know to believe its numbers, and what makes them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tvr_cli import commands, config, files, significance
from tvr_cli.engine.evaluation import judge as referee
from tvr_cli.engine.evaluation.card import card_of
from tvr_cli.engine.evaluation.evaluate_result import EvaluateReport
from tvr_cli.engine.whole import sweep_plan
from tvr_cli.engine.whole.sweep_result import SweepHead
from tvr_cli.engine.whole.table_result import DataTable, TableReport, TableRow
from tvr_cli.metrics import Ranks, per_query
from tvr_cli.results.base import plain
from tvr_cli.results.card import TABLE, Card, Value
from tvr_cli.results.metrics import mean_and_deviation

_SHOWN = ("R@1", "R@5", "R@10", "MdR", "MnR")
_SEED = "seed of the bootstrap"


@dataclass(frozen=True)
class Scored:
    """A run's result on test, with its ranks of both directions."""

    report: EvaluateReport
    ranks: tuple[Ranks, Ranks]


def write(report: TableReport, folder: Path, *, seed: int) -> None:
    """Write DATA/ROW.json, the card, and DATA/ROW.txt, a paragraph for an appendix, for every row of a table."""
    plan = sweep_plan.require_plan(report.folder)
    for table in report.tables:
        for row in table.rows:
            card = _card(report, plan, table, row, seed).sealed()
            to = folder / table.data / row.row
            files.write_json(to.with_name(f"{row.row}.json"), card.to_json())
            files.write_text(to.with_name(f"{row.row}.txt"), f"{card.paragraph()}\n")


def numbers_of(of: Sequence[str], runs: Sequence[Scored], *, seed: int) -> Card:
    """Return the card of the runs of a row as they were scored, without what only its table knows.

    of: the words of the card. seed: of the bootstrap.
    """
    first = card_of(runs[0].report)
    said = dict(first.protocol)
    said.pop("seed", None)
    commits = list(dict.fromkeys(run.report.subject.commit or "unknown" for run in runs))
    seeds = [str(run.report.subject.seed) for run in runs if run.report.subject.seed is not None]
    said |= {
        "options": json.dumps(plain(runs[0].report.subject.options), sort_keys=True),
        "tuned": runs[0].report.subject.tune or "nothing",
        "seeds": ", ".join(seeds) or "nothing was trained",
        "numbers": "mean ± deviation over seeds, 95 % interval over videos of the mean over seeds",
        _SEED: str(seed),
    }
    if len(commits) > 1:
        said["commits"] = ", ".join(commits)
    features = {"features": runs[0].report.subject.store}
    weights = {
        f"weights of {name}": run.report.subject.checkpoint
        for name, run in zip(of[3:], runs, strict=True)
        if run.report.subject.checkpoint is not None
    }
    return replace(
        first, of=tuple(of), protocol=said, hashes={**first.hashes, **features, **weights}, values=_values(runs, seed)
    )


def seed_of(card: Card) -> int:
    """Return the seed of a card's bootstrap."""
    said = card.protocol.get(_SEED, "0")
    return int(said) if said.isdecimal() else 0


def read(results: Path) -> Scored:
    """Read the result on test of a run. Raises DataError where it is not there."""
    report = EvaluateReport.from_file(results / "test.json")
    return Scored(report, referee.read_ranks(results / "test.ranks.safetensors"))


# ------------------------------------------------------------------------------------------------------------ private


def _card(report: TableReport, plan: SweepHead, table: DataTable, row: TableRow, seed: int) -> Card:
    workspace = sweep_plan.workspace_of(report.folder, table.data)
    runs = [read(workspace.run(name).results) for name in row.runs]
    of = (TABLE, report.folder.name, table.data, *row.runs)
    found = numbers_of(of, runs, seed=seed)
    tests = {
        f"{side} R@1 against {row.against}": f"{test.found.difference:+.2f} points, p = {test.found.p:.2g}, "
        f"{test.p_holm:.2g} after Holm's correction for {sum(len(r.tests) for r in table.rows)} tests "
        f"({test.found.test})"
        for side, test in row.tests.items()
    }
    return replace(found, protocol={**found.protocol, **tests}, command=_command(plan, table, row, report.folder.name))


def _command(plan: SweepHead, table: DataTable, row: TableRow, name: str) -> str:
    """Return the command line of the sweep that has this row alone."""
    cell = next(cell for cell in plan.cells if cell.run == row.runs[0] and cell.data == table.data)
    at = list(dict.fromkeys(c.data for c in plan.cells)).index(table.data)
    found = (plan.tuned or {}).get(sweep_plan.row_key(cell.data, cell.method, cell.encoder), {})
    settings = [f"{path}={_yaml(value)}" for path, value in {**config.flatten(plan.settings), **found}.items()]
    return commands.tvr(
        "sweep",
        methods=cell.method,
        encoders=cell.encoder,
        data=plan.data[at],
        seeds=",".join(map(str, row.seeds or plan.seeds[:1])),
        set=settings,
        name=f"{name}-again",
    )


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _values(runs: Sequence[Scored], seed: int) -> tuple[Value, ...]:
    """Return the numbers of a row. A ranking may turn out otherwise for one query a seed on another machine."""
    folded, spread = mean_and_deviation([run.report.judged for run in runs])
    values = []
    for i, side in enumerate(("t2v", "v2t")):
        found, over = getattr(folded, side), getattr(spread, side)
        ranks = [run.ranks[i] for run in runs]
        query = 100.0 / len(per_query(ranks[0])[1])
        low, high = significance.interval_over_seeds(ranks, "R@1", seed=seed)
        for name in _SHOWN:
            interval = {"low": low, "high": high} if name == "R@1" else {}
            allowed = query if name.startswith("R@") else 0.01 * found[name]
            values.append(
                Value(name=f"{side} {name}", found=found[name], allowed=allowed, deviation=over[name], **interval)
            )
    recalls = sum(value.allowed or 0.0 for value in values if " R@" in value.name)
    return (*values, Value(name="rsum", found=folded.rsum, allowed=recalls, deviation=spread.rsum))
