"""A segment of an index, opened: its parts in memory maps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tvr_cli.stores.index.head import ROOM, Segment
from tvr_cli.stores.mapped import Damaged, MappedFile, MappedPart, MappedTexts
from tvr_cli.stores.parts import SUM_BYTES, strings

if TYPE_CHECKING:
    from torch import Tensor

ENCODING_ROWS = 1024  # clips a block, in building and in exhaustive search
_BLOCK_BYTES = 2**24  # of float32 that a block of mapped rows becomes: smaller ones cost more in calls than in cache
_FEWEST_ROWS = 16  # of such a block


@dataclass(frozen=True, slots=True)
class IndexedClip:
    """One clip of the index. start, end: its seconds in the file at `path`. ts: seconds of its real frames."""

    id: str
    file_id: str
    path: str
    start: float
    end: float
    ts: tuple[float, ...] = ()


class MappedSegment:
    """The parts of one segment. rowed: those of a row a clip, columns of text aside. sha256: of all that it holds.

    Raises DataError when a file has another size or the checksums differ, FileNotFoundError when one is missing.
    """

    def __init__(self, folder: Path, segment: Segment, damaged: Damaged):
        self.clips, self.files, self._damaged = segment.clips, segment.files, damaged
        sums = (folder / segment.sums).read_bytes()
        if hashlib.sha256(sums).hexdigest() != segment.sums_sha256:
            raise damaged(f"{str(folder / segment.sums)!r} (checksums) is not what was written")
        self.sha256 = segment.sums_sha256
        self.parts: dict[str, MappedPart] = {}
        start = 0
        for part in segment.parts:
            stop = start + part.groups * SUM_BYTES
            file = MappedFile(folder / part.file, part.size_bytes, damaged)
            self.parts[part.name] = MappedPart(file, part, sums[start:stop], damaged)
            start = stop
        if start != len(sums):
            raise damaged(f"{str(folder / segment.sums)!r} (checksums) has {len(sums)} bytes, expected {start}")
        self.rowed = [n for n in self.parts if not n.startswith(("file.", "clip.id.", *ROOM))]
        self.ids, self.file_ids, self.paths = (
            MappedTexts(self.parts[strings(name)[0]], self.parts[strings(name)[1]], damaged)
            for name in ("clip.id", "file.id", "file.path")
        )

    def texts(self, name: str) -> list[str] | None:
        """Return all texts of a column, verified; None where the segment does not have it."""
        offsets, data = strings(name)
        if offsets not in self.parts or data not in self.parts:
            return None
        return MappedTexts(self.parts[offsets], self.parts[data], self._damaged).all()

    def __getitem__(self, name: str) -> Tensor:
        """Return the rows of a part."""
        return self.parts[name].tensor

    def array(self, name: str) -> np.ndarray:
        """Return the rows of a part as an array; of bfloat16 their bits."""
        return self.parts[name].array

    def rows_a_block(self, names: Sequence[str]) -> int:
        """Return how many rows of some parts are read at a time."""
        size = sum(math.prod(self.parts[name].part.shape[1:]) * 4 for name in names)
        return max(_FEWEST_ROWS, min(ENCODING_ROWS, _BLOCK_BYTES // max(1, size)))

    def verify(self, names: list[str], start: int, stop: int) -> None:
        """Raise DataError unless some rows of the parts `names` are what was written."""
        for name in names:
            self.parts[name].verify(start, stop)
