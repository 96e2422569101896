"""The card: one format for what a reader must know to believe a number, whether it was measured or verified.

`tvr evaluate --protocol-card` is a rendering of one; `tvr verify` makes one of each verification, and does it again
from one (`--card`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tvr_cli.results.base import OPTIONAL, Result

# NOT COMPARABLE: the number is beside the point, because it is of something else. LEFT OUT: this machine cannot.
Status = Literal["PASS", "FAIL", "NOT COMPARABLE", "LEFT OUT"]


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number. expected: what others published, None of a measurement. allowed: the largest difference from it."""

    name: str
    found: float
    expected: float | None = field(default=None, metadata=OPTIONAL)
    allowed: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Code:
    """What computed it. commit, dirty: of a checkout; None of an installed package."""

    tvr: str
    commit: str | None
    dirty: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Card(Result):
    """What was done, on what, with what, and what came out.

    of: `evaluate`, or the words of `tvr verify` that do it again. status: None of a measurement. protocol: what decides
    the number, by name, in the order in which people read it. hashes: sha256 of what it was computed from, by name:
    annotation files, ids, weights, features. values: the numbers. versions: of packages, by name. device: None where it
    was not noted. who: by whom, where they say so.
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

    def lines(self) -> list[str]:
        """Return the block of text to cite: protocol, hashes and code, one a line."""
        known = {
            **self.protocol,
            "sha256": "; ".join(f"{name} {digest}" for name, digest in self.hashes.items()),
            "code": f"tvr {self.code.tvr}, commit {self.code.commit or 'unknown'}",
        }
        width = max(len(name) for name in known)
        return [f"{name:<{width}}  {value}" for name, value in known.items() if value]
