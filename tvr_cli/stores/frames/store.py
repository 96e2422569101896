"""Reading a frame store: JPEG frames of clips, in checksummed shards.

    <workspace>/frames/
        store.json            format version, identity (frame plan and filter), provenance
        manifest.jsonl        one line a shard: name, sha256, bytes, and the clips that live in it
        <hash>.safetensors    jpeg u8 [bytes], offsets i64 [frames + 1], frame_ts f64 [frames],
                              clip_offsets i64 [clips + 1]
        failures.jsonl        videos that could not be read, with the reason

A shard counts only when its line is in the manifest, so a crash leaves whole shards or nothing. Writing is in
`writer.py`, the byte-level description in docs/formats.md. No torch here: workers and the CLI import this module.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvr_cli import commands, files
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.plans import FramePlan

FORMAT_VERSION = 1


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
class StoredClip:
    """A clip's record, its place in the store, and what tells whether its file has changed since.

    video: the entry (file, or line of a manifest) that it came from. source: the folder or manifest which named that
    entry. size, mtime_ns: of the file when it was read. file_duration: seconds. shard, row: where the frames are.
    """

    record: ClipRecord
    video: str
    source: str
    size: int
    mtime_ns: int
    file_duration: float
    shard: str
    row: int


# The fields of a clip's manifest entry, in the order of the classes; the shard's name is said once a line.
_RECORD = tuple(f.name for f in dataclasses.fields(ClipRecord))
_PLACE = tuple(f.name for f in dataclasses.fields(StoredClip) if f.name not in ("record", "shard"))


@dataclass(frozen=True, slots=True)
class Shard:
    """One line of the manifest. `rows` counts the clips in the file, of which `clips` are still wanted."""

    name: str
    sha256: str
    size_bytes: int
    rows: int
    clips: tuple[StoredClip, ...]


@dataclass(frozen=True, slots=True)
class ClipFrames:
    """The frames of one clip. ts: [n_frames] float64, seconds in the *file* (not in the clip), ascending."""

    record: ClipRecord
    jpegs: list[bytes]
    ts: np.ndarray


class FrameStore:
    """A frame store opened for reading. Use `Workspace.frames`, or `open`."""

    def __init__(self, root: Path, header: dict[str, Any], shards: Sequence[Shard], workspace: Folder | None = None):
        self.root = root
        self.workspace = workspace  # what `-o` of a command in a message names
        self.identity: dict[str, Any] = header["identity"]
        self.provenance: dict[str, Any] = header.get("provenance", {})
        self.plan = FramePlan.from_identity(self.identity)
        self._captions = header.get("captions_beside")
        self._shards = {shard.name: shard for shard in shards}
        self._clips = {clip.record.id: clip for shard in shards for clip in shard.clips}
        self._open: dict[str, _ShardReader] = {}
        self.records: list[ClipRecord] = [self._clips[i].record for i in sorted(self._clips)]

    @classmethod
    def open(cls, folder: Path, workspace: Folder | None = None) -> FrameStore:
        """Open the store in `folder`. workspace: the one that it belongs to, for the commands in messages.

        Raises DataError when there is none, StoreMismatch when it has another format version.
        """
        return cls(folder, read_header(folder, workspace), read_manifest(folder), workspace)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def captions_beside(self) -> Path | None:
        """The `captions.jsonl` beside the videos, looked for now: people write it after the frames were extracted."""
        sources = dict.fromkeys(Path(clip.source) for clip in self._clips.values())
        beside = [
            (source if source.is_dir() else source.parent) / "captions.jsonl" for source in sources if source.exists()
        ]
        found = [Path(self._captions)] if self._captions else []
        return next((p for p in [*found, *beside] if p.is_file() and p not in sources), None)

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
            jpegs, ts = self._reader(clip.shard).row(clip.row)
            yield ClipFrames(clip.record, jpegs, ts)

    def content_hash(self) -> str:
        """Return a hash that changes when the plan or any record changes, and not when frames move on disk."""
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode())
        for record in self.records:
            digest.update(json.dumps([getattr(record, name) for name in _RECORD]).encode())
        return digest.hexdigest()

    def failures(self) -> list[dict[str, Any]]:
        """Return the videos that could not be read: `{"video", "path", "reason", "kind", …}`."""
        return read_failures(self.root)

    def _reader(self, name: str) -> _ShardReader:
        if name not in self._open:
            self._open[name] = _ShardReader(self.root, self._shards[name], self.workspace)
        return self._open[name]


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decode one stored frame: [H, W, 3] uint8 RGB."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def read_header(folder: Path, workspace: Folder | None = None) -> dict[str, Any]:
    """Read store.json. Raises DataError when there is no store, StoreMismatch on another kind or format version."""
    extract = commands.tvr("extract-frames", "VIDEOS", workspace=workspace)
    require_head(folder, f"run: {extract}")
    if not (folder / "store.json").exists():
        raise DataError(f"expected a frame store in {str(folder)!r}, found none; run: {extract}")
    other = commands.tvr("extract-frames", "VIDEOS", workspace=Path("FOLDER"))
    move = f"move the folder elsewhere, or choose another workspace: {other}"
    header = files.read_json(folder / "store.json", fix=f"nothing of it was changed; {move}")
    kind, version = (header.get("kind"), header.get("format")) if isinstance(header, dict) else (None, None)
    if kind != "frames" or version != FORMAT_VERSION:
        raise StoreMismatch(
            f"{str(folder)!r}: format: this tvr reads frame stores of format {FORMAT_VERSION}, found "
            f"{kind} {version}; it is left as it is: {move}"
        )
    if not isinstance(header.get("identity"), dict):
        raise DataError(f"{str(folder / 'store.json')!r} is damaged (it has no identity); {move}")
    return header


def require_head(folder: Path, again: str) -> None:
    """Raise DataError where a store's frames are there and its store.json is not. again: what makes a new store."""
    if (folder / "manifest.jsonl").exists() and not (folder / "store.json").exists():
        raise DataError(
            f"{str(folder)!r} holds frames and no store.json, which says how they were made; it is left as it is. Put "
            f"a copy of store.json back, or move the folder elsewhere and {again}"
        )


