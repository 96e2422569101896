"""Reading a frame store: JPEG frames of clips, in checksummed shards with their records beside them.

    <workspace>/frames/
        store.json                        the head: identity, provenance, and what it covers (head.py)
        shards-<n>.jsonl                  one line a shard: checksums of it and of its records, and what they add up to
        <hash>.safetensors                jpeg u8 [bytes], offsets i64 [frames + 1], frame_ts f64 [frames],
                                          clip_offsets i64 [timelines + 1], frame_until f64 [frames] where it differs
        <hash>.<hash>.records.json        the clips that live in a shard (records.py)
        failures.jsonl                    videos that could not be read, with the reason

Opening costs the head; records are read when a clip is asked for. A shard counts only when the head covers its line, so
a crash leaves whole shards or nothing. Writing is in `writer.py`, the byte-level description in docs/formats.md. No
torch here: workers and the CLI import this module.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tvr_cli import commands, files, os_errors, schema
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError
from tvr_cli.plans import FramePlan
from tvr_cli.schema import Misfit
from tvr_cli.stores.frames import head as heads
from tvr_cli.stores.frames import records
from tvr_cli.stores.frames.head import Head, ShardLine
from tvr_cli.stores.frames.records import About, ClipRecord, SourceFile, StoredClip
from tvr_cli.types import timeline_key

__all__ = ["ClipFrames", "ClipRecord", "Counts", "FrameStore", "Shard", "SourceFile", "StoredClip", "decode_jpeg"]

# The fields that a content hash is made of, in the order of the class.
_RECORD = tuple(f.name for f in dataclasses.fields(ClipRecord))


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard with its records. `line.rows` counts the timelines in the file; `clips` are those still wanted."""

    line: ShardLine
    clips: tuple[StoredClip, ...]

    @property
    def name(self) -> str:
        return self.line.name


@dataclass(frozen=True, slots=True)
class Counts:
    """What a store holds. decoders: name -> clips."""

    clips: int
    frames: int
    truncated: int
    decoders: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ClipFrames:
    """The frames of one clip. ts: [n_frames] float64, seconds in the *file* (not in the clip), ascending.

    until: [n_frames] float64, seconds in the file up to which each stands: what was shown in between looked the same.
    """

    record: ClipRecord
    jpegs: list[bytes]
    ts: np.ndarray
    until: np.ndarray


