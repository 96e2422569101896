"""The search index on disk: what a method keeps of every clip, in mapped files that grow, and can be verified by row.

    index/current                  which generation counts (`place.py`)
    index/g000007/store.json       the head (`head.py`): identity, segments, their parts and shapes
    index/g000007/000001-00.bin    one tensor: coarse vectors, the method's tensors, columns of clips and files
    index/g000007/000001.sums      a checksum for every 16 KB of them
    index/g000007/deleted.bits     clips that were deleted, where there are any

Nothing is read when an index is opened but the head and the checksums. A clip is verified when it is about to be shown
(`Index.clip`); what is only scanned is verified when it is written and by `tvr doctor`. Adding or deleting clips makes
a new generation that links the files of the old one and adds a segment, or the bits of the deleted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_cli import files
from tvr_cli.stores.index import place
from tvr_cli.stores.index.head import DELETED, Head, Segment
from tvr_cli.stores.index.opened import ENCODING_ROWS, OpenedIndex, damaged
from tvr_cli.stores.index.shortlist import chosen
from tvr_cli.stores.index.timeline import FilmBlock
from tvr_cli.stores.index.writer import DoesNotFit, IndexBlock, IndexedClip, SegmentWriter, kept_as
from tvr_cli.stores.mapped import MappedPart
from tvr_cli.stores.parts import SUM_BYTES
from tvr_cli.types import Encoding

__all__ = ["ENCODING_ROWS", "DoesNotFit", "Index", "IndexBlock", "IndexedClip", "Row", "write_index"]

NULL_TEXTS = "null.text"  # the column of sentences that answers are compared with
_SCAN_ROWS = 1024  # vectors that are widened to float32 at a time: they stay in the cache
_SCAN_QUERIES = 32  # sentences scanned at a time: their scores are 4 bytes a clip each
_MARGIN = 2e-3  # of products of unit vectors in half precision: twice their error, and a third more
_BLOCK = 128  # rough products of which the best is looked at first
_MOST_SEGMENTS = 8  # each has some fifteen files open, and each scan visits all
_MOST_DELETED = 0.2


@dataclass(frozen=True, slots=True)
class Row:
    """What tells whether a clip in the index is still the one of the feature store."""

    id: str
    file_id: str
    path: str
    start: float
    end: float
    key: int
    n_frames: int


class Index(OpenedIndex):
    """An index with tensors: what search asks (`seam.py`), and what adds and deletes clips."""

    def __init__(self, folder: Path, generation: Path, head: Head):
        super().__init__(folder, generation, head)
        ends = torch.tensor([segment.clips for segment in head.segments], dtype=torch.int64).cumsum(0)
        self._ends = ends  # [segments], the row after each one's last
        self._deleted = torch.from_numpy(self.deleted) if self.deleted is not None else None

    @classmethod
    def open(cls, folder: Path) -> Index:
        """Open the generation that counts. Raises as `OpenedIndex.open` does."""
        return super().open(folder)

    # --------------------------------------------------------------------------------------------------------- reading

    def candidates(self, query: Tensor, n: int, of_files: int = 1, among: Tensor | None = None) -> Tensor:
        """Return rows [Q, n] of the clips nearest to unit vectors `query` [Q, D], best first; see `seam.py`.

        A clip of several vectors is as near as its nearest. Scores are float32 products of the half precision that is
        kept, so they depend on the pair alone.
        """
        if n >= (len(self) if among is None else len(among)):
            return (self.rows() if among is None else among).expand(len(query), -1)
        self.require_whole()
        if among is not None:
            return torch.stack([self._apart(one[None].float(), n, of_files, among) for one in query])
        found = [self._scan(part.float(), n) for part in query.split(_SCAN_QUERIES)]
        rows = torch.cat(found)
        of_files = min(of_files, self._file_count())
        for i in self._crowded(rows, of_files) if of_files > 1 else ():
            rows[i] = self._apart(query[i : i + 1].float(), n, of_files, self.rows())
        return rows

    def rows(self, only: Collection[str] | None = None) -> Tensor:
        """Return the rows [len] of all clips that can be found, ascending; only: of the files with these ids."""
        return torch.from_numpy(self.rows_of(only))

    def encoding(self, rows: Tensor, names: Sequence[str] | None = None) -> Encoding:
        """Read the encodings of some clips, in the order of `rows` [N] int64, in the type that the method made.

        names: only these tensors, in the type that they are kept in.
        """
        self.require_whole()
        return self._encoding(self._gather(rows, "key"), names, lambda part: self._gather(rows, part))

    def blocks(self, names: Sequence[str] | None = None) -> Iterator[tuple[Tensor, Encoding]]:
        """Yield all clips that can be found, some rows [n] at a time, with their encodings; see `seam.py`."""
        self.require_whole()
        kept = [p for p in self.head.encoding if names is None or p in names]
        for segment, first in zip(self._segments, self._starts, strict=False):
            step = segment.rows_a_block([self._part_of(name) for name in kept])
            for start in range(0, segment.clips, step):
                rows = torch.arange(first + start, first + min(start + step, segment.clips))
                found = self._encoding(
                    segment["key"][start : start + step],
                    names,
                    lambda part, s=segment, a=start, n=step: s[part][a : a + n],  # type: ignore[misc]
                )
                if self._deleted is not None and bool(self._deleted[rows].any()):
                    live = ~self._deleted[rows]
                    rows, found = rows[live], found.rows(live)
                if len(rows):
                    yield rows, found

    def files(self, rows: Tensor) -> Tensor:
        """Return a number [N] of each row's file, see `file_numbers`."""
        return self._file_numbers[rows]

    @cached_property
    def _file_numbers(self) -> Tensor:
        """The number of each row's file, [rows] int32."""
        return torch.from_numpy(self.file_numbers)

    def listing(self) -> Iterator[tuple[int, Row]]:
        """Yield every clip that can be found with its row, all columns verified. Raises DataError."""
        names = ["key", "n_frames", "clip.file", "clip.start", "clip.end"]
        for segment, first in zip(self._segments, self._starts, strict=False):
            segment.verify(names, 0, segment.clips)
            ids, file_ids, paths = segment.ids.all(), segment.file_ids.all(), segment.paths.all()
            columns = [segment[name].tolist() for name in names]
            for local, (key, n_frames, file, start, end) in enumerate(zip(*columns, strict=True)):
                if self._deleted is None or not self._deleted[first + local]:
                    yield first + local, Row(ids[local], file_ids[file], paths[file], start, end, key, n_frames)

    def null_sentences(self) -> list[str] | None:
        """Return the sentences that it keeps for comparison, verified; None where there are none. Raises DataError."""
        return self._segments[0].texts(NULL_TEXTS) if self._segments else None

    def parts(self) -> Iterator[tuple[str, MappedPart]]:
        """Yield every part by its file and name: `000001-00.bin (coarse)`."""
        for segment in self._segments:
            yield from ((f"{p.part.file} ({p.part.name})", p) for p in segment.parts.values())

    def verify(self) -> None:
        """Raise DataError unless every byte is what was written; reads all of it."""
        for _, part in self.parts():
            part.verify_all()

    def count_files(self) -> int:
        """Return how many files the clips that can be found are of. Raises DataError."""
        return len({clip.file_id for _, clip in self.listing()})

    def size_bytes(self) -> int:
        """Return the bytes of tensors and checksums on disk; the head is a few thousand more."""
        parts = [part for segment in self.head.segments for part in segment.parts]
        return sum(part.size_bytes + part.groups * SUM_BYTES for part in parts)

    # -------------------------------------------------------------------------------------------------------- changing

    @property
    def worn(self) -> bool:
        """Whether so much was added or deleted that building it again is better than going on."""
        deleted = self.head.rows - len(self)
        return len(self.head.segments) >= _MOST_SEGMENTS or deleted > _MOST_DELETED * self.head.rows

    def append(
        self,
        blocks: Iterable[IndexBlock],
        *,
        identity: Mapping[str, Any],
        asked: Mapping[str, str | None],
        films: Iterable[FilmBlock] = (),
        measure: Callable[[Index], Mapping[str, Any]] | None = None,
    ) -> Index:
        """Add clips as a new segment, in a new generation that links the files of this one, and return that.

        films: of the clips' files, by time. measure: finds out again what has changed of the index, before it counts.

        identity, asked: what the index is made from, and named for, now. Raises DoesNotFit when the blocks are not
        like those before, having changed nothing. The caller holds the workspace's lock.
        """
        head = replace(self.head, identity=dict(identity), asked=_named(asked))
        with self._next(head) as generation:
            writer = SegmentWriter(generation, len(head.segments) + 1, head.encoding, head.stored)
            segment = _write(writer, blocks, films)
            if segment is not None:
                head = replace(head, segments=(*head.segments, segment))
            _same_shapes(head)
            if measure is not None:
                head = replace(head, measured={**head.measured, **measure(Index(self.folder, generation, head))})
            place.commit(self.folder, generation, head)
        return Index.open(self.folder)

    def delete(self, ids: Collection[str]) -> Index:
        """Take clips out, in a new generation that links the files of this one, and return that.

        Their rows stay until the index is built again. The caller holds the workspace's lock.
        """
        gone = set(ids)
        bits = torch.zeros(-(-self.head.rows // 8) * 8, dtype=torch.bool)
        if self._deleted is not None:
            bits[: self.head.rows] = self._deleted
        for row, clip in self.listing():
            bits[row] |= clip.id in gone
        powers = 2 ** torch.arange(8)
        data = (bits.view(-1, 8) * powers).sum(1).to(torch.uint8).numpy().tobytes()
        with self._next(self.head) as generation:
            sha256 = files.write_bytes(generation / DELETED, data)
            place.commit(self.folder, generation, replace(self.head, deleted=sha256))
        return Index.open(self.folder)

    @contextlib.contextmanager
    def _next(self, head: Head) -> Iterator[Path]:
        """Give the folder of a new generation with links to the segments of this one; on an error it does not count."""
        generation = place.prepare(self.folder, Head(head.identity, head.asked))
        try:
            for name in self.head.names() - {place.HEAD}:
                files.link(self.generation / name, generation / name)
        except FileNotFoundError as e:
            raise damaged(self.folder, f"{str(e.filename)!r} is missing") from None
        yield generation

    # --------------------------------------------------------------------------------------------------------- private

    def _scan(self, query: Tensor, n: int) -> Tensor:
        """Return the rows [Q, n] of the largest products in float32, best first."""
        if len(query) == 1:
            return self._scan_alone(query[0], n)[None]
        return self._products(query).topk(n).indices

    def _products(self, query: Tensor) -> Tensor:
        """Return the products [Q, rows] in float32, -inf for deleted clips."""
        scores = torch.full((len(query), self.head.rows), -torch.inf)
        for segment, first in zip(self._segments, self._starts, strict=False):
            coarse = segment["coarse"]
            rows = max(1, _SCAN_ROWS // coarse.shape[1])
            for start in range(0, segment.clips, rows):
                block = coarse[start : start + rows]
                scores[:, first + start : first + start + len(block)] = _nearest(block, query)
        if self._deleted is not None:
            scores.masked_fill_(self._deleted, -torch.inf)
        return scores

    def _scan_alone(self, query: Tensor, n: int) -> Tensor:
        """Return the rows [n] for one vector: products in half precision, exact ones where these could be among the n.

        Half as much work as widening all of it. Of unit vectors a product in half precision (summed in float32) is off
        by 2^-12 for the query's rounding and at most 2^-11 for its own, so what lies `_MARGIN` below the n-th is out.
        """
        half = query.half()
        rough = torch.cat([_nearest_half(segment["coarse"], half) for segment in self._segments]).float()
        if self._deleted is not None:
            rough.masked_fill_(self._deleted, -torch.inf)
        rows = _reaching(rough, n)
        exact = [_nearest(self._gather(some, "coarse"), query[None])[0] for some in rows.split(_SCAN_ROWS)]
        return rows[torch.cat(exact).topk(n).indices]

    def _file_count(self) -> int:
        return sum(segment.files for segment in self.head.segments)

    def _crowded(self, rows: Tensor, of_files: int) -> list[int]:
        """Return which of the sentences have rows [Q, n] of fewer files than that."""
        numbers = self.files(rows).sort(1).values
        several = 1 + (numbers[:, 1:] != numbers[:, :-1]).sum(1)
        return (several < of_files).nonzero()[:, 0].tolist()

    def _apart(self, query: Tensor, n: int, of_files: int, rows: Tensor) -> Tensor:
        """Return some of `rows` [n] for one sentence [1, D], of so many different files."""
        near = self._products(query)[0][rows]
        return rows[torch.from_numpy(chosen(near.numpy(), self.files(rows).numpy(), n, of_files))]

    def _encoding(self, key: Tensor, names: Sequence[str] | None, read: Callable[[str], Tensor]) -> Encoding:
        """Put an encoding together from parts that `read` gives by name; names as in `seam.SearchIndex.blocks`."""
        tensors = {}
        for name, kept in self.head.encoding.items():
            if names is None or name in names:
                tensors[name] = read("coarse")[:, 0] if kept.in_coarse else read(f"t.{name}")
                if names is None and kept.dtype == "float32":
                    tensors[name] = tensors[name].float()
        return Encoding(key, tensors)

    def _gather(self, rows: Tensor, name: str) -> Tensor:
        """Read rows of a part, in the order of `rows`, in its stored type."""
        if len(self._segments) == 1:
            return self._segments[0][name].index_select(0, rows)
        of = torch.bucketize(rows, self._ends, right=True)
        order = of.argsort(stable=True)
        sorted_rows, counts = rows[order], torch.bincount(of, minlength=len(self._segments)).tolist()
        parts = [
            segment[name].index_select(0, some - first)
            for segment, first, some in zip(self._segments, self._starts, sorted_rows.split(counts), strict=False)
            if len(some)
        ]
        found = torch.cat(parts) if len(parts) > 1 else parts[0]
        return found if bool((order[1:] > order[:-1]).all()) else found[order.argsort()]


def write_index(
    folder: Path,
    identity: Mapping[str, Any],
    blocks: Iterable[IndexBlock],
    *,
    asked: Mapping[str, str | None] | None = None,
    stored: str = "float32",
    measured: Mapping[str, Any] | None = None,
    measure: Callable[[Index], Mapping[str, Any]] | None = None,
    null_sentences: Sequence[str] = (),
    films: Iterable[FilmBlock] = (),
) -> Index:
    """Write an index block by block and let it count; the old one stands until then.

    asked: the run, method and backbone that were named for it; a refresh keeps to them. stored: `float16` or `float32`,
    how tensors of float32 are kept. measured: see `head.Head`; measure: finds out more of the index before it counts.
    null_sentences: kept with it, where there is a clip at all. films: of the clips' files, by time. Raises DataError
    when what stands there is not an index, or holds anything beside one, DoesNotFit when half precision does not hold
    the numbers. The caller holds the workspace's lock.
    """
    head = Head(dict(identity), _named(asked or {}), stored, measured=dict(measured or {}))
    generation = place.prepare(folder, head)
    coming = iter(blocks)
    first = next(coming, None)
    if first is not None:
        kept = kept_as(first, stored)
        writer = SegmentWriter(generation, 1, kept, stored)
        if null_sentences:
            writer.keep_texts(NULL_TEXTS, null_sentences)
        segment = _write(writer, _chain(first, coming), films)
        assert segment is not None, "there is a first block"
        head = replace(head, encoding=kept, segments=(segment,))
    if measure is not None:
        head = replace(head, measured={**head.measured, **measure(Index(folder, generation, head))})
    place.commit(folder, generation, head)
    return Index.open(folder)


def _nearest(vectors: Tensor, query: Tensor) -> Tensor:
    """Return [Q, n] float32: the largest product of each query [Q, D] with a clip's vectors [n, K, D]."""
    near = vectors.float().flatten(0, 1) @ query.T  # [n * K, Q]
    return near.view(len(vectors), vectors.shape[1], len(query)).amax(1).T


def _nearest_half(vectors: Tensor, query: Tensor) -> Tensor:
    """Return [n] in half precision: the largest product of one query [D] with a clip's vectors [n, K, D]."""
    products = vectors.flatten(0, 1) @ query
    return products if vectors.shape[1] == 1 else products.view(vectors.shape[:2]).amax(1)


def _reaching(rough: Tensor, n: int) -> Tensor:
    """Return the rows of `rough` [V] that lie at most `_MARGIN` below the n-th largest, ascending.

    A million numbers are sorted for their n-th in 4 ms. The n-th largest of the best of each block is no larger, and
    what lies below it is left out first.
    """
    whole = len(rough) // _BLOCK * _BLOCK
    if whole // _BLOCK < n:
        return (rough >= rough.topk(n).values[-1] - _MARGIN).nonzero()[:, 0]
    at_most = rough[:whole].view(-1, _BLOCK).amax(1).topk(n).values[-1]
    rows = (rough >= at_most - _MARGIN).nonzero()[:, 0]
    near = rough[rows]
    return rows[near >= near.topk(n).values[-1] - _MARGIN]


def _named(asked: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in asked.items() if value}


def _write(writer: SegmentWriter, blocks: Iterable[IndexBlock], films: Iterable[FilmBlock] = ()) -> Segment | None:
    """Write the blocks, and films of their files, as one segment, None where there are none."""
    some = False
    try:
        for block in blocks:
            writer.add(block)
            some = True
        for film in films if some else ():
            writer.add_film(film)
        return writer.finish() if some else None
    finally:
        writer.close()


def _chain(first: IndexBlock, rest: Iterable[IndexBlock]) -> Iterator[IndexBlock]:
    yield first
    yield from rest


def _same_shapes(head: Head) -> None:
    """Raise DoesNotFit unless the parts of the last segment have the rows of the others."""
    shapes = [{part.name: (part.dtype, part.shape[1:]) for part in segment.parts} for segment in head.segments[:1]]
    for part in head.segments[-1].parts if head.segments else ():
        if shapes[0].get(part.name) != (part.dtype, part.shape[1:]):
            raise DoesNotFit(f"{part.name!r} has rows of {list(part.shape[1:])} {part.dtype} now")