def read_manifest(folder: Path) -> list[Shard]:
    """Read every whole line of manifest.jsonl. Raises DataError for a damaged line or a name that is not bare."""
    path = folder / "manifest.jsonl"
    return files.parse_lines(path, lambda line: shard_from_json(line, path))


def read_failures(folder: Path) -> list[dict[str, Any]]:
    """Read failures.jsonl; the last line of a video counts."""
    return files.read_lines(folder / "failures.jsonl")


def shard_to_json(shard: Shard) -> dict[str, Any]:
    """Return the manifest line of a shard."""
    clips = [
        {**{n: getattr(clip.record, n) for n in _RECORD}, **{n: getattr(clip, n) for n in _PLACE}}
        for clip in shard.clips
    ]
    return {"shard": shard.name, "sha256": shard.sha256, "bytes": shard.size_bytes, "rows": shard.rows, "clips": clips}


def shard_from_json(line: dict[str, Any], where: Path) -> Shard:
    """Read a line of the manifest `where`."""
    name = files.bare_name(line["shard"], where)
    clips = []
    for flat in line["clips"]:
        flat["span"] = tuple(flat["span"])
        record = ClipRecord(*[flat[name] for name in _RECORD])
        place = {name: flat[name] for name in _PLACE}
        clips.append(StoredClip(record=record, shard=name, **place))
    return Shard(name, line["sha256"], line["bytes"], line["rows"], tuple(clips))


def pack_shard(clips: Sequence[tuple[Sequence[bytes], np.ndarray]]) -> bytes:
    """Serialise the (jpegs, timestamps) of several clips as one safetensors file. Clip i becomes row i."""
    from safetensors.numpy import save

    jpegs = [data for frames, _ in clips for data in frames]
    arrays = {
        "jpeg": np.frombuffer(b"".join(jpegs), dtype=np.uint8),
        "offsets": _ends([len(data) for data in jpegs]),
        "frame_ts": np.concatenate([np.asarray(ts, dtype=np.float64) for _, ts in clips]),
        "clip_offsets": _ends([len(frames) for frames, _ in clips]),
    }
    return save(arrays, metadata={"format": f"tvr/frames@{FORMAT_VERSION}"})


def is_whole(folder: Path, shard: Shard) -> bool:
    """Return whether a shard's file is what the manifest says, by its checksum."""
    try:
        return files.sha256_file(folder / shard.name) == shard.sha256
    except OSError:
        return False


def damaged_shard(folder: Path, name: str, found: str, workspace: Folder | None = None) -> DataError:
    """Return the error for a shard that is not what the manifest says, with the command that rebuilds only it."""
    return DataError(
        f"shard {str(folder / name)!r} is damaged: {found}; rebuild only it with: "
        + commands.tvr("extract-frames", repair=name, workspace=workspace)
    )


def read_rows(
    folder: Path, shard: Shard, rows: Sequence[int], workspace: Folder | None = None
) -> list[tuple[list[bytes], np.ndarray]]:
    """Return (jpegs, timestamps) of some rows of a shard, after verifying its checksum."""
    reader = _ShardReader(folder, shard, workspace)
    return [reader.row(row) for row in rows]


class _ShardReader:
    """One verified shard: memory-mapped, so that a clip costs only its own bytes."""

    def __init__(self, folder: Path, shard: Shard, workspace: Folder | None):
        from safetensors import safe_open

        path = folder / shard.name
        try:
            found = files.sha256_file(path)
        except OSError as e:
            raise damaged_shard(folder, shard.name, f"it cannot be read ({e.strerror})", workspace) from e
        if found != shard.sha256:
            raise damaged_shard(
                folder,
                shard.name,
                f"expected sha256 {shard.sha256[:12]}… and {shard.size_bytes} bytes, found "
                f"{found[:12]}… and {path.stat().st_size} bytes",
                workspace,
            )
        with safe_open(path, "numpy") as f:
            self._offsets = f.get_tensor("offsets")
            self._ts = f.get_tensor("frame_ts")
            self._clips = f.get_tensor("clip_offsets")
        self._file = safe_open(path, "numpy")

    def row(self, row: int) -> tuple[list[bytes], np.ndarray]:
        first, last = int(self._clips[row]), int(self._clips[row + 1])
        ends = self._offsets[first : last + 1]
        blob = self._file.get_slice("jpeg")[int(ends[0]) : int(ends[-1])].tobytes()
        cuts = [int(x - ends[0]) for x in ends]
        return [blob[a:b] for a, b in itertools.pairwise(cuts)], self._ts[first:last].copy()


def _ends(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])