class FrameStore:
    """A frame store opened for reading. Use `Workspace.frames`, or `open`."""

    def __init__(self, root: Path, head: Head, lines: Sequence[ShardLine], workspace: Folder | None = None):
        self.root = root
        self.workspace = workspace  # what `-o` of a command in a message names
        self.identity: dict[str, Any] = head.identity
        self.provenance: dict[str, Any] = head.provenance
        self.plan = FramePlan.from_identity(self.identity)
        self._head = head
        self._lines = tuple(lines)
        self._open: dict[str, _ShardReader] = {}

    @classmethod
    def open(cls, folder: Path, workspace: Folder | None = None) -> FrameStore:
        """Open the store in `folder`. workspace: the one that it belongs to, for the commands in messages.

        Raises DataError when there is none or its head is damaged, StoreMismatch when it has another format version.
        """
        return cls(folder, *heads.read(folder, workspace), workspace)

    def __len__(self) -> int:
        return sum(line.clips for line in self._lines)

    @property
    def shard_count(self) -> int:
        return len(self._lines)

    @property
    def counts(self) -> Counts:
        """What the head says that the store holds."""
        decoders: Counter[str] = Counter()
        for line in self._lines:
            decoders.update(line.decoders)
        return Counts(
            clips=len(self),
            frames=sum(line.frames for line in self._lines),
            truncated=sum(line.truncated for line in self._lines),
            decoders=dict(decoders),
        )

    @property
    def captions_beside(self) -> Path | None:
        """The `captions.jsonl` beside the videos, looked for now: people write it after the frames were extracted."""
        sources = [Path(source) for source in self._head.roots]
        beside = [
            (source if source.is_dir() else source.parent) / "captions.jsonl" for source in sources if source.exists()
        ]
        found = [Path(self._head.captions_beside)] if self._head.captions_beside else []
        return next((p for p in [*found, *beside] if p.is_file() and p not in sources), None)

    def prefix_of(self, source: Path) -> str:
        """Return what stands before the ids of a source's videos, "" where nothing does or it is not known."""
        return self._head.roots.get(str(source), "")

    @cached_property
    def records(self) -> list[ClipRecord]:
        """Every record, sorted by id: all of the store's records are read. Raises DataError where some are damaged."""
        return [self._clips[i].record for i in sorted(self._clips)]

    @property
    def stored(self) -> list[StoredClip]:
        """Return every clip with its file, in the order of `records`. Raises as `records` does."""
        return [self._clips[i] for i in sorted(self._clips)]

    def video_count(self) -> int:
        """Return how many different files the clips are of."""
        if self._head.sealed is not None:
            return self._head.sealed.videos
        return seal(self.identity, self._clips.values()).videos

    def read(self, ids: Sequence[str]) -> Iterator[ClipFrames]:
        """Yield the frames of each clip, in the order asked for.

        A shard's checksum is verified when it is first touched; DataError names a damaged shard and the command that
        rebuilds it, or an id that is not in the store.
        """
        for clip_id in ids:
            clip = self._clips.get(clip_id)
            if clip is None:
                raise DataError(
                    f"the frame store {str(self.root)!r} has no clip {clip_id!r}; it holds {len(self)} clips"
                )
            yield self._reader(clip.shard).clip(clip)

    def clips_of(self, file_ids: Collection[str]) -> dict[str, list[StoredClip]]:
        """Return the clips of some files, by the file's id, without reading the records of all others.

        A file that the store does not have is left out. Raises DataError where records are damaged.
        """
        known = self._clips if "_clips" in self.__dict__ else self._clips_naming(file_ids)
        found = [clip for clip in known.values() if clip.record.file_id in file_ids]
        of: dict[str, list[StoredClip]] = {}
        for clip in sorted(found, key=lambda clip: clip.record.span):
            of.setdefault(clip.record.file_id, []).append(clip)
        return of

    def nearest(self, clip: StoredClip, second: float) -> tuple[float, bytes]:
        """Return the frame of a clip's timeline that is nearest to a second of the file: its own second, and the JPEG.

        Raises as `read` does.
        """
        return self._reader(clip.shard).nearest(clip.row, second)

    def films(self) -> list[Film]:
        """Return every timeline that clips are views of, by the id of its first; none where clips own their frames."""
        rows: dict[tuple[str, int], list[StoredClip]] = {}
        for clip_id in sorted(self._clips) if self.plan.has_timelines else ():
            clip = self._clips[clip_id]
            rows.setdefault((clip.shard, clip.row), []).append(clip)
        return [Film(tuple(clips)) for clips in rows.values()]

    def timeline(self, film: Film) -> Timeline:
        """Return the frames of a timeline. Raises as `read` does."""
        return self._reader(film.clips[0].shard).timeline(film.clips[0].row)

    def count_frames(self, films: Sequence[Film]) -> int:
        """Return how many frames some timelines have, as their shards say, unverified.

        Raises DataError where a shard is not there or says nothing, Unreadable where the system does not give it.
        """
        total, ends = 0, dict[str, np.ndarray]()
        for film in films:
            name, row = film.clips[0].shard, film.clips[0].row
            if name not in ends:
                ends[name] = self._ends_in(name)
            total += int(ends[name][row + 1] - ends[name][row])
        return total

    def _ends_in(self, name: str) -> np.ndarray:
        """Return where the timelines of a shard begin and end, [n + 1]. Raises as `count_frames` does."""
        from safetensors import SafetensorError, safe_open

        path = self.root / name
        try:
            with safe_open(path, "numpy") as f:
                ends = f.get_tensor("clip_offsets")
        except OSError as e:
            cannot = f"it cannot be read ({e.strerror or 'there is no such file'})"
            raise os_errors.unread(e, path) or damaged_shard(self.root, name, cannot, self.workspace) from e
        except SafetensorError as e:
            raise damaged_shard(self.root, name, f"it is no shard ({e})", self.workspace) from e
        if len(ends) != self._by_name[name].rows + 1:
            raise damaged_shard(self.root, name, "it has other timelines than the head says", self.workspace)
        return ends

    def content_hash(self) -> str:
        """Return a hash that changes when the plan or any record changes, and not when frames move on disk."""
        if self._head.sealed is not None:
            return self._head.sealed.content
        return seal(self.identity, self._clips.values()).content

    def failures(self) -> list[dict[str, Any]]:
        """Return the videos that could not be read: `{"video", "path", "reason", "kind", …}`."""
        return read_failures(self.root)

    @cached_property
    def _clips(self) -> dict[str, StoredClip]:
        """Every clip by id. A writer may take away what an older head covers: then the store is read as it is now."""
        while True:
            try:
                read = (read_records(self.root, line, self.workspace) for line in self._lines)
                return {clip.record.id: clip for clips in read for clip in clips}
            except DataError:
                head, lines = heads.read(self.root, self.workspace)
                if (head, lines) == (self._head, self._lines):
                    raise
                self._head, self._lines = head, lines

    def _clips_naming(self, file_ids: Collection[str]) -> Mapping[str, StoredClip]:
        """Return the clips by id of the shards whose records name one of some files, as bytes; all where that fails."""
        named = [json.dumps(name, ensure_ascii=False).encode("utf-8", "surrogateescape") for name in file_ids]
        lines = (line for line in self._lines if _says(self.root / line.records, named))
        try:
            read = [read_records(self.root, line, self.workspace) for line in lines]
        except DataError:
            return self._clips
        return {clip.record.id: clip for clips in read for clip in clips}

    @cached_property
    def _by_name(self) -> dict[str, ShardLine]:
        return {line.name: line for line in self._lines}

    def _reader(self, name: str) -> _ShardReader:
        if name not in self._open:
            self._open[name] = _ShardReader(self.root, self._by_name[name], self.workspace)
        return self._open[name]


