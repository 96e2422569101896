"""Sorting more than memory holds: sorted runs in a file without a name, merged as they are read.

A leaf. The file is the folder's (where the store is, there is room) and the system takes it away with the process, so a
sort that is killed leaves nothing.
"""

from __future__ import annotations

import heapq
import marshal
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tvr_cli import files

_RUN = 20_000  # rows that are sorted in memory
_BLOCK = 32  # rows that are read at once of each run: what a merge holds is this times the number of runs


class Spill:
    """Rows (tuples of text, numbers and None) that come in any order and go out ascending. Use it as a context."""

    def __init__(self, folder: Path):
        self._waiting: list[tuple[Any, ...]] = []
        self._runs: list[tuple[int, int]] = []  # where each begins and ends in the file
        self._folder, self._end = folder, 0
        with files.disk_errors(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `__exit__`

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, row: tuple[Any, ...]) -> None:
        """Take a row. Raises EnvironmentProblem when the disk is full."""
        self._waiting.append(row)
        if len(self._waiting) >= _RUN:
            self._flush()

    def ascending(self) -> Iterator[tuple[Any, ...]]:
        """Yield all rows in their order; equal ones are all there."""
        self._flush()
        with files.disk_errors(self._folder):
            self._file.flush()
        return heapq.merge(*(self._rows(*run) for run in self._runs))

    def _flush(self) -> None:
        if not self._waiting:
            return
        self._waiting.sort()
        start = self._end
        with files.disk_errors(self._folder):
            for at in range(0, len(self._waiting), _BLOCK):
                # marshal takes half the time of JSON, and nobody else reads this.
                data = marshal.dumps(self._waiting[at : at + _BLOCK])
                self._end += self._file.write(len(data).to_bytes(8, "little") + data)
        self._runs.append((start, self._end))
        self._waiting = []

    def _rows(self, start: int, end: int) -> Iterator[tuple[Any, ...]]:
        while start < end:
            size = int.from_bytes(os.pread(self._file.fileno(), 8, start), "little")
            yield from marshal.loads(os.pread(self._file.fileno(), size, start + 8))
            start += 8 + size
