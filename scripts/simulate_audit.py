"""Simulate rows of recalls, honest and with planted faults, and count what `tvr audit` says of them.

    python scripts/simulate_audit.py --write

Honest rows are counts over the queries that they claim, rounded or cut; means of three such rows; and rows that claim
the videos of a set whose queries are captions. Planted faults are tied ranks counted twice, videos that are missing,
and another gallery under the claimed number. A row is `named` when its verdict names another number than the claimed
one as the cause. The output, one line a kind and number of decimals, is tests/golden/audit/simulation.csv.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from tvr_cli.engine.evaluation import digits
from tvr_cli.engine.evaluation.row import row_of
from tvr_cli.engine.evaluation.verdict import audit

OUTPUT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "audit" / "simulation.csv"
SIZES = (1000, 1004, 4917, 1500, 670, 500, 837, 2048)  # test sets in use, and some that nobody knows
OTHERS = (999, 1003, 1008, 1037, 4885, 1335, 879, 824)  # galleries that were seen in place of another one
DECIMALS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Count:
    """Rows of one kind with so many decimals, and how many of them were named."""

    kind: str
    decimals: int
    rows: int
    named: int


@dataclass(frozen=True)
class Simulated:
    """A row: what it claims, what it is counted over, how its digits are made of the recalls."""

    kind: str
    claimed: int
    queries: int
    runs: int = 1
    cut: bool = False


def simulate(seed: int, honest: int, planted: int) -> list[Count]:
    """Audit `honest` and `planted` rows, the decimals in turn."""
    rng = np.random.default_rng(seed)
    rows, named = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
    for make, number, kinds in ((_honest, honest, 4), (_planted, planted, 3)):
        for i, row in zip(range(number), make(rng), strict=False):
            places = DECIMALS[i // kinds % len(DECIMALS)]
            rows[row.kind, places] += 1
            named[row.kind, places] += _named(row, places, rng)
    return [Count(*key, rows[key], named[key]) for key in sorted(rows)]


def _honest(rng: np.random.Generator) -> Iterator[Simulated]:
    while True:
        size = int(rng.choice(SIZES))
        yield Simulated("honest, rounded", size, size)
        yield Simulated("honest, cut", size, size, cut=True)
        yield Simulated("honest, mean of three runs", size, size, runs=3)
        videos = int(rng.choice(list(digits.QUERIES_OF_VIDEOS)))
        yield Simulated("honest, videos claimed, captions asked", videos, digits.QUERIES_OF_VIDEOS[videos])


def _planted(rng: np.random.Generator) -> Iterator[Simulated]:
    while True:
        size = int(rng.choice(SIZES))
        entries = size + 2 * int(rng.integers(1, max(2, size // 80)))
        yield Simulated("planted, ties counted twice", size, entries)
        yield Simulated("planted, videos missing", size, int(size * rng.uniform(0.6, 0.99)))
        claimed = {999: 1000, 879: 1000, 1008: 1000, 4885: 4917, 1335: 1500}
        other = int(rng.choice(OTHERS))
        yield Simulated("planted, another gallery", claimed.get(other, 1004), other)


def _named(row: Simulated, places: int, rng: np.random.Generator) -> bool:
    recalls = np.zeros(3)
    for _ in range(row.runs):
        rates = np.sort(rng.uniform(0.2, 0.95, 3))
        hits = np.sort(rng.binomial(row.queries, rates))
        recalls += 100.0 * hits / row.queries / row.runs
    if row.cut:
        recalls = np.floor(recalls * 10**places + 1e-9) / 10**places
    typed = {k: f"{value:.{places}f}%" for k, value in zip((1, 5, 10), recalls, strict=True)}
    found = audit(row_of("row", row.claimed, typed))
    return any(search.tells for search in found.tried) and "cannot give" in found.verdict


def main() -> None:
    """Print the counts, or write them where the test reads them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--honest", type=int, default=1000)
    parser.add_argument("--planted", type=int, default=1500, help="1 125 of them have two decimals or more")
    parser.add_argument("--write", action="store_true", help=f"write {OUTPUT.name} in place of printing")
    asked = parser.parse_args()
    counts = simulate(asked.seed, asked.honest, asked.planted)
    with OUTPUT.open("w", newline="") if asked.write else sys.stdout as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([f.name for f in fields(Count)])
        writer.writerows(astuple(count) for count in counts)


if __name__ == "__main__":
    main()
