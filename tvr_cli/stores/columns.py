"""The columns of a table, and what a head says of one. No torch, nothing is opened (`table.py` does).

A table's parts lie one after the other in one file, each from a multiple of 8 bytes on, and behind them the checksums
of all groups of rows (`parts.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tvr_cli import files, schema
from tvr_cli.schema import Misfit
from tvr_cli.stores.parts import BYTES, DTYPE, SUM_BYTES, Part, strings

TABLE = re.compile(r"(clips|captions)-[0-9a-f]{16}\.table")
ALIGNED = 8


@dataclass(frozen=True, slots=True)
class Column:
    """What a table has of every row of an axis: numbers (`width` of them, None = one), a text, or a list of numbers."""

    dtype: str
    kind: Literal["numbers", "texts", "lists"] = "numbers"
    width: int | None = None
    axis: str = "row"


Columns = Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class Table:
    """What a head says of a table. sums_sha256: of the checksums at the end of the file. len(): its rows."""

    file: str
    parts: tuple[Part, ...]
    sums_sha256: str

    def __len__(self) -> int:
        first = self.parts[0]
        return first.shape[0] - first.name.endswith(".offsets")

    @property
    def starts(self) -> list[int]:
        """The byte at which each part begins, and that of the checksums."""
        starts = [0]
        for part in self.parts:
            starts.append(-(-(starts[-1] + part.size_bytes) // ALIGNED) * ALIGNED)
        return starts

    @property
    def size_bytes(self) -> int:
        return self.starts[-1] + SUM_BYTES * sum(part.groups for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        parts = [{"name": p.name, "dtype": p.dtype, "shape": list(p.shape)} for p in self.parts]
        return {"file": self.file, "parts": parts, "sha256": self.sums_sha256}

    @staticmethod
    def from_json(said: Mapping[str, Any], columns: Columns, what: str, path: Path) -> Table:
        """Read what `to_json` wrote, its types being checked. what: `clips`, `captions`. path: of the head.

        Raises Misfit unless its parts are those of `columns` and fit each other, DataError for a name that is not bare.
        """
        name = files.bare_name(said["file"], path)
        if not TABLE.fullmatch(name) or not name.startswith(f"{what}-"):
            raise Misfit(f"{name!r} is no name of a table of {what}")
        table = Table(
            name, tuple(Part(p["name"], name, p["dtype"], tuple(p["shape"])) for p in said["parts"]), said["sha256"]
        )
        _require_fit(table, columns, what)
        return table


SHAPE = schema.record(
    {
        "file": schema.anything,  # `bare_name` says what is wrong with a name
        "parts": schema.items(
            schema.record({"name": schema.text, "dtype": DTYPE, "shape": schema.items(schema.count)})
        ),
        "sha256": schema.sha256,
    }
)


def inner_parts(name: str, column: Column) -> tuple[str, str]:
    """Return the names of the parts of a column of texts or lists: where each begins, and what is in them."""
    return strings(name) if column.kind == "texts" else (f"{name}.offsets", f"{name}.items")


def _require_fit(table: Table, columns: Columns, what: str) -> None:
    """Raise Misfit unless the parts of a table are those of its columns, with lengths that fit each other."""
    parts = {part.name: part for part in table.parts}
    wanted: dict[str, tuple[str, int | None, str | None, int]] = {}  # dtype, width, axis, rows more than the axis has
    for name, column in columns.items():
        if column.kind == "numbers":
            wanted[name] = (column.dtype, column.width, column.axis, 0)
        else:
            offsets, inner = inner_parts(name, column)
            wanted[offsets] = ("int64", None, column.axis, 1)
            wanted[inner] = ("uint8" if column.kind == "texts" else column.dtype, None, None, 0)
    if [part.name for part in table.parts] != list(wanted):
        raise Misfit(f"the table of {what} has other columns than its format")
    lengths: dict[str, int] = {}
    for name, (dtype, width, axis, more) in wanted.items():
        part = parts[name]
        fits = part.dtype == dtype and part.shape[1:] == (() if width is None else (width,)) and len(part.shape) > 0
        if not fits or math.prod(part.shape) * BYTES[dtype] >= 2**62:
            raise Misfit(f"the table of {what} has {name!r} as {part.dtype} of the shape {list(part.shape)}")
        if axis is not None and lengths.setdefault(axis, part.shape[0] - more) != part.shape[0] - more:
            raise Misfit(f"the columns of the table of {what} differ in length ({name!r})")
