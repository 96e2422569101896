"""Parts in memory maps: their rows, columns of text, and the checksums that a row is verified by.

Rows are arrays of numpy; the tensors over the same memory are made where they are asked for, so that who asks for none
does not import torch.
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tvr_cli import os_errors
from tvr_cli.errors import DataError
from tvr_cli.stores.parts import SUM_BYTES, Part, group_sum

if TYPE_CHECKING:
    from torch import Tensor

BFLOAT16 = "bfloat16"  # which numpy does not have: its arrays are the bits
Damaged = Callable[[str], DataError]  # makes the error for a finding, with the command that mends it


class MappedFile:
    """A file, mapped for reading (private to this process, so that nothing is ever written back).

    Raises DataError when it has another size than `size`, FileNotFoundError when it is missing, Unreadable or
    EnvironmentProblem where the system does not give it.
    """

    def __init__(self, path: Path, size: int, damaged: Damaged):
        self.path, self._size, self._damaged = path, size, damaged
        self.map: mmap.mmap | None = None
        try:
            with open(path, "rb") as f:
                found = f.seek(0, 2)
                self._require_size(found)
                if found:
                    self.map = mmap.mmap(f.fileno(), found, access=mmap.ACCESS_COPY)
        except FileNotFoundError:
            raise
        except OSError as e:
            raise os_errors.unread(e, path) or damaged(f"{str(path)!r} cannot be read ({e.strerror})") from e

    def require_whole(self) -> None:
        """Raise DataError when the file was cut since: reading beyond its end would end the process."""
        if self.map is not None:
            self._require_size(self.map.size())

    def _require_size(self, size: int) -> None:
        if size != self._size:
            raise self._damaged(f"{str(self.path)!r} has {size} bytes, expected {self._size}")


class MappedPart:
    """One tensor of a mapped file, from byte `start` on. array: its rows, not verified; of bfloat16 their bits."""

    def __init__(self, file: MappedFile, part: Part, sums: bytes, damaged: Damaged, *, start: int = 0):
        self.part, self._file, self._sums, self._damaged, self._start = part, file, sums, damaged, start
        self._rows, self._size = part.rows_a_group, part.size_bytes  # asked for at each hit, computed once
        self._verified = bytearray(part.groups)
        self._left = part.groups
        dtype = np.dtype("uint16" if part.dtype == BFLOAT16 else part.dtype)
        flat = (
            np.frombuffer(file.map, dtype, self._size // dtype.itemsize, start)
            if self._size and file.map
            else np.empty(0, dtype)
        )
        self.array: np.ndarray = flat.reshape(part.shape)

    @cached_property
    def tensor(self) -> Tensor:
        """The rows as a tensor over the same memory, not verified."""
        from tvr_cli.stores.dtypes import tensor_of

        return tensor_of(self.array, self.part.dtype)

    def require_whole(self) -> None:
        """Raise DataError when the file was cut since: reading beyond its end would end the process."""
        self._file.require_whole()

    def verify(self, start: int, stop: int) -> None:
        """Raise DataError unless the rows from `start` up to `stop` are what was written; each group is hashed once."""
        if self._left:
            for group in range(max(start, 0) // self._rows, min(-(-stop // self._rows), len(self._verified))):
                self._verify_once(group)

    def verify_rows(self, rows: Tensor | np.ndarray) -> None:
        """Raise DataError unless some rows are what was written; each group is hashed once."""
        if self._left:
            for group in np.unique(np.asarray(rows) // self._rows).tolist():
                self._verify_once(group)

    def verify_all(self) -> None:
        """Raise DataError unless every row is what was written, whatever was verified before."""
        self.require_whole()
        for group in range(self.part.groups):
            self._verify_group(group)

    def rows(self, index: Tensor) -> Tensor:
        """Return some rows, verified."""
        self.verify_rows(index)
        return self.tensor[index]

    def all(self) -> Tensor:
        """Return every row, verified."""
        self.verify(0, len(self.array))
        return self.tensor

    def _verify_once(self, group: int) -> None:
        if not self._verified[group]:
            self._verify_group(group)
            self._verified[group] = 1
            self._left -= 1

    def _verify_group(self, group: int) -> None:
        size, end = self._rows * self.part.row_bytes, self._start + self._size
        at = self._start + group * size
        data = memoryview(self._file.map)[at : min(at + size, end)] if self._file.map else b""
        if group_sum(data) != self._sums[group * SUM_BYTES : (group + 1) * SUM_BYTES]:
            rows = self._rows
            raise self._damaged(
                f"{str(self._file.path)!r} ({self.part.name}) differs from its checksum in the rows {group * rows} to "
                f"{min((group + 1) * rows, self.part.shape[0]) - 1}"
            )


class MappedTexts:
    """A column of UTF-8 texts: where each begins, and the bytes of all, one after the other."""

    def __init__(self, offsets: MappedPart, data: MappedPart, damaged: Damaged):
        self._offsets, self._data, self._damaged = offsets, data, damaged

    def __len__(self) -> int:
        return len(self._offsets.array) - 1

    def __getitem__(self, row: int) -> str:
        """Return a text, verified."""
        self._offsets.verify(row, row + 2)
        start, stop = self._offsets.array[row : row + 2].tolist()
        self._data.verify(start, stop)
        return self._decode(self._data.array[start:stop].tobytes())

    def all(self) -> list[str]:
        """Return every text, verified."""
        return self.between(0, len(self))

    def between(self, start: int, stop: int) -> list[str]:
        """Return the texts from row `start` up to `stop`, verified."""
        self._offsets.verify(start, stop + 1)
        ends = self._offsets.array[start : stop + 1].tolist()
        first, last = ends[0], ends[-1]
        self._data.verify(first, last)
        data = self._data.array[first:last].tobytes()
        return [self._decode(data[a - first : b - first]) for a, b in itertools.pairwise(ends)]

    def take(self, rows: Sequence[int]) -> list[str]:
        """Return some texts, verified, in the order of `rows`."""
        if not rows:
            return []
        first, last = min(rows), max(rows) + 1
        if last - first <= 2 * len(rows):  # nearly all of a run: its bytes are read at once
            held = self.between(first, last)
            return [held[row - first] for row in rows]
        return [self[row] for row in rows]

    def _decode(self, data: bytes) -> str:
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as e:
            raise self._damaged(f"a name in {self._data.part.file!r} is no text ({e})") from e
