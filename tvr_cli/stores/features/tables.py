"""The clips and captions of a feature store as sequences over tables: a record is made when it is asked for.

Opening a store of a million clips parses none of them; what is asked of all of them is asked of a column.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from tvr_cli.schema import Misfit
from tvr_cli.stores.columns import Table
from tvr_cli.stores.features.columns import CAPTIONS, CLIPS
from tvr_cli.stores.frames.records import ClipRecord
from tvr_cli.stores.table import MappedTable, pack, rows_of
from tvr_cli.types import SPLITS, Split, caption_key

Place = tuple[str, int]  # name of a shard, row in it
NOWHERE: Place = ("", -1)  # of a row that no shard has
_BLOCK = 4096  # records that are made at a time when all are
_Record = TypeVar("_Record")


@dataclass(frozen=True, slots=True)
class StoredCaption:
    """A caption and its place in the corpus.

    key: `types.caption_key(text)`. clips: rows of `FeatureStore.clips` that it describes (every window of a file that
    was cut), the same file's all, `file_id`. source: `file:line` or the annotation file. start, end: seconds, as given.
    """

    id: str
    text: str
    key: int
    split: Split
    clips: tuple[int, ...]
    file_id: str
    source: str = ""
    start: float | None = None
    end: float | None = None


class _Records(Sequence[_Record]):
    """Records over a table.

    key: [n] int64. file: [n] int64, the number of each row's file among `file_ids`, of which two may be equal.
    """

    def __init__(self, table: MappedTable):
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, at: int) -> _Record: ...
    @overload
    def __getitem__(self, at: slice) -> list[_Record]: ...
    def __getitem__(self, at: int | slice) -> _Record | list[_Record]:
        if isinstance(at, slice):
            return self.take(range(*at.indices(len(self))))
        if not -len(self) <= at < len(self):
            raise IndexError(f"row {at} of {len(self)}")
        return self.take([at % len(self)])[0]

    def __iter__(self) -> Iterator[_Record]:
        for start in range(0, len(self), _BLOCK):
            yield from self.take(range(start, min(start + _BLOCK, len(self))))

    def take(self, rows: Sequence[int]) -> list[_Record]:
        """Return some records, verified, in the order of `rows`."""
        raise NotImplementedError

    @property
    def key(self) -> Tensor:
        return self.table.numbers("key")

    @property
    def file(self) -> Tensor:
        return self.table.numbers("file").to(torch.int64)

    @property
    def file_ids(self) -> list[str]:
        return self.table.all_texts("file.id")

    def ids(self, rows: Sequence[int] | Tensor) -> list[str]:
        """Return the ids of some rows."""
        return self.table.texts["id"].take(rows_of(rows).tolist())

    def files_of(self, rows: Sequence[int] | Tensor) -> list[str]:
        """Return the id of each row's file."""
        names = self.file_ids
        return [names[number] for number in self.table.rows("file", rows_of(rows)).tolist()]

    def places(self, rows: Tensor) -> list[Place]:
        """Return where the features of some rows are, `NOWHERE` where no shard has them."""
        names, t = self.table.all_texts("shard.name"), self.table
        found = zip(t.rows("shard", rows).tolist(), t.rows("row", rows).tolist(), strict=True)
        return [NOWHERE if number < 0 else (names[number], row) for number, row in found]


class Clips(_Records[ClipRecord]):
    """The clips of a store, sorted by id: the rows of `FeatureStore.video`."""

    @property
    def n_frames(self) -> Tensor:
        """[n] int32, real frames of each clip."""
        return self.table.numbers("n_frames")

    def take(self, rows: Sequence[int]) -> list[ClipRecord]:
        if not len(rows):
            return []
        t, index = self.table, rows_of(rows)
        numbers = t.rows("file", index).tolist()
        of = self._files(sorted(set(numbers)))
        columns = [t.rows(name, index).tolist() for name in ("start", "end", "span", "key", "n_frames", "damaged")]
        return [
            ClipRecord(
                clip_id, of[number][1], _given(start), _given(end), key, of[number][0], of[number][2], n,
                span[1] - span[0], (span[0], span[1]), *of[number][3:], damaged,
            )
            for clip_id, number, start, end, span, key, n, damaged in zip(
                t.texts["id"].take(list(rows)), numbers, *columns, strict=True)
        ]  # fmt: skip

    def _files(self, numbers: list[int]) -> dict[int, tuple[str, str, str, int, int, str, bool]]:
        """Return what the rows of some files share: id, path, sha256, width, height, decoder, truncated."""
        t, index = self.table, torch.tensor(numbers, dtype=torch.int64)
        width, height, truncated = (t.rows(f"file.{x}", index).tolist() for x in ("width", "height", "truncated"))
        ids, paths, sha256, decoder = (t.texts[f"file.{x}"].take(numbers) for x in ("id", "path", "sha256", "decoder"))
        return dict(zip(numbers, zip(ids, paths, sha256, width, height, decoder, truncated, strict=True), strict=True))


