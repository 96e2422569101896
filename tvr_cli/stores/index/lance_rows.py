"""A clip as a row of a table: which columns it has, what of it is packed into one of them, and its checksums.

An answer is made from some two hundred rows that lie apart, and a table reads each column of each of them by itself:
fifteen columns cost three times what one of all their bytes does. So times, texts and small tensors are packed into the
column `clip`, and only large tensors and what is searched have columns of their own. What lists and filters read of all
rows has small columns besides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvr_cli.stores.dtypes import NAMES
from tvr_cli.stores.index.head import Head
from tvr_cli.stores.index.lance_table import TYPES, Column
from tvr_cli.stores.index.writer import DoesNotFit, IndexBlock, IndexedClip, half, halves, vectors

PACKED = "clip"
LISTED_SUM = "listed.sum"
LISTED = ("id", "file_id", "path", "start", "end", "key", "n_frames")
_SUM_BYTES = 16
_PACKED_BYTES = 4096  # a tensor above this has a column: reading it along would be what a stage of small ones costs
_TEXTS = "surrogatepass"  # names of files need not be text

Parts = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> type and shape of a row, as in `head.Table`


class Rows:
    """Makes rows of a table from blocks of clips. files: id -> number; counts on from `number`."""

    def __init__(self, head: Head, parts: Parts, files: dict[str, int], number: int):
        self._head, self._parts, self._files, self._number, self.count = head, parts, files, number, 0

    @property
    def files(self) -> int:
        return len(self._files)

    def made(self, block: IndexBlock) -> dict[str, Any]:
        """Return the columns of a block. Raises DoesNotFit where it is not like those before."""
        held = parts_of(block, self._head)
        for name, x in held.items():
            wanted, shape = self._parts.get(name, (None, None))
            if (NAMES[x.dtype], tuple(x.shape[1:])) != (wanted, shape):
                raise DoesNotFit(f"{name!r} has rows of {list(x.shape[1:])} {NAMES[x.dtype]} now")
        n = len(block.clips)
        numbers = [self._files.setdefault(clip.file_id, len(self._files)) for clip in block.clips]
        made: dict[str, Any] = {
            "row": np.arange(self._number, self._number + n),
            "file": np.array(numbers, np.int32),
            "id": [c.id for c in block.clips],
            "file_id": [c.file_id for c in block.clips],
            "path": [c.path for c in block.clips],
            "start": np.array([c.start for c in block.clips]),
            "end": np.array([c.end for c in block.clips]),
            "key": block.encoding.key.numpy(),
            "n_frames": block.n_frames.int().numpy(),
            **{name: _numbers(x) for name, x in held.items()},
        }
        made["coarse"] = made["coarse"].astype(np.float32)
        made[LISTED_SUM] = listed_sums(made)
        made[PACKED] = self._packed(made)
        self._number, self.count = self._number + n, self.count + n
        return made

    def _packed(self, made: Mapping[str, Any]) -> list[bytes]:
        fixed = np.zeros(len(made["row"]), packed(self._parts))
        for name in fixed.dtype.names[1:]:
            fixed[name] = made[name].reshape(fixed[name].shape)
        own = [made[name] for name in own_columns(self._parts)]
        data = fixed.view(np.uint8).reshape(len(fixed), -1)[:, _SUM_BYTES:]
        bodies = [row.tobytes() + texts for row, texts in zip(data, _texts(made), strict=True)]
        return [_sum(body, own, i) + body for i, body in enumerate(bodies)]


class ReadRows:
    """Rows that were read for an answer, by the names of parts and of what is packed.

    columns: PACKED, and of the own columns those that were asked for. Raises ValueError where the packed column is too
    short to be one.
    """

    def __init__(self, columns: Mapping[str, Any], parts: Parts):
        kind = packed(parts)
        self._data, self._columns, self._parts = columns[PACKED], columns, parts
        if any(len(row) < kind.itemsize for row in self._data):
            raise ValueError(f"its column {PACKED!r} is cut")
        self._fixed = np.frombuffer(b"".join([row[: kind.itemsize] for row in self._data]), kind)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, name: str) -> np.ndarray:
        found: np.ndarray = self._columns[name] if name in self._columns else self._fixed[name].copy()
        return found

    def texts(self, i: int) -> list[str]:
        """Return the id of a clip, the id of its file and the path, as far as they can be read."""
        return self._data[i][self._fixed.dtype.itemsize :].decode("utf-8", "replace").split("\0")

    def is_whole(self, i: int) -> bool:
        """Whether a row is what was written; all own columns must have been asked for."""
        data = self._data[i]
        own = [self._columns[name] for name in own_columns(self._parts)]
        return bool(data[:_SUM_BYTES] == _sum(data[_SUM_BYTES:], own, i))

    def clip(self, i: int) -> IndexedClip:
        """Return a clip, to be shown, of a row that is whole."""
        fixed, texts = self._fixed[i], self._data[i][self._fixed.dtype.itemsize :]
        id_, file_id, path = texts.decode("utf-8", _TEXTS).split("\0")
        ts = tuple(fixed["ts"][: int(fixed["n_frames"])].tolist())
        return IndexedClip(id_, file_id, path, float(fixed["start"]), float(fixed["end"]), ts)


def parts_of(block: IndexBlock, head: Head) -> dict[str, Tensor]:
    """Return what a row keeps of clips besides who they are: coarse vectors, times, the method's tensors."""
    coarse = vectors(block.coarse)
    found = {"coarse": half("coarse", coarse.float()).cpu(), "ts": block.ts.double()}
    for name, kept in head.encoding.items():
        x = block.encoding[name]
        if kept.in_coarse:
            if not x.equal(coarse[:, 0]):
                raise DoesNotFit(f"{name!r} is not the coarse vector any more")
        else:
            found[f"t.{name}"] = half(name, x) if head.stored == "float16" and halves(x) else x
    return found


