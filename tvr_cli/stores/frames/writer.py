"""Writing a frame store: append shards, forget clips, compact, record failures. Every step is atomic.

Several processes may write one store (`--shard i/n`): the lock of the folder is held only for one step at a time, and
each step starts from the manifest as it is on disk. A shard is named after its content, so names never collide.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvr_cli import files, plans
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.removal import listed
from tvr_cli.stores.frames import store as frames
from tvr_cli.stores.frames.store import Shard, StoredClip

_LOCK_WAIT_S = 60.0
# A shard is rewritten when less than this share of its rows is still wanted.
_LIVE_SHARE = 0.5
# Names that only this module gives: nothing else in the folder is ever deleted.
_SHARD = re.compile(r"[0-9a-f]{20}\.safetensors")
_TEMPORARY = re.compile(r"([0-9a-f]{20}\.safetensors|store\.json|(manifest|failures)\.jsonl)\.\d+\.tmp")
_BEFORE_THE_HEAD = {".lock", "locks"}  # what is there before store.json is, with a temporary file of it


@dataclass(frozen=True, slots=True)
class NewClip:
    """A clip to be added: everything but its place (shard and row are set by the writer)."""

    clip: StoredClip
    jpegs: Sequence[bytes]
    ts: np.ndarray


@dataclass(frozen=True, slots=True)
class Failure:
    """A video that could not be read. kind: permanent (the file is bad) or transient (another try may succeed)."""

    video: str
    path: str
    source: str
    reason: str
    kind: str
    size: int
    mtime_ns: int

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Failure:
        """Read a line of failures.jsonl."""
        return cls(**{f.name: line[f.name] for f in dataclasses.fields(cls)})


class FrameWriter:
    """A frame store opened for writing. `shards` is the manifest as of the last step."""

    def __init__(self, root: Path):
        self.root = root
        self.shards: list[Shard] = []
        self._seen: tuple[int, int, int] | None = None
        self._refresh()

    @classmethod
    def open(
        cls, root: Path, identity: dict[str, Any], provenance: dict[str, Any], *, overwrite: bool = False
    ) -> FrameWriter:
        """Open the store in `root`, creating it when there is none; with `overwrite`, empty it first.

        Raises StoreMismatch when the store was made with another plan, or the folder holds something else.
        """
        require_own(root)
        with _locked(root):
            require_own(root)
            if overwrite:
                clear(root)
            if (root / "store.json").exists():
                check_identity(root, frames.read_header(root)["identity"], identity)
            else:
                header = {"kind": "frames", "format": frames.FORMAT_VERSION, "identity": identity}
                files.write_json(root / "store.json", {**header, "provenance": provenance, "captions_beside": None})
            writer = cls(root)
            writer._drop_orphans()
            return writer

    def clips(self) -> list[StoredClip]:
        """Return every clip of the store as of the last step."""
        return [clip for shard in self.shards for clip in shard.clips]

    def set_header(self, **fields: Any) -> None:
        """Change fields of store.json other than the identity (`provenance`, `captions_beside`)."""
        with _locked(self.root):
            header = frames.read_header(self.root)
            if any(header.get(name) != value for name, value in fields.items()):
                files.write_json(self.root / "store.json", {**header, **fields})

    def add(self, new: Sequence[NewClip]) -> Shard | None:
        """Write the clips as one shard and replace what the store has of the same videos. None: nothing to write."""
        if not new:
            return None
        data = frames.pack_shard([(n.jpegs, n.ts) for n in new])
        with _locked(self.root):
            self._refresh()
            digest = _sha256(data)
            name = f"{digest[:20]}.safetensors"
            clips = tuple(dataclasses.replace(n.clip, shard=name, row=row) for row, n in enumerate(new))
            shard = Shard(name, digest, len(data), len(clips), clips)
            ids, videos = {c.record.id for c in clips}, {c.video for c in clips}
            stale = any(c.video in videos or c.record.id in ids for c in self.clips())
            files.write_bytes(self.root / name, data)
            if stale:  # one atomic rewrite, so that old and new clips of a video are never both in the manifest
                kept = _keep(self.shards, lambda c: c.video not in videos and c.record.id not in ids)
                self._rewrite([*kept, shard])
            else:
                files.append_line(self.root / "manifest.jsonl", frames.shard_to_json(shard))
                self.shards.append(shard)
                self._seen = self._stamp()
        return shard

    def change(self, update: Callable[[StoredClip], StoredClip | None]) -> int:
        """Replace clips by what `update` returns (None = forget it) and return how many clips changed.

        Shard and row of a clip must stay: frames are not touched. Shards that become mostly garbage are compacted.
        """
        with _locked(self.root):
            self._refresh()
            changed, result = 0, []
            for shard in self.shards:
                clips = [(clip, update(clip)) for clip in shard.clips]
                changed += sum(old is not new for old, new in clips)
                result.append(dataclasses.replace(shard, clips=tuple(new for _, new in clips if new is not None)))
            if changed:
                self._rewrite(result)
                self._compact()
        return changed

    def add_aliases(self, aliases: Sequence[StoredClip]) -> None:
        """Add clips that share the row of a stored one: another file with the same content."""
        if not aliases:
            return
        with _locked(self.root):
            self._refresh()
            by_shard: dict[str, list[StoredClip]] = {}
            for clip in aliases:
                by_shard.setdefault(clip.shard, []).append(clip)
            videos = {clip.video for clip in aliases}
            kept = _keep(self.shards, lambda c: c.video not in videos)
            self._rewrite([dataclasses.replace(s, clips=(*s.clips, *by_shard.get(s.name, ()))) for s in kept if s.name])

    def drop_shards(self, names: Iterable[str]) -> None:
        """Forget whole shards, their clips included, and delete their files."""
        names = set(names)
        if names:
            with _locked(self.root):
                self._refresh()
                self._rewrite([shard for shard in self.shards if shard.name not in names])

    def failures(self) -> dict[str, Failure]:
        """Return the recorded failures by video."""
        return {line["video"]: Failure.from_json(line) for line in frames.read_failures(self.root)}

    def add_failure(self, failure: Failure) -> None:
        """Record a video that could not be read. The last line of a video counts."""
        with _locked(self.root):
            files.append_line(self.root / "failures.jsonl", dataclasses.asdict(failure))

    def clear_failures(self, videos: Iterable[str]) -> None:
        """Remove videos from failures.jsonl (and the lines of a video that a later line replaced)."""
        videos = set(videos)
        path = self.root / "failures.jsonl"
        with _locked(self.root):
            lines = frames.read_failures(self.root)
            left = [f for f in self.failures().values() if f.video not in videos]
            if len(left) == len(lines):
                return
            files.write_text(path, "".join(json.dumps(dataclasses.asdict(f), ensure_ascii=False) + "\n" for f in left))

    # ------------------------------------------------------------------------------------------- inside the lock

    def _refresh(self) -> None:
        stamp = self._stamp()
        if stamp != self._seen:
            self.shards = frames.read_manifest(self.root)
            self._seen = stamp

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            info = (self.root / "manifest.jsonl").stat()
        except FileNotFoundError:
            return None
        return (info.st_ino, info.st_size, info.st_mtime_ns)

    def _rewrite(self, shards: Sequence[Shard]) -> None:
        """Replace the manifest in one step, then delete the files that it no longer names."""
        self.shards = [shard for shard in shards if shard.clips]
        lines = (json.dumps(frames.shard_to_json(shard), ensure_ascii=False) + "\n" for shard in self.shards)
        files.write_text(self.root / "manifest.jsonl", "".join(lines))
        self._seen = self._stamp()
        self._drop_orphans()

    def _drop_orphans(self) -> None:
        """Delete shards that no line names: a crash between writing a shard and its line leaves one."""
        names = {shard.name for shard in self.shards}
        for path in _own_files(self.root):
            if path.name not in names:
                path.unlink(missing_ok=True)

    def _compact(self) -> None:
        """Rewrite shards of which most rows are no longer wanted."""
        result, done = [], False
        for shard in self.shards:
            rows = sorted({clip.row for clip in shard.clips})
            if len(rows) >= _LIVE_SHARE * shard.rows:
                result.append(shard)
                continue
            try:
                data = frames.pack_shard(frames.read_rows(self.root, shard, rows))
            except DataError:  # damaged: left for --repair, which needs to know what was in it
                result.append(shard)
                continue
            digest = files.write_bytes(self.root / f"{_sha256(data)[:20]}.safetensors", data)
            name, place = f"{digest[:20]}.safetensors", {row: i for i, row in enumerate(rows)}
            clips = tuple(dataclasses.replace(c, shard=name, row=place[c.row]) for c in shard.clips)
            result.append(Shard(name, digest, len(data), len(rows), clips))
            done = True
        if done:
            self._rewrite(result)


def require_own(root: Path) -> None:
    """Raise StoreMismatch (DataError if it cannot be read) unless `root` is a frame store, or nothing is in it yet."""
    if (root / "store.json").exists():
        frames.read_header(root)
        return
    there = {path.name for path in root.iterdir()} if root.is_dir() else set()
    if others := sorted(name for name in there - _BEFORE_THE_HEAD if not _TEMPORARY.fullmatch(name)):
        raise StoreMismatch(
            f"{str(root)!r} holds something else than a frame store: {listed(others)}; nothing was written there. "
            "Move it elsewhere, or choose another workspace with -o"
        )


def check_identity(root: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise StoreMismatch, naming the first field in which two identities differ."""
    for differing in plans.differences(found, wanted)[:1]:
        raise StoreMismatch(
            f"the frame store {str(root)!r} was made with {differing.field} = {differing.found!r}, but this run asks "
            f"for {differing.field} = {differing.wanted!r}; give these frames a workspace of their own with -o FOLDER "
            "(--overwrite would first empty the one that is there)"
        )


def clear(root: Path) -> None:
    """Delete a store's files; nothing else in the folder. store.json goes last, so that a stop leaves a store.

    The caller has made sure that it is a store of this format.
    """
    for path in [root / "manifest.jsonl", root / "failures.jsonl", *_own_files(root), root / "store.json"]:
        path.unlink(missing_ok=True)


def _own_files(root: Path) -> list[Path]:
    """Return the shards and temporary files of a store, by the names that only this module gives."""
    return [path for path in root.iterdir() if _SHARD.fullmatch(path.name) or _TEMPORARY.fullmatch(path.name)]


def _keep(shards: Iterable[Shard], wanted: Callable[[StoredClip], bool]) -> list[Shard]:
    return [dataclasses.replace(s, clips=tuple(c for c in s.clips if wanted(c))) for s in shards]


def _locked(root: Path) -> AbstractContextManager[None]:
    return files.lock(root, wait_s=_LOCK_WAIT_S)


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
