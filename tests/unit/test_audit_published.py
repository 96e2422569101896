"""Published rows through `tvr audit`, each verdict defended, and simulated ones: who is honest is not accused.

`golden/audit/published.csv` has a line a row: its digits as published, where they stand, the kind of verdict, and why
that is right. `golden/audit/simulation.csv` is the output of scripts/simulate_audit.py.
"""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tvr_cli.engine.evaluation.row import row_of
from tvr_cli.engine.evaluation.verdict import audit

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "tests" / "golden" / "audit"
with (FOLDER / "published.csv").open(newline="") as file:
    PUBLISHED = list(csv.DictReader(file))
VERDICTS = {
    "few digits": "so few digits prove nothing",
    "videos": "its text-to-video has",
    "ties counted twice": "1008 can: rank entries in published logs of MSR-VTT 1k-A, tied ranks counted twice",
}


def test_there_are_at_least_thirty_rows_with_a_source_and_a_defence() -> None:
    assert len(PUBLISHED) >= 30
    assert all(row["source"] and row["why"] for row in PUBLISHED)


@pytest.mark.parametrize("row", PUBLISHED, ids=[f"{row['name']}, {row['side']}" for row in PUBLISHED])
def test_a_published_row_has_the_verdict_that_is_defended(row: dict[str, str]) -> None:
    typed = {k: row[f"r{k}"] or None for k in (1, 5, 10)}
    found = audit(row_of(row["name"], int(row["queries"]), typed))
    assert VERDICTS[row["verdict"]] in found.verdict, row["why"]
    accusing = [word for word in ("counted twice", "missing", "leak", "cannot give") if word in found.verdict]
    assert bool(accusing) == (row["verdict"] == "ties counted twice"), found.verdict


def test_the_committed_simulation_keeps_its_promise() -> None:
    with (FOLDER / "simulation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    honest = [row for row in rows if row["kind"].startswith("honest")]
    planted = [row for row in rows if row["kind"].startswith("planted") and int(row["decimals"]) >= 2]
    assert sum(int(row["rows"]) for row in honest) >= 1000
    assert sum(int(row["rows"]) for row in planted) >= 1000
    assert sum(int(row["named"]) for row in honest) <= 0.01 * sum(int(row["rows"]) for row in honest)
    assert sum(int(row["named"]) for row in planted) >= 0.5 * sum(int(row["rows"]) for row in planted)


def test_a_small_simulation_accuses_no_honest_row_and_names_planted_faults() -> None:
    found = simulation().simulate(seed=7, honest=60, planted=60)
    assert sum(one.named for one in found if one.kind.startswith("honest")) == 0
    sharp = [one for one in found if one.kind.startswith("planted") and one.decimals >= 3]
    assert sum(one.named for one in sharp) >= 0.9 * sum(one.rows for one in sharp) > 0


def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulate_audit", ROOT / "scripts" / "simulate_audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module
