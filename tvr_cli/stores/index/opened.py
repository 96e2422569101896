"""A generation of an index, opened: its segments, which clips were deleted, and a clip that is to be shown. No torch.

`store.py` reads it as tensors and changes it, `arrays.py` reads it as arrays.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tvr_cli import commands
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.stores.index import place
from tvr_cli.stores.index.head import DELETED, Head
from tvr_cli.stores.index.segment import ENCODING_ROWS, IndexedClip, MappedSegment
from tvr_cli.stores.index.timeline import IndexedFilms

__all__ = ["ENCODING_ROWS", "OpenedIndex", "damaged"]

_I = TypeVar("_I", bound="OpenedIndex")


class OpenedIndex:
    """An opened generation. Files that a newer generation does without stay readable as long as this is held.

    folder: where the index stands. identity: what it was made from. head: see `head.Head`. deleted: [rows] bool, None
    where no clip was deleted.
    """

    def __init__(self, folder: Path, generation: Path, head: Head):
        self.folder, self.generation, self.head = folder, generation, head
        self._segments = [MappedSegment(generation, segment, self._damaged) for segment in head.segments]
        self._starts = list(itertools.accumulate((segment.clips for segment in head.segments), initial=0))
        self.deleted = self._read_deleted()
        self._live = head.rows - int(self.deleted.sum()) if self.deleted is not None else head.rows

    @property
    def identity(self) -> Mapping[str, Any]:
        return self.head.identity

    @property
    def measured(self) -> Mapping[str, Any]:
        return self.head.measured

    def __len__(self) -> int:
        return self._live

    @classmethod
    def open(cls: type[_I], folder: Path) -> _I:
        """Open the generation that counts.

        Raises DataError when there is none, or it is damaged, StoreMismatch on another format.
        """
        found = place.standing(folder)
        if found is None:
            raise place.begun(folder)
        if found.head is None:
            raise StoreMismatch(
                f"the index at {str(folder)!r} has format {found.format}, this tvr reads {place.INDEX_FORMAT}; build "
                f"it again with: {commands.tvr('index', workspace=folder.parent)}"
            )
        while True:
            generation, head = place.current(folder)
            try:
                return cls(folder, generation, head)
            except (DataError, FileNotFoundError) as e:
                if place.current(folder)[0] != generation:
                    continue  # it was replaced, and removed, in between
                if isinstance(e, DataError):
                    raise
                raise damaged(folder, f"{str(e.filename)!r} is missing") from None

    @cached_property
    def file_numbers(self) -> np.ndarray:
        """The number of each row's file, [rows] int32, not verified.

        Segments count their own. A file's windows come and go together, so those that can be found have one number.
        """
        if len(self._segments) == 1:
            return self._segments[0].array("clip.file")
        before = itertools.accumulate((segment.files for segment in self.head.segments), initial=0)
        parts = [segment.array("clip.file") + n for segment, n in zip(self._segments, before, strict=False)]
        return np.concatenate(parts, dtype=np.int32) if parts else np.empty(0, np.int32)

    def rows_of(self, only: Collection[str] | None) -> np.ndarray:
        """Return the rows of all clips that can be found, ascending; only: of the files with these ids."""
        live = np.ones(self.head.rows, bool) if self.deleted is None else ~self.deleted
        if only is not None:
            names = [name for segment in self._segments for name in segment.file_ids.all()]
            live &= np.array([name in only for name in names], bool)[self.file_numbers]
        return np.flatnonzero(live)

    def clip(self, row: int) -> IndexedClip:
        """Return a clip, to be shown. Raises DataError unless every group with a part of it is what was written."""
        self.require_whole()
        segment, local = self._at(row)
        segment.verify(segment.rowed, local, local + 1)
        number = int(segment.array("clip.file")[local])
        ts = segment.array("ts")[local, : int(segment.array("n_frames")[local])].tolist()
        return IndexedClip(
            segment.ids[local], segment.file_ids[number], segment.paths[number],
            float(segment.array("clip.start")[local]), float(segment.array("clip.end")[local]), tuple(ts),
        )  # fmt: skip

    @cached_property
    def films(self) -> list[IndexedFilms]:
        """The films by time, where the index has them, of each segment; a film counts while a clip of it does."""
        found = []
        for segment, first in zip(self._segments, self._starts, strict=False):
            files = segment.array("clip.file")
            if self.deleted is not None:
                files = files[~self.deleted[first : first + segment.clips]]
            if (part := IndexedFilms.of(segment, np.flatnonzero(np.bincount(files)))) is not None:
                found.append(part)
        return found

    def directions_of_files(self) -> tuple[list[str], np.ndarray]:
        """Return the ids of all files that can be found, and unit vectors [n, D] of what is seen in them on average.

        Of films all frames count by their seconds, else the coarse vectors of clips; not verified.
        """
        sums: dict[str, np.ndarray] = {}
        for file_id, vectors, weights in self._seen_in_files():
            seen = weights @ vectors.astype(np.float32)
            sums[file_id] = seen + sums[file_id] if file_id in sums else seen
        found = np.stack([*sums.values()]) if sums else np.zeros((0, 0), np.float32)
        lengths = np.linalg.norm(found, axis=-1, keepdims=True)
        return list(sums), np.divide(found, lengths, out=np.zeros_like(found), where=lengths > 0)

    def _seen_in_files(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Yield ids of files, vectors [n, D] of what is seen in them, and how much each counts [n]."""
        for part in self.films:
            numbers, moments = part.array("file"), part.array("moment")
            for number in np.unique(numbers[part.live]).tolist():
                of_file = moments[slice(*np.searchsorted(numbers, [number, number + 1]))]
                frames = slice(int(of_file[:, 0].min()), int(of_file[:, 1].max()))
                seconds = part.array("until")[frames] - part.array("ts")[frames]
                yield part.segment.file_ids[number], part.array("frames")[frames], seconds.astype(np.float32)
        if self.films:
            return
        for segment, first in zip(self._segments, self._starts, strict=False):
            live = np.ones(segment.clips, bool)
            if self.deleted is not None:
                live = ~self.deleted[first : first + segment.clips]
            files = np.where(live, segment.array("clip.file"), -1)
            order = np.argsort(files, kind="stable")
            ends = np.searchsorted(files[order], np.arange(segment.files + 1))
            for number, (start, end) in enumerate(itertools.pairwise(ends.tolist())):
                if end > start:
                    rows = order[start:end]
                    yield segment.file_ids[number], segment.array("coarse")[rows, 0], np.ones(len(rows), np.float32)

    def require_whole(self) -> None:
        """Raise DataError when a file was cut since the index was opened."""
        for segment in self._segments:
            for part in segment.parts.values():
                part.require_whole()

    def _part_of(self, name: str) -> str:
        return "coarse" if self.head.encoding[name].in_coarse else f"t.{name}"

    def _at(self, row: int) -> tuple[MappedSegment, int]:
        number = bisect.bisect_right(self._starts, row) - 1
        return self._segments[number], row - self._starts[number]

    def _read_deleted(self) -> np.ndarray | None:
        if self.head.deleted is None:
            return None
        data = (self.generation / DELETED).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.head.deleted or len(data) > -(-self.head.rows // 8):
            raise self._damaged(f"{str(self.generation / DELETED)!r} is not what was written")
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: self.head.rows]
        return np.pad(bits, (0, self.head.rows - len(bits))).astype(bool)  # rows that came later are not deleted

    def _damaged(self, found: str) -> DataError:
        return damaged(self.folder, found)


def damaged(folder: Path, found: str) -> DataError:
    """Return the error for an index that is not what was written, with the command that makes it again."""
    again = commands.tvr("index", overwrite=True, workspace=folder.parent)
    return DataError(f"the index is damaged: {found}; rebuild it with: {again}")
