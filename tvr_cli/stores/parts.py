"""Tensors on disk as raw rows with a checksum a group of rows: what a head says of them. No torch, nothing is opened.

An index has a file a part; a table (`table.py`) has its parts in one file. They are opened by `mapped.py`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from tvr_cli import schema

# Bytes that share a checksum. An answer of ten rows hashes ten groups a part before it is shown, so groups are small:
# 16 KB are 11 µs, and their 16 bytes of checksum are 0.1 % of the file.
GROUP_BYTES = 16_384
SUM_BYTES = 16  # the first half of a sha256: nobody forges a checksum here, bits fall over
BYTES = {"bool": 1, "uint8": 1, "int32": 4, "int64": 8, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
DTYPE = schema.one_of(*BYTES)


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor in a file: raw, little-endian, row by row. rows_a_group: rows that share a checksum."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * BYTES[self.dtype]

    @property
    def size_bytes(self) -> int:
        return self.shape[0] * self.row_bytes

    @property
    def rows_a_group(self) -> int:
        return max(1, GROUP_BYTES // max(1, self.row_bytes))

    @property
    def groups(self) -> int:
        return -(-self.shape[0] // self.rows_a_group)

    def checksums(self, data: memoryview) -> bytes:
        """Return the checksums of all groups of the part's bytes."""
        size = self.rows_a_group * self.row_bytes
        groups = (data[i * size : (i + 1) * size] for i in range(self.groups))
        return b"".join(group_sum(group) for group in groups)


def group_sum(data: bytes | bytearray | memoryview) -> bytes:
    """Return the checksum of a group of rows."""
    return hashlib.sha256(data).digest()[:SUM_BYTES]


def strings(name: str) -> tuple[str, str]:
    """Return the two parts of a column of text."""
    return f"{name}.offsets", f"{name}.bytes"
