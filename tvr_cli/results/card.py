"""The card: one format for what a reader must know to believe a number, whether it was measured or verified.

`tvr evaluate --protocol-card` is a rendering of one; `tvr verify` makes one of each verification, `tvr table` one of
each row, and `tvr verify --card` does both again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tvr_cli.errors import DataError
from tvr_cli.files import read_json
from tvr_cli.results.base import OPTIONAL, Result

TABLE = "table"  # the first word of what a row of a table is of
_CONTENT = "content"

# NOT COMPARABLE: the number is beside the point, because it is of something else. LEFT OUT: this machine cannot.
Status = Literal["PASS", "FAIL", "NOT COMPARABLE", "LEFT OUT"]


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number. expected: what others published, None of a measurement. allowed: the largest difference from it, of a
    row of a table from what is found when it is scored again. deviation: over seeds. low, high: of its 95 % interval.
    """

    name: str
    found: float
    expected: float | None = field(default=None, metadata=OPTIONAL)
    allowed: float | None = field(default=None, metadata=OPTIONAL)
    deviation: float | None = field(default=None, metadata=OPTIONAL)
    low: float | None = field(default=None, metadata=OPTIONAL)
    high: float | None = field(default=None, metadata=OPTIONAL)

    def text(self) -> str:
        """Return it as a sentence has it: `t2v R@1 57.50 ± 0.41 [54.40, 60.53]`."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        interval = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.name} {self.found:.2f}{spread}{interval}"


@dataclass(frozen=True, kw_only=True)
class Code:
    """What computed it. commit, dirty: of a checkout; None of an installed package."""

    tvr: str
    commit: str | None
    dirty: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Card(Result):
    """What was done, on what, with what, and what came out.

    of: `evaluate`; `table`, a sweep, its data set and the runs of a row; or the words of `tvr verify` that do it again.
    status: None of a measurement. protocol: what decides
    the number, by name, in the order in which people read it. hashes: sha256 of what it was computed from, by name:
    annotation files, ids, weights, features. values: the numbers. versions: of packages, by name. device: None where it
    was not noted. who: by whom, where they say so. command: what makes the number from the data set's folder. content:
    sha256 of all the rest, so that an edited number shows.
    """

    schema = "card"
    of: tuple[str, ...]
    status: Status | None = field(default=None, metadata=OPTIONAL)
    protocol: Mapping[str, str]
    hashes: Mapping[str, str]
    values: tuple[Value, ...]
    code: Code
    versions: Mapping[str, str]
    device: str | None = None
    who: str | None = None
    command: str | None = field(default=None, metadata=OPTIONAL)
    content: str | None = field(default=None, metadata=OPTIONAL)

    @classmethod
    def from_file(cls, path: Path, fix: str = "") -> Card:
        """Read a card. Raises DataError as every result does, and for one that is not as it was written."""
        data = read_json(path, fix=fix)
        card = cls.from_json(data, repr(str(path)), fix)
        if card.content is not None and card.content != _digest(data):
            raise DataError(
                f"{str(path)!r} was changed after it was written: its content has the sha256 {_digest(data)[:12]}…, "
                f"and it says {card.content[:12]}…; ask for the card as it was"
            )
        if card.content is None and card.of[:1] == (TABLE,):
            raise DataError(f"{str(path)!r} is of a table's row and lacks the sha256 of its content: it was changed")
        return card

    def sealed(self) -> Card:
        """Return it with the sha256 of its content."""
        return replace(self, content=_digest(self.to_json()))

    def lines(self) -> list[str]:
        """Return the block of text to cite: protocol, hashes and code, one a line."""
        known = {
            **self.protocol,
            "sha256": "; ".join(f"{name} {digest}" for name, digest in self.hashes.items()),
            "code": f"tvr {self.code.tvr}, commit {self.code.commit or 'unknown'}",
        }
        width = max(len(name) for name in known)
        return [f"{name:<{width}}  {value}" for name, value in known.items() if value]

    def paragraph(self) -> str:
        """Return sentences for the appendix of a paper: the numbers, and how they came about."""
        numbers = ", ".join(value.text() for value in self.values)
        protocol = "; ".join(f"{name}: {value}" for name, value in self.protocol.items())
        hashes = ", ".join(f"{name} {digest[:16]}" for name, digest in self.hashes.items())
        said = [f"{numbers}.", f"How it was measured: {protocol}.", f"Computed from (sha256, shortened): {hashes}."]
        said.append(f"Computed by tvr {self.code.tvr}, commit {self.code.commit or 'unknown'}.")
        if self.command:
            said.append(f"Command: {self.command}")
        return " ".join(said)


def _digest(data: Mapping[str, Any]) -> str:
    """Return the sha256 of a card's JSON without what is said of it: keys sorted, no blanks, UTF-8."""
    rest = {name: value for name, value in data.items() if name != _CONTENT}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
