"""A table of docs/backbones.md that a test measures again: rows of words, then errors and cosines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "backbones.md"
MAKE = "python scripts/make_parity_table.py"


@dataclass(frozen=True)
class ParityTable:
    """columns: its head. words: how many of them, from the left, are no numbers. begin, end: marks on the page."""

    columns: Sequence[str]
    words: int
    begin: str
    end: str

    def text(self, rows: Sequence[Sequence[str]]) -> str:
        """Return the table of these rows."""
        lines = [self.columns, *rows]
        head, *body = (f"| {' | '.join(cells)} |" for cells in lines)
        return "\n".join([head, "|---" * len(self.columns) + "|", *body])

    def of(self, page: str) -> str:
        """Return the table that a page holds."""
        return page.partition(self.begin)[2].partition(self.end)[0].strip()

    def on(self, page: str, new: str) -> str:
        """Return a page with another table."""
        before, _, rest = page.partition(self.begin)
        return f"{before}{self.begin}{new}\n{self.end}{rest.partition(self.end)[2]}"

    def require(self, new: str) -> None:
        """Raise AssertionError where the page has other rows than these, or numbers beyond rounding."""
        found, wanted = (
            [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
            for text in (self.of(PAGE.read_text()), new)
        )
        assert [row[: self.words] for row in found] == [row[: self.words] for row in wanted], f"run: {MAKE}"
        for there, now in zip(found[2:], wanted[2:], strict=True):
            for one, other in zip(there[self.words :], now[self.words :], strict=True):
                assert (one == "none") == (other == "none"), f"run: {MAKE}"
                assert one == "none" or float(one) == pytest.approx(float(other), abs=2e-4), f"run: {MAKE}"


def error_text(error: float | None) -> str:
    return "none" if error is None else f"{error:.1e}"


def cosine_text(cosine: float) -> str:
    return f"{cosine:.5f}"