def seal(identity: Mapping[str, Any], clips: Iterable[StoredClip]) -> heads.Sealed:
    """Return what all records together tell: the hash of identity and records by id, and how many files there are."""
    digest = content_digest(identity)
    said, videos = {}, set()
    for clip in clips:
        said[clip.record.id] = said_of(clip.record)
        videos.add(clip.record.file_id)
    for clip_id in sorted(said):
        digest.update(said[clip_id].encode())
    return heads.Sealed(digest.hexdigest(), len(videos))


def content_digest(identity: Mapping[str, Any]) -> Any:
    """Return the hashlib object that a content hash begins with; `said_of` every record follows, by ascending id."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode())


def said_of(record: ClipRecord) -> str:
    """Return what a content hash takes in of a record."""
    return json.dumps([getattr(record, name) for name in _RECORD])


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decode one stored frame: [H, W, 3] uint8 RGB."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def _says(records: Path, names: Sequence[bytes]) -> bool:
    """Return whether a file of records may have one of some names; where it cannot be read, who reads it says why."""
    try:
        data = records.read_bytes()
    except OSError:
        return True
    return any(name in data for name in names)


def read_records(folder: Path, line: ShardLine, workspace: Folder | None = None) -> tuple[StoredClip, ...]:
    """Read the records of a shard. Raises DataError, with what to do, unless they are what was written."""
    path = folder / line.records
    try:
        data = path.read_bytes()
    except OSError as e:
        refused = f"they cannot be read ({e.strerror})"
        raise os_errors.unread(e, path) or _damaged_records(path, line, refused, workspace) from e
    if len(data) != line.records_bytes or hashlib.sha256(data).hexdigest() != line.records_sha256:
        raise _damaged_records(path, line, "they differ from their checksum", workspace)
    try:
        found = records.unpack(data, line.name, line.rows)
    except Misfit as e:
        raise _damaged_records(path, line, str(e), workspace) from e
    if len(found) != line.clips:
        raise _damaged_records(path, line, f"they hold {len(found)} clips and not {line.clips}", workspace)
    return found


def joined(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return spans in seconds, ascending, those that meet or overlap as one."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def read_failures(folder: Path) -> list[dict[str, Any]]:
    """Read failures.jsonl; the last line of a video counts. Raises DataError for a line of another kind."""

    def checked(line: Any) -> dict[str, Any]:
        return schema.require(line, _FAILURE)

    return files.parse_lines(folder / "failures.jsonl", checked)


def line_of(about: About, clips: Sequence[StoredClip]) -> tuple[ShardLine, bytes]:
    """Return the line of a shard and the bytes of its records."""
    data = records.pack(about, clips)
    held = [clip.record for clip in clips]
    line = ShardLine(
        name=about.shard,
        sha256=about.sha256,
        size_bytes=about.size_bytes,
        rows=about.rows,
        records=records.records_name(about.shard, data),
        records_sha256=hashlib.sha256(data).hexdigest(),
        records_bytes=len(data),
        clips=len(held),
        frames=sum(r.n_frames for r in held),
        truncated=sum(r.truncated for r in held),
        decoders=dict(Counter(r.decoder for r in held)),
    )
    return line, data


@dataclass(frozen=True, slots=True)
class Timeline:
    """The frames of one row of a shard, by time. ts, until: [n] float64; until None = each stands until the next.

    change: [n] float32, how much of a picture changed at once (`alike.Thinning`); None = it was not measured.
    """

    jpegs: Sequence[bytes]
    ts: np.ndarray
    until: np.ndarray | None = None
    change: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Film:
    """A timeline that clips share: a row of a shard, and the clips that are views of it."""

    clips: tuple[StoredClip, ...]

    @property
    def parts(self) -> list[Film]:
        """Its clips by the video that they are of, each seconds once: a line of a manifest is a film of its own."""
        of: dict[str, list[StoredClip]] = {}
        for clip in self.clips:
            of.setdefault(clip.video, []).append(clip)
        found = {part.key: part for part in (Film(tuple(clips)) for clips in of.values())}
        return list(found.values())

    @property
    def key(self) -> int:
        """What finds its features: the file's content and the seconds of it that there are."""
        return timeline_key(self.clips[0].record.source_sha256, self.spans)

    @property
    def spans(self) -> list[tuple[float, float]]:
        """The seconds of the file that its clips cover, those that meet joined, ascending."""
        return joined([clip.record.span for clip in self.clips])


