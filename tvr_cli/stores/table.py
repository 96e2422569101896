"""A table by column in one file that is mapped, never parsed: the clips of a feature store, or its captions.

Its parts lie one after the other, each from a multiple of 8 bytes on, and behind them the checksums of all groups of
rows (`parts.py`). The file is named after these, so another content is another file, and a head decides which counts.
A table may have several axes: that of its rows, and those of what rows share (files, shards), which a row numbers.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_cli.stores.columns import ALIGNED, Column, Columns, Table, inner_parts
from tvr_cli.stores.dtypes import DTYPES, NAMES
from tvr_cli.stores.mapped import Damaged, MappedFile, MappedPart, MappedTexts
from tvr_cli.stores.parts import SUM_BYTES, Part, strings


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
    gaps = (bytes(-len(blob) % ALIGNED) for blob in blobs)
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
    offsets, inner = inner_parts(name, column)
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


def rows_of(index: Sequence[int] | Tensor) -> Tensor:
    """Return rows as a tensor [n] int64."""
    if isinstance(index, Tensor):
        return index.to(torch.int64)
    if isinstance(index, range):
        return torch.arange(index.start, index.stop, index.step)
    return torch.tensor(list(index), dtype=torch.int64)