def columns(parts: Parts) -> list[Column]:
    """Return the columns of a table of such rows.

    Coarse vectors are written wide, as the numbers of half precision that they are: where the processor has no
    arithmetic of half precision, cells of such a column take four times as long to build.
    """
    fixed = [
        Column("row", "int64"), Column("file", "int32"), Column("id", "text"), Column("file_id", "text"),
        Column("path", "text"), Column("start", "float64"), Column("end", "float64"), Column("key", "int64"),
        Column("n_frames", "int32"), Column(LISTED_SUM, "bytes", _SUM_BYTES), Column(PACKED, "bytes"),
    ]  # fmt: skip
    own = {name: "float32" if name == "coarse" else parts[name][0] for name in own_columns(parts)}
    return [*fixed, *(Column(name, dtype, prod(parts[name][1])) for name, dtype in own.items())]


def own_columns(parts: Parts) -> list[str]:
    """Return the names of the parts that are not packed: coarse vectors, which are searched, and large tensors."""
    return sorted(name for name, (dtype, shape) in parts.items() if name == "coarse" or _is_large(dtype, shape))


def packed(parts: Parts) -> np.dtype[Any]:
    """Return what the packed column begins with; the texts follow, and 0 stands between them."""
    own = own_columns(parts)
    small = [(name, f"<{_short(dtype)}", shape) for name, (dtype, shape) in sorted(parts.items()) if name not in own]
    fixed = [("sum", "u1", (_SUM_BYTES,)), ("key", "<i8"), ("start", "<f8"), ("end", "<f8"), ("n_frames", "<i4")]
    return np.dtype([*fixed, *small])


def listed_sums(rows: Mapping[str, Any]) -> list[bytes]:
    """Return a checksum of each row of what lists read."""
    numbers = [np.ascontiguousarray(rows[name]) for name in ("start", "end", "key", "n_frames")]
    return [_digest(texts + b"".join(x[i].tobytes() for x in numbers)) for i, texts in enumerate(_texts(rows))]


def _texts(rows: Mapping[str, Any]) -> Iterator[bytes]:
    for texts in zip(rows["id"], rows["file_id"], rows["path"], strict=True):
        yield "\0".join(texts).encode("utf-8", _TEXTS)


def _sum(body: bytes, own: Sequence[np.ndarray], i: int) -> bytes:
    return _digest(body + b"".join(x[i].tobytes() for x in own))


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_SUM_BYTES]


def _is_large(dtype: str, shape: Sequence[int]) -> bool:
    return np.dtype(TYPES[dtype]).itemsize * prod(shape) > _PACKED_BYTES


def _short(dtype: str) -> str:
    return np.dtype(TYPES[dtype]).str[1:]


def _numbers(x: Tensor) -> np.ndarray:
    """[n, width] as the table has it: bfloat16 by its bits, truth as 0 and 1."""
    flat = x.contiguous().view(len(x), -1)
    if x.dtype == torch.bfloat16:
        return flat.view(torch.int16).numpy()
    return flat.to(torch.uint8).numpy() if x.dtype == torch.bool else flat.numpy()
