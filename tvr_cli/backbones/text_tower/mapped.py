"""Tensors of a safetensors file as numpy arrays over a memory map: what is not touched is never read."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tvr_cli import files
from tvr_cli.errors import DataError

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}
_LONGEST_HEADER = 100_000_000  # bytes, the format's own limit


class MappedTensors(Mapping[str, np.ndarray]):
    """The tensors of one file by name; floating ones come out as float32, cast when they are asked for.

    Raises DataError, when it is opened, for a file that is no whole safetensors file.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            (length,) = struct.unpack_from("<Q", self._bytes)
            if length > min(_LONGEST_HEADER, len(self._bytes) - 8):
                raise ValueError(f"a header of {length} bytes in a file of {len(self._bytes)}")
            self._start = 8 + length
            header = files.parse_json(self._bytes[8 : self._start])
            header.pop("__metadata__", None)
            self._entries = {name: self._checked(entry) for name, entry in header.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as e:
            raise DataError(f"{str(path)!r} is no readable safetensors file: {e}") from e

    def __getitem__(self, name: str) -> np.ndarray:
        kind, shape, start = self._entries[name]
        count = math.prod(shape)
        array = np.frombuffer(self._bytes, _TYPES[kind], count, self._start + start).reshape(shape)
        if kind == "BF16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(np.float32) if kind in ("F16", "F64") else array

    def rows(self, name: str, index: np.ndarray) -> np.ndarray:
        """Return some rows of a matrix, reading only those."""
        kind, shape, start = self._entries[name]
        count = math.prod(shape)
        array = np.frombuffer(self._bytes, _TYPES[kind], count, self._start + start).reshape(shape)[index]
        return (array.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else array.astype(np.float32)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self._entries[name][1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _checked(self, entry: dict) -> tuple[str, tuple[int, ...], int]:
        kind, shape, (start, end) = str(entry["dtype"]), tuple(int(n) for n in entry["shape"]), entry["data_offsets"]
        size = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
        if not 0 <= start <= end <= len(self._bytes) - self._start or end - start != size or min(shape, default=0) < 0:
            raise ValueError(f"a tensor of {shape} at {start} to {end}")
        return kind, shape, int(start)
