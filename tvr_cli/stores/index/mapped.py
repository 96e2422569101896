"""Parts of an index in memory maps: their rows, columns of text, and the checksums that a row is verified by."""

from __future__ import annotations

import hashlib
import itertools
import mmap
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tvr_cli.errors import DataError
from tvr_cli.stores.index.head import ROOM, SUM_BYTES, Part, Segment, strings

DTYPES = {
    "bool": torch.bool, "uint8": torch.uint8, "int32": torch.int32, "int64": torch.int64, "float16": torch.float16,
    "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64,
}  # fmt: skip
Damaged = Callable[[str], DataError]  # makes the error for a finding, with the command that mends it


class MappedPart:
    """One tensor of a segment, mapped for reading (private to this process, so that nothing is ever written back).

    tensor: its rows. Raises DataError when the file is missing or has another size.
    """

    def __init__(self, folder: Path, part: Part, sums: bytes, damaged: Damaged):
        self.part, self._sums, self._damaged = part, sums, damaged
        self._path = folder / part.file
        self._rows, self._size = part.rows_a_group, part.size_bytes  # asked for at each hit, computed once
        self._verified = bytearray(part.groups)
        self._map: mmap.mmap | None = None
        try:
            with open(self._path, "rb") as f:
                size = f.seek(0, 2)
                self._require_size(size)
                if size:
                    self._map = mmap.mmap(f.fileno(), size, access=mmap.ACCESS_COPY)
        except FileNotFoundError:
            raise
        except OSError as e:
            raise damaged(f"{str(self._path)!r} cannot be read ({e.strerror})") from e
        dtype = DTYPES[part.dtype]
        flat = torch.frombuffer(self._map, dtype=dtype) if self._map else torch.empty(0, dtype=dtype)
        self.tensor: Tensor = flat.reshape(part.shape)

    def require_whole(self) -> None:
        """Raise DataError when the file was cut since: reading beyond its end would end the process."""
        if self._map is not None:
            self._require_size(self._map.size())

    def verify(self, start: int, stop: int) -> None:
        """Raise DataError unless the rows from `start` up to `stop` are what was written; each group is hashed once."""
        for group in range(max(start, 0) // self._rows, min(-(-stop // self._rows), len(self._verified))):
            if not self._verified[group]:
                self._verify_group(group)
                self._verified[group] = 1

    def verify_all(self) -> None:
        """Raise DataError unless every row is what was written, whatever was verified before."""
        self.require_whole()
        for group in range(self.part.groups):
            self._verify_group(group)

    def _verify_group(self, group: int) -> None:
        size = self._rows * self.part.row_bytes
        data = memoryview(self._map)[group * size : (group + 1) * size] if self._map else b""
        if hashlib.sha256(data).digest()[:SUM_BYTES] != self._sums[group * SUM_BYTES : (group + 1) * SUM_BYTES]:
            rows = self._rows
            raise self._damaged(
                f"{str(self._path)!r} ({self.part.name}) differs from its checksum in the rows {group * rows} to "
                f"{min((group + 1) * rows, self.part.shape[0]) - 1}"
            )

    def _require_size(self, size: int) -> None:
        if size != self._size:
            raise self._damaged(f"{str(self._path)!r} has {size} bytes, expected {self._size}")


class MappedTexts:
    """A column of UTF-8 texts: where each begins, and the bytes of all, one after the other."""

    def __init__(self, offsets: MappedPart, data: MappedPart, damaged: Damaged):
        self._offsets, self._data, self._damaged = offsets, data, damaged

    def __getitem__(self, row: int) -> str:
        """Return a text, verified."""
        self._offsets.verify(row, row + 2)
        start, stop = self._offsets.tensor[row : row + 2].tolist()
        self._data.verify(start, stop)
        return self._decode(bytes(self._data.tensor[start:stop].numpy()))

    def all(self) -> list[str]:
        """Return every text, verified."""
        self._offsets.verify(0, len(self._offsets.tensor))
        self._data.verify(0, len(self._data.tensor))
        data, ends = self._data.tensor.numpy().tobytes(), self._offsets.tensor.tolist()
        return [self._decode(data[start:stop]) for start, stop in itertools.pairwise(ends)]

    def _decode(self, data: bytes) -> str:
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as e:
            raise self._damaged(f"a name in {self._data.part.file!r} is no text ({e})") from e


class MappedSegment:
    """The parts of one segment. rowed: those of a row a clip, columns of text aside.

    Raises DataError when a file has another size or the checksums differ, FileNotFoundError when one is missing.
    """

    def __init__(self, folder: Path, segment: Segment, damaged: Damaged):
        self.clips, self.files, self._damaged = segment.clips, segment.files, damaged
        sums = (folder / segment.sums).read_bytes()
        if hashlib.sha256(sums).hexdigest() != segment.sums_sha256:
            raise damaged(f"{str(folder / segment.sums)!r} (checksums) is not what was written")
        self.parts: dict[str, MappedPart] = {}
        start = 0
        for part in segment.parts:
            stop = start + part.groups * SUM_BYTES
            self.parts[part.name] = MappedPart(folder, part, sums[start:stop], damaged)
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

    def verify(self, names: list[str], start: int, stop: int) -> None:
        """Raise DataError unless some rows of the parts `names` are what was written."""
        for name in names:
            self.parts[name].verify(start, stop)