def pack_shard(timelines: Sequence[Timeline]) -> bytes:
    """Serialise timelines as one safetensors file. Timeline i becomes row i.

    `frame_until` and `frame_change` are written where a timeline has them; a frame without one has NaN there.
    """
    from safetensors.numpy import save

    jpegs = [data for timeline in timelines for data in timeline.jpegs]
    arrays = {
        "jpeg": np.frombuffer(b"".join(jpegs), dtype=np.uint8),
        "offsets": _ends([len(data) for data in jpegs]),
        "frame_ts": np.concatenate([np.asarray(t.ts, dtype=np.float64) for t in timelines]),
        "clip_offsets": _ends([len(t.jpegs) for t in timelines]),
    }
    if any(t.until is not None for t in timelines):
        nothing = [np.full(len(t.jpegs), np.nan) if t.until is None else t.until for t in timelines]
        arrays["frame_until"] = np.concatenate([np.asarray(u, dtype=np.float64) for u in nothing])
    if any(t.change is not None for t in timelines):
        unknown = [np.full(len(t.jpegs), np.nan) if t.change is None else t.change for t in timelines]
        arrays["frame_change"] = np.concatenate([np.asarray(c, dtype=np.float32) for c in unknown])
    return save(arrays, metadata={"format": f"tvr/frames@{heads.FORMAT_VERSION}"})


def is_whole(folder: Path, line: ShardLine) -> bool:
    """Return whether a shard's file is what the head says, by its checksum.

    Raises Unreadable or EnvironmentProblem where the system does not give it.
    """
    path = folder / line.name
    try:
        return files.sha256_file(path) == line.sha256
    except OSError as e:
        if (unread := os_errors.unread(e, path)) is not None:
            raise unread from e
        return False


def damaged_shard(folder: Path, name: str, found: str, workspace: Folder | None = None) -> DataError:
    """Return the error for a shard that is not what the head says, with the command that rebuilds only it."""
    return DataError(
        f"shard {str(folder / name)!r} is damaged: {found}; rebuild only it with: "
        + commands.tvr("extract-frames", repair=name, workspace=workspace)
    )


def read_rows(folder: Path, line: ShardLine, rows: Sequence[int], workspace: Folder | None = None) -> list[Timeline]:
    """Return some timelines of a shard, after verifying its checksum."""
    reader = _ShardReader(folder, line, workspace)
    return [reader.timeline(row) for row in rows]


