"""A table by column in one file that is mapped, never parsed: the clips of a feature store, or its captions.

Its parts lie one after the other, each from a multiple of 8 bytes on, and behind them the checksums of all groups of
rows (`parts.py`). The file is named after these, so another content is another file, and a head decides which counts.
A table may have several axes: that of its rows, and those of what rows share (files, shards), which a row numbers.
"""

from __future__ import annotations

import hashlib
import math
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tvr_cli import files, schema
from tvr_cli.schema import Misfit
from tvr_cli.stores.mapped import DTYPES, NAMES, Damaged, MappedFile, MappedPart, MappedTexts
from tvr_cli.stores.parts import BYTES, DTYPE, SUM_BYTES, Part, strings

TABLE = re.compile(r"(clips|captions)-[0-9a-f]{16}\.table")
_ALIGNED = 8


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
            starts.append(-(-(starts[-1] + part.size_bytes) // _ALIGNED) * _ALIGNED)
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


def pack(what: str, columns: Columns, values: Mapping[str, Any]) -> tuple[Table, bytes]:
    """Serialise a table. values: of each column a sequence: numbers, texts, or sequences of numbers."""
    parts, blobs = [], []
    for column in columns:
        for name, rows in _parts_of(column, columns[column], values[column]):
            parts.append(Part(name, "", NAMES[rows.dtype], tuple(rows.shape)))
            blobs.append(_bytes(rows))
    sums = b"".join(part.checksums(blob) for part, blob in zip(parts, blobs, strict=True))
    digest = hashlib.sha256(sums).hexdigest()
    file = f"{what}-{digest[:16]}.table"
    table = Table(file, tuple(Part(p.name, file, p.dtype, p.shape) for p in parts), digest)
    gaps = (bytes(-len(blob) % _ALIGNED) for blob in blobs)
    data = b"".join(x for pair in zip(blobs, gaps, strict=True) for x in pair) + sums
    return table, data


class MappedTable:
    """A table, opened: its columns are read row by row or whole, and verified as they are.

    Raises DataError when the file has another size or other checksums than the head says, or is missing.
    """

    def __init__(self, folder: Path, table: Table, columns: Columns, damaged: Damaged):
        self.table, self._columns = table, columns
        path = folder / table.file
        try:
            file = MappedFile(path, table.size_bytes, damaged)
        except FileNotFoundError:
            raise damaged(f"{str(path)!r} is missing") from None
        *starts, end = table.starts
        sums = bytes(memoryview(file.map)[end:]) if file.map else b""
        if hashlib.sha256(sums).hexdigest() != table.sums_sha256:
            raise damaged(f"{str(path)!r} differs from its checksum (in the checksums of its rows)")
        self.parts: dict[str, MappedPart] = {}
        at = 0
        for part, start in zip(table.parts, starts, strict=True):
            of_rows = sums[at : at + SUM_BYTES * part.groups]
            self.parts[part.name] = MappedPart(file, part, of_rows, damaged, start=start)
            at += len(of_rows)
        self.texts: dict[str, MappedTexts] = {
            name: MappedTexts(self.parts[strings(name)[0]], self.parts[strings(name)[1]], damaged)
            for name, column in columns.items()
            if column.kind == "texts"
        }
        self._held: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self.table)

    def numbers(self, name: str) -> Tensor:
        """Return a whole column of numbers, verified."""
        return self.parts[name].all()

    def rows(self, name: str, index: Tensor) -> Tensor:
        """Return some rows of a column of numbers, verified."""
        return self.parts[name].rows(index)

    def all_texts(self, name: str) -> list[str]:
        """Return a whole column of texts, verified; it is kept."""
        if name not in self._held:
            self._held[name] = self.texts[name].all()
        return self._held[name]

    def lists(self, name: str, index: Tensor) -> list[tuple[int, ...]]:
        """Return some rows of a column of lists, verified."""
        offsets, items = self.parts[f"{name}.offsets"], self.parts[f"{name}.items"].all()
        starts, stops = offsets.rows(index).tolist(), offsets.rows(index + 1).tolist()
        return [tuple(items[a:b].tolist()) for a, b in zip(starts, stops, strict=True)]

    def verify_all(self) -> None:
        """Raise DataError unless every byte of the rows is what was written."""
        for part in self.parts.values():
            part.verify_all()


def _parts_of(name: str, column: Column, values: Any) -> Iterator[tuple[str, Tensor]]:
    dtype = DTYPES[column.dtype]
    if column.kind == "numbers":
        rows = values if isinstance(values, Tensor) else torch.tensor(list(values), dtype=dtype)
        yield name, rows.to(dtype).reshape(-1, *([] if column.width is None else [column.width]))
        return
    held = [text.encode("utf-8", "surrogatepass") for text in values] if column.kind == "texts" else list(values)
    ends, end = array("q", [0]), 0
    for item in held:
        end += len(item)
        ends.append(end)
    offsets, inner = _inner(name, column)
    yield offsets, torch.tensor(ends, dtype=torch.int64)
    if column.kind == "texts":
        joined = bytearray(b"".join(held))
        yield inner, torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0, dtype=torch.uint8)
    else:
        yield inner, torch.tensor([number for item in held for number in item], dtype=dtype)


def _bytes(rows: Tensor) -> memoryview:
    if not rows.numel():
        return memoryview(b"")
    return memoryview(rows.contiguous().view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type,unused-ignore]


def _inner(name: str, column: Column) -> tuple[str, str]:
    return strings(name) if column.kind == "texts" else (f"{name}.offsets", f"{name}.items")


def _require_fit(table: Table, columns: Columns, what: str) -> None:
    """Raise Misfit unless the parts of a table are those of its columns, with lengths that fit each other."""
    parts = {part.name: part for part in table.parts}
    wanted: dict[str, tuple[str, int | None, str | None, int]] = {}  # dtype, width, axis, rows more than the axis has
    for name, column in columns.items():
        if column.kind == "numbers":
            wanted[name] = (column.dtype, column.width, column.axis, 0)
        else:
            offsets, inner = _inner(name, column)
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


def rows_of(index: Sequence[int] | Tensor) -> Tensor:
    """Return rows as a tensor [n] int64."""
    if isinstance(index, Tensor):
        return index.to(torch.int64)
    if isinstance(index, range):
        return torch.arange(index.start, index.stop, index.step)
    return torch.tensor(list(index), dtype=torch.int64)
