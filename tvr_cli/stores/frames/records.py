"""What a frame store knows of its clips: the file of records beside each shard. No torch here.

A file of records has two tables by column, so that a key is written once and not once a clip:

    files    a file as one entry of a source names it: where it lies, what tells that it is the same, what it holds
    clips    views of a file: start and end, and which frames of a timeline (a row of the shard) fill its slots

It is named after the shard and its own checksum, so a change of records is a new file and the head (head.py) decides
which one counts. The bytes are described in docs/formats.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvr_cli import files, schema
from tvr_cli.schema import Misfit, Shape
from tvr_cli.stores.decoding.types import Track
from tvr_cli.types import clip_key

# Names that only a frame store gives.
SHARD = re.compile(r"[0-9a-f]{20}\.safetensors")
RECORDS = re.compile(r"[0-9a-f]{20}\.[0-9a-f]{12}\.records\.json")

# size, mtime_ns, ctime_ns, inode as `files.stamp` has them; the last two are None in what format 1 knew.
KnownStamp = tuple[int, int, int | None, int | None]


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """What the store knows of one clip.

    id: the file's id, or `file_id#t=start,end` for a window. path: the file, absolute. start, end: the clip's limits in
    seconds, None = the file's own. key: `types.clip_key(source_sha256, start, end)`. file_id: id of the whole file.
    duration, span: length of the clip and its place in the file, seconds. width, height: of the upright frame before
    resizing. decoder: the back-end that read it. truncated: the file is shorter than its header says. damaged: planned
    frames that could not be decoded and were left out.
    """

    id: str
    path: str
    start: float | None
    end: float | None
    key: int
    file_id: str
    source_sha256: str
    n_frames: int
    duration: float
    span: tuple[float, float]
    width: int
    height: int
    decoder: str
    truncated: bool
    damaged: int = 0


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as one entry (a file, or a line of a manifest) of a source names it, when it was read.

    video: the entry. roots: the folders or manifests that named it, first the one that its id comes from. duration:
    seconds. rate: frames a second, aspect: width to height of a pixel, None where the file does not say (or format 1
    did not keep it). tracks: None where format 1 did not keep them.
    """

    video: str
    roots: tuple[str, ...]
    stamp: KnownStamp
    duration: float
    rate: float | None = None
    aspect: tuple[int, int] | None = None
    tracks: tuple[Track, ...] | None = None


@dataclass(frozen=True, slots=True)
class StoredClip:
    """A clip's record, the file that it is of, and its place in the store.

    shard, row: where its timeline is. slots: which frames of that timeline it has, ascending; None = all of them, as
    where a clip owns its frames.
    """

    record: ClipRecord
    file: SourceFile
    shard: str
    row: int
    slots: tuple[int, ...] | None = None

    @property
    def video(self) -> str:
        return self.file.video

    @property
    def source(self) -> str:
        return self.file.roots[0]


@dataclass(frozen=True, slots=True)
class About:
    """What a file of records says of its shard: enough to make the head again. rows: timelines in it.

    identity: of the store.
    """

    shard: str
    sha256: str
    size_bytes: int
    rows: int
    identity: Mapping[str, Any]


def same_stamp(known: KnownStamp, now: files.Stamp | None) -> bool:
    """Return whether a file is as it was, by what is known of it."""
    return now is not None and all(k is None or k == n for k, n in zip(known, now, strict=True))


def records_name(shard: str, data: bytes) -> str:
    """Return what the records of a shard are called: the names of both files hold their own checksum."""
    return f"{shard.partition('.')[0]}.{hashlib.sha256(data).hexdigest()[:12]}.records.json"


