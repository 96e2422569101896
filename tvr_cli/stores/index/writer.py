"""Writing a segment of an index: blocks of clips come in, one file a tensor goes out, hashed on the way."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from tvr_cli import files
from tvr_cli.stores.dtypes import NAMES
from tvr_cli.stores.index.head import Kept, Segment
from tvr_cli.stores.index.segment import IndexedClip
from tvr_cli.stores.index.timeline import FilmBlock
from tvr_cli.stores.parts import SUM_BYTES, Part, group_sum
from tvr_cli.types import Encoding

_SMALL_BYTES = 512  # a row of float32 up to this stays as it is: a few shifts and scales, whose range is anything


@dataclass(frozen=True)
class IndexBlock:
    """Some clips on their way into an index. coarse: [n, D] or [n, K, D]. ts: [n, F] seconds. n_frames: [n]."""

    clips: Sequence[IndexedClip]
    encoding: Encoding
    coarse: Tensor
    ts: Tensor
    n_frames: Tensor


class DoesNotFit(ValueError):
    """A block cannot go into this index as it keeps its tensors (too large for half precision, another shape)."""


def kept_as(block: IndexBlock, stored: str) -> dict[str, Kept]:
    """Return how the tensors of a method's encoding are kept. stored: `float16` or `float32`, for those of float32
    with more than 512 bytes a clip.

    A tensor that is the coarse vector itself is kept once, unless full precision was asked for.
    """
    coarse = vectors(block.coarse)
    return {
        name: Kept(
            NAMES[x.dtype],
            stored == "float16" and coarse.shape[1] == 1 and x.shape == coarse[:, 0].shape and x.equal(coarse[:, 0]),
        )
        for name, x in block.encoding.tensors.items()
    }


def halved(encoding: Encoding, kept: Mapping[str, Kept]) -> Encoding:
    """Return an encoding as it comes back from an index of half precision. Raises DoesNotFit when a number does not."""
    tensors = {
        name: half(name, encoding[name]).float() if how.in_coarse or halves(encoding[name]) else encoding[name]
        for name, how in kept.items()
    }
    return Encoding(encoding.key, tensors)


class SegmentWriter:
    """One segment on its way to the disk: `add` blocks, then `finish`. stored: `float16` or `float32`."""

    def __init__(self, folder: Path, number: int, kept: Mapping[str, Kept], stored: str):
        self._folder, self._name, self._kept, self._stored = folder, f"{number:06d}", kept, stored
        self._parts: dict[str, _PartWriter] = {}
        self._clips = self._film_frames = 0
        self._files: dict[tuple[str, str], int] = {}
        self._ends = {"clip.id": 0, "file.id": 0, "file.path": 0}

    def add(self, block: IndexBlock) -> None:
        """Write a block. Raises DoesNotFit, EnvironmentProblem when the disk is full."""
        if set(block.encoding.tensors) != set(self._kept):
            raise DoesNotFit(f"expected the tensors {sorted(self._kept)}, found {sorted(block.encoding.tensors)}")
        coarse = vectors(block.coarse)
        self._write("coarse", half("coarse", coarse.float()))
        self._write("key", block.encoding.key)
        self._write("n_frames", block.n_frames.int())
        self._write("ts", block.ts.double())
        for name, kept in self._kept.items():
            x = block.encoding[name]
            if kept.in_coarse:
                if not x.equal(coarse[:, 0]):
                    raise DoesNotFit(f"{name!r} is not the coarse vector any more")
            elif NAMES[x.dtype] != kept.dtype:
                raise DoesNotFit(f"{name!r} is {NAMES[x.dtype]}, expected {kept.dtype}")
            else:
                self._write(f"t.{name}", half(name, x) if self._stored == "float16" and halves(x) else x)
        self._write_clips(block.clips)

    def add_film(self, film: FilmBlock) -> None:
        """Write a film by time, of which some clips were written. Raises as `add` does."""
        number = self._files[film.file_id, film.path]
        for name, rows in film.parts(self._film_frames, number).items():
            self._write(name, torch.from_numpy(rows))
        self._film_frames += len(film.ts)

    def keep_texts(self, name: str, texts: Sequence[str]) -> None:
        """Keep texts beside the clips, as the parts `name.offsets` and `name.bytes`."""
        self._ends[name] = 0
        self._write_texts(name, texts)

    def finish(self) -> Segment:
        """Sync the files and write the checksums, after one block or more."""
        for name, end in self._ends.items():
            self._write(f"{name}.offsets", torch.tensor([end]))
        parts = [writer.finish() for writer in self._parts.values()]
        sums = f"{self._name}.sums"
        sha256 = files.write_bytes(self._folder / sums, b"".join(found for _, found in parts))
        return Segment(self._clips, len(self._files), tuple(part for part, _ in parts), sums, sha256)

    def close(self) -> None:
        """Close the files of a segment that is given up."""
        for writer in self._parts.values():
            writer.close()

    def _write_clips(self, clips: Sequence[IndexedClip]) -> None:
        before = len(self._files)
        number = [self._files.setdefault((clip.file_id, clip.path), len(self._files)) for clip in clips]
        new = list(self._files)[before:] if before < len(self._files) else []
        self._write("clip.file", torch.tensor(number, dtype=torch.int32))
        self._write("clip.start", torch.tensor([clip.start for clip in clips], dtype=torch.float64))
        self._write("clip.end", torch.tensor([clip.end for clip in clips], dtype=torch.float64))
        self._write_texts("clip.id", [clip.id for clip in clips])
        self._write_texts("file.id", [file_id for file_id, _ in new])
        self._write_texts("file.path", [path for _, path in new])
        self._clips += len(clips)

    def _write_texts(self, name: str, texts: Sequence[str]) -> None:
        data = [text.encode("utf-8", "surrogatepass") for text in texts]
        starts = array("q")
        for item in data:
            starts.append(self._ends[name])
            self._ends[name] += len(item)
        joined = bytearray(b"".join(data))
        self._write(f"{name}.offsets", torch.tensor(starts, dtype=torch.int64))
        self._write(f"{name}.bytes", torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0).byte())

    def _write(self, name: str, rows: Tensor) -> None:
        if name not in self._parts:
            file = f"{self._name}-{len(self._parts):02d}.bin"
            part = Part(name, file, NAMES[rows.dtype], (0, *rows.shape[1:]))
            self._parts[name] = _PartWriter(self._folder / file, part)
        self._parts[name].write(rows)


class _PartWriter:
    """One file: rows are appended, and each group of rows is hashed when it is full."""

    def __init__(self, path: Path, part: Part):
        self._path, self._part, self._rows = path, part, 0
        self._group_bytes = part.rows_a_group * part.row_bytes
        self._rest = bytearray()  # of a group that is not full yet
        self._sums = bytearray()
        with files.disk_errors(path):
            self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115 - open until the segment is finished

    def write(self, rows: Tensor) -> None:
        if rows.shape[1:] != self._part.shape[1:] or NAMES[rows.dtype] != self._part.dtype:
            raise DoesNotFit(
                f"{self._part.name!r} has rows of {list(rows.shape[1:])} {NAMES[rows.dtype]}, expected "
                f"{list(self._part.shape[1:])} {self._part.dtype}"
            )
        self._rows += len(rows)
        if not rows.numel():
            return
        data = memoryview(rows.contiguous().view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type,unused-ignore]
        with files.disk_errors(self._path):
            self._file.write(data)
        if self._rest:
            lacking = self._group_bytes - len(self._rest)
            self._rest += data[:lacking]
            data = data[lacking:]
            if len(self._rest) == self._group_bytes:
                self._sum(self._rest)
                self._rest = bytearray()
        whole = len(data) - len(data) % self._group_bytes
        for start in range(0, whole, self._group_bytes):
            self._sum(data[start : start + self._group_bytes])
        self._rest += data[whole:]

    def finish(self) -> tuple[Part, bytes]:
        """Sync and close the file; return the part, and the checksums of its groups."""
        part = Part(self._part.name, self._part.file, self._part.dtype, (self._rows, *self._part.shape[1:]))
        with files.disk_errors(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        if len(self._sums) < part.groups * SUM_BYTES:
            self._sum(self._rest)
        return part, bytes(self._sums)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the disk is full, still: what was begun does not count, and that is said
            self._file.close()

    def _sum(self, data: bytearray | memoryview) -> None:
        self._sums += group_sum(data)


def vectors(coarse: Tensor) -> Tensor:
    """[n, D] or [n, K, D] to [n, K, D]."""
    return coarse if coarse.dim() == 3 else coarse[:, None]


def halves(x: Tensor) -> bool:
    """Whether half precision is for this tensor, where it will do."""
    return x.dtype == torch.float32 and 4 * x[:1].numel() > _SMALL_BYTES


def half(name: str, x: Tensor) -> Tensor:
    """Return a tensor in half precision. Raises DoesNotFit where a number does not."""
    found = x.half()
    if found.isinf().any() and not x.isinf().any():
        raise DoesNotFit(f"{name!r} has numbers too large for half precision")
    return found