class _ShardReader:
    """One verified shard: memory-mapped, so that a clip costs only its own bytes."""

    def __init__(self, folder: Path, line: ShardLine, workspace: Folder | None):
        from safetensors import safe_open

        path = folder / line.name
        self._damaged = lambda found: damaged_shard(folder, line.name, found, workspace)
        try:
            found = files.sha256_file(path)
        except OSError as e:
            raise os_errors.unread(e, path) or self._damaged(f"it cannot be read ({e.strerror})") from e
        if found != line.sha256:
            raise self._damaged(
                f"expected sha256 {line.sha256[:12]}… and {line.size_bytes} bytes, found "
                f"{found[:12]}… and {path.stat().st_size} bytes"
            )
        with safe_open(path, "numpy") as f:
            self._offsets = f.get_tensor("offsets")
            self._ts = f.get_tensor("frame_ts")
            self._rows = f.get_tensor("clip_offsets")
            self._until = f.get_tensor("frame_until") if "frame_until" in f.keys() else None  # noqa: SIM118
            self._change = f.get_tensor("frame_change") if "frame_change" in f.keys() else None  # noqa: SIM118
        self._file = safe_open(path, "numpy")

    def clip(self, clip: StoredClip) -> ClipFrames:
        """Return the frames that fill a clip's slots."""
        first, last = self._row(clip.row)
        slots = np.arange(last - first) if clip.slots is None else np.array(clip.slots, dtype=np.int64)
        if len(slots) != clip.record.n_frames or slots.max() >= last - first or (np.diff(slots) <= 0).any():
            raise self._damaged(f"the clip {clip.record.id!r} has other frames in it than its record says")
        start = int(slots[0])
        jpegs = self._jpegs(first + start, first + int(slots[-1]) + 1)
        until = _until(self._ts[first:last], self._stands(first, last), clip.record.span[1])
        return ClipFrames(clip.record, [jpegs[i - start] for i in slots], self._ts[first:last][slots], until[slots])

    def nearest(self, row: int, second: float) -> tuple[float, bytes]:
        """Return the frame of a row that is nearest to a second, with its own second."""
        first, last = self._row(row)
        at = first + int(np.abs(self._ts[first:last] - second).argmin())
        return float(self._ts[at]), self._jpegs(at, at + 1)[0]

    def timeline(self, row: int) -> Timeline:
        """Return all frames of one row."""
        first, last = self._row(row)
        change = None if self._change is None else self._change[first:last].copy()
        return Timeline(self._jpegs(first, last), self._ts[first:last].copy(), self._stands(first, last), change)

    def _row(self, row: int) -> tuple[int, int]:
        return int(self._rows[row]), int(self._rows[row + 1])

    def _jpegs(self, first: int, last: int) -> list[bytes]:
        ends = self._offsets[first : last + 1]
        blob = self._file.get_slice("jpeg")[int(ends[0]) : int(ends[-1])].tobytes()
        cuts = [int(x - ends[0]) for x in ends]
        return [blob[a:b] for a, b in itertools.pairwise(cuts)]

    def _stands(self, first: int, last: int) -> np.ndarray | None:
        """Return until when the frames stand, None where the shard does not say."""
        if self._until is None or np.isnan(self._until[first:last]).all():
            return None
        return self._until[first:last]


def _until(ts: np.ndarray, until: np.ndarray | None, end: float) -> np.ndarray:
    """Return until when each frame of a timeline stands; without a word on it, until the next one or `end`."""
    return np.append(ts[1:], max(end, ts[-1])) if until is None else until


def _damaged_records(path: Path, line: ShardLine, found: str, workspace: Folder | None) -> DataError:
    drop = commands.tvr("extract-frames", repair=line.name, workspace=workspace)
    again = heads.again(path.parent, workspace)
    return DataError(
        f"the records {str(path)!r} are damaged: {found}; take them and their shard out with: {drop}, then read again "
        f"what was in it with: {again}"
    )


def _ends(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


_FAILURE = {
    "video": schema.text,
    "path": schema.text,
    "source": schema.text,
    "reason": schema.text,
    "kind": schema.one_of("permanent", "transient"),
    "size": schema.whole,
    "mtime_ns": schema.integer,
}