def pack(about: About, clips: Sequence[StoredClip]) -> bytes:
    """Serialise the clips of a shard."""
    rows: dict[tuple[Any, ...], int] = {}
    owner = [rows.setdefault(_file_row(clip), len(rows)) for clip in clips]
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(_FILE)
    tracks = _FILE.index("tracks")
    columns[tracks] = [None if t is None else [dataclasses.astuple(x) for x in t] for t in columns[tracks]]
    body = {
        "shard": about.shard,
        "sha256": about.sha256,
        "bytes": about.size_bytes,
        "rows": about.rows,
        "identity": dict(about.identity),
        "files": dict(zip(_FILE, columns, strict=True)),
        "clips": {
            "id": [c.record.id for c in clips],
            "file": owner,
            "row": [c.row for c in clips],
            "slots": [c.slots for c in clips],
            "n_frames": [c.record.n_frames for c in clips],
            "start": [c.record.start for c in clips],
            "end": [c.record.end for c in clips],
            "span": [c.record.span for c in clips],
            "damaged": [c.record.damaged for c in clips],
        },
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def about(data: bytes) -> About:
    """Return what a file of records says of its shard. Raises Misfit where it is none."""
    body = _body(data)
    if not SHARD.fullmatch(body["shard"]):
        raise Misfit(f"{body['shard']!r} is no name that a frame store gives")
    return About(body["shard"], body["sha256"], body["bytes"], body["rows"], body["identity"])


def unpack(data: bytes, shard: str, rows: int) -> tuple[StoredClip, ...]:
    """Return the clips of a file of records. rows: timelines in the shard. Raises Misfit where it is none."""
    body = _body(data)
    if (body["shard"], body["rows"]) != (shard, rows):
        raise Misfit("it is not of this shard")
    of = _table(body, "files", _FILES)
    clips = _table(body, "clips", _CLIPS)
    sources = [
        SourceFile(video, tuple(roots), (stamp[0], stamp[1], stamp[2], stamp[3]), duration, rate,
                   None if aspect is None else (aspect[0], aspect[1]),
                   None if tracks is None else tuple(Track(*t) for t in tracks))
        for video, roots, stamp, duration, rate, aspect, tracks in zip(
            *(of[n] for n in ("video", "roots", "stamp", "duration", "rate", "aspect", "tracks")), strict=True)
    ]  # fmt: skip
    found = []
    for clip_id, file, row, slots, n, start, end, span, damaged in zip(*clips.values(), strict=True):
        if file >= len(sources) or row >= rows or (slots is not None and len(slots) != n):
            raise Misfit(f"the clip {clip_id!r} points outside of it")
        sha256 = of["sha256"][file]
        record = ClipRecord(
            clip_id, of["path"][file], start, end, clip_key(sha256, start, end), of["file_id"][file], sha256, n,
            span[1] - span[0], (span[0], span[1]), of["width"][file], of["height"][file], of["decoder"][file],
            of["truncated"][file], damaged,
        )  # fmt: skip
        found.append(StoredClip(record, sources[file], shard, row, None if slots is None else tuple(slots)))
    return tuple(found)


def check(clip: StoredClip) -> None:
    """Raise Misfit unless a record says nothing that follows from another part of it differently."""
    record = clip.record
    if record.key != clip_key(record.source_sha256, record.start, record.end):
        raise Misfit(f"the key of the clip {record.id!r} does not follow from its content and limits")
    if record.duration != record.span[1] - record.span[0]:
        raise Misfit(f"the clip {record.id!r} does not last as long as its span")


def _file_row(clip: StoredClip) -> tuple[Any, ...]:
    r, f = clip.record, clip.file
    return (
        f.video, r.file_id, r.path, f.roots, f.stamp, r.source_sha256, f.duration, f.rate, f.aspect, f.tracks,
        r.width, r.height, r.decoder, r.truncated,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ schemas

_FILES = {
    "video": schema.text,
    "file_id": schema.text,
    "path": schema.text,
    "roots": schema.items(schema.text, 1),
    "stamp": schema.fixed(schema.whole, schema.integer, schema.maybe(schema.integer), schema.maybe(schema.whole)),
    "sha256": schema.text,
    "duration": schema.number,
    "rate": schema.maybe(schema.number),
    "aspect": schema.maybe(schema.fixed(schema.whole, schema.whole)),
    "tracks": schema.maybe(schema.items(schema.fixed(schema.whole, schema.text, schema.text, schema.flag))),
    "width": schema.whole,
    "height": schema.whole,
    "decoder": schema.text,
    "truncated": schema.flag,
}
_CLIPS = {
    "id": schema.text,
    "file": schema.whole,
    "row": schema.whole,
    "slots": schema.maybe(schema.items(schema.whole, 1)),
    "n_frames": schema.positive,
    "start": schema.maybe(schema.number),
    "end": schema.maybe(schema.number),
    "span": schema.fixed(schema.number, schema.number),
    "damaged": schema.whole,
}
_FILE = tuple(_FILES)


_BODY = {
    "shard": schema.text,
    "sha256": schema.text,
    "bytes": schema.whole,
    "rows": schema.whole,
    "identity": schema.mapping,
    "files": schema.mapping,
    "clips": schema.mapping,
}


def _body(data: bytes) -> dict[str, Any]:
    try:
        body = files.parse_json(data)
    except ValueError as e:
        raise Misfit(f"it is not JSON: {e}") from e
    return schema.require(body, _BODY)


def _table(body: Mapping[str, Any], name: str, columns: Mapping[str, Shape]) -> dict[str, list[Any]]:
    try:
        table = schema.require(body[name], {key: schema.items(shape) for key, shape in columns.items()})
    except Misfit as e:
        raise Misfit(f"its table {name!r}: {e}") from e
    if len({len(column) for column in table.values()}) > 1:
        raise Misfit(f"the columns of {name!r} differ in length")
    return table