class Captions(_Records[StoredCaption]):
    """The captions of a store, in the order of their source: the rows of `FeatureStore.text`."""

    def split(self, name: str) -> Tensor:
        """Return the rows [n] int64 of a split's captions."""
        number = SPLITS.index(name) if name in SPLITS else -1
        return (self.table.numbers("split").to(torch.int64) == number).nonzero()[:, 0]

    def texts(self, rows: Sequence[int] | Tensor) -> list[str]:
        """Return the words of some rows."""
        return self.table.texts["text"].take(rows_of(rows).tolist())

    def clips_of(self, rows: Sequence[int] | Tensor) -> list[tuple[int, ...]]:
        """Return, for each of some rows, the clips that it describes."""
        return self.table.lists("clips", rows_of(rows))

    def take(self, rows: Sequence[int]) -> list[StoredCaption]:
        if not len(rows):
            return []
        t, index = self.table, rows_of(rows)
        some = list(rows)
        texts = [t.texts[name].take(some) for name in ("id", "text", "source")]
        columns = [t.rows(name, index).tolist() for name in ("key", "split", "start", "end")]
        return [
            StoredCaption(clip_id, text, key, SPLITS[split], clips, file, source, _given(start), _given(end))
            for clip_id, text, source, clips, file, key, split, start, end in zip(
                *texts, self.clips_of(index), self.files_of(index), *columns, strict=True)
        ]  # fmt: skip


def pack_clips(clips: Sequence[ClipRecord], places: Sequence[Place]) -> tuple[Table, bytes]:
    """Serialise clips with the places of their features. Raises Misfit for one that is not as long as its span."""
    if odd := next((c for c in clips if c.duration != c.span[1] - c.span[0]), None):
        raise Misfit(f"the clip {odd.id!r} does not last as long as its span")
    files: dict[tuple[Any, ...], int] = {}
    number = [files.setdefault(_file_of(c), len(files)) for c in clips]
    columns = list(zip(*files, strict=True)) if files else [()] * 7
    names = ("id", "path", "sha256", "width", "height", "decoder", "truncated")
    return pack("clips", CLIPS, {
        "id": [c.id for c in clips],
        "key": [c.key for c in clips],
        "n_frames": [c.n_frames for c in clips],
        "start": [_or_nan(c.start) for c in clips],
        "end": [_or_nan(c.end) for c in clips],
        "span": [c.span for c in clips],
        "damaged": [c.damaged for c in clips],
        "file": number,
        **_placed(places),
        **{f"file.{name}": column for name, column in zip(names, columns, strict=True)},
    })  # fmt: skip


def pack_captions(captions: Sequence[StoredCaption], places: Sequence[Place]) -> tuple[Table, bytes]:
    """Serialise captions with the places of their features."""
    files: dict[str, int] = {}
    number = [files.setdefault(c.file_id, len(files)) for c in captions]
    return pack("captions", CAPTIONS, {
        "id": [c.id for c in captions],
        "text": [c.text for c in captions],
        "key": [caption_key(c.text) for c in captions],
        "split": [SPLITS.index(c.split) for c in captions],
        "clips": [c.clips for c in captions],
        "source": [c.source for c in captions],
        "start": [_or_nan(c.start) for c in captions],
        "end": [_or_nan(c.end) for c in captions],
        "file": number,
        **_placed(places),
        "file.id": list(files),
    })  # fmt: skip


def content_of(fingerprint: str, clips: Iterable[ClipRecord], captions: Iterable[StoredCaption]) -> str:
    """Return a hash that changes when the clips or the captions of a store change, and not when shards do.

    It is what tvr 0.1.0 made of the two lists that it wrote as JSON: runs and indexes of it know their store by this.
    """
    names = _list_name("clips", map(_clip_json, clips)), _list_name("captions", map(_caption_json, captions))
    return content_by_names(fingerprint, *names)


def content_by_names(fingerprint: str, clips: str, captions: str) -> str:
    """Return what `content_of` does, from the names that 0.1.0 gave to the lists."""
    return hashlib.sha256("\n".join((fingerprint, clips, captions)).encode()).hexdigest()


def _list_name(what: str, records: Iterable[Mapping[str, Any]]) -> str:
    """Return the name that 0.1.0 gave to the file of such a list, which held its hash."""
    digest, first = hashlib.sha256(b"["), True
    for record in records:
        said = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        digest.update((said if first else f",{said}").encode())
        first = False
    digest.update(b"]")
    return f"{what}-{digest.hexdigest()[:16]}.json"


def _clip_json(clip: ClipRecord) -> dict[str, Any]:
    return {name: getattr(clip, name) for name in ClipRecord.__slots__}


def _caption_json(caption: StoredCaption) -> dict[str, Any]:
    names = (name for name in StoredCaption.__slots__ if name != "key")  # it follows from the text
    said = ((name, getattr(caption, name)) for name in names)
    return {name: value for name, value in said if value is not None and value != ""}


def _file_of(clip: ClipRecord) -> tuple[Any, ...]:
    return (
        clip.file_id, clip.path, clip.source_sha256, clip.width, clip.height, clip.decoder, clip.truncated,
    )  # fmt: skip


def _placed(places: Sequence[Place]) -> dict[str, Any]:
    names: dict[str, int] = {}
    numbers = [-1 if place == NOWHERE else names.setdefault(place[0], len(names)) for place in places]
    return {"shard": numbers, "row": [row for _, row in places], "shard.name": list(names)}


def _given(seconds: float) -> float | None:
    """Return what NaN stands for: no limit."""
    return None if seconds != seconds else seconds


def _or_nan(seconds: float | None) -> float:
    return float("nan") if seconds is None else seconds
