"""Writing a frame store: append shards, forget clips, compact, record failures. Every step is atomic.

Several processes may write one store (`--shard i/n`): the lock of the folder is held only for one step at a time, and
each step starts from the head as it is on disk, of which only what is new is read. A shard is named after its content,
so names never collide. A step counts when `store.json` is replaced, after everything that it covers is on the disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import files, plans
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError, StoreMismatch, Unreadable
from tvr_cli.removal import listed
from tvr_cli.stores import listing
from tvr_cli.stores.frames import head as heads
from tvr_cli.stores.frames import records, unfinished
from tvr_cli.stores.frames import store as frames
from tvr_cli.stores.frames.head import Head, ShardLine
from tvr_cli.stores.frames.records import About
from tvr_cli.stores.frames.store import Shard, StoredClip, Timeline

_LOCK_WAIT_S = 60.0
# A shard is rewritten when less than this share of its rows is still wanted.
_LIVE_SHARE = 0.5
# Names that only a frame store gives: nothing else in the folder is ever deleted.
_OWN = (records.SHARD, records.RECORDS, listing.LIST)
_NAMES = "|".join(pattern.pattern for pattern in _OWN)
_TEMPORARY = re.compile(rf"({_NAMES}|{unfinished.NAME.pattern}|store\.json|(manifest|failures)\.jsonl)\.\d+\.tmp")
_BEFORE_THE_HEAD = {".lock", "locks"}  # what is there before store.json is, with an empty list and temporary files


@dataclass(frozen=True, slots=True)
class NewClip:
    """A clip to be added: everything but its place (shard and row are set by the writer).

    timeline: the frames that it has, or is a view of; clips with the same object share one row.
    """

    clip: StoredClip
    timeline: Timeline


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
    """A frame store opened for writing. `shards` are its shards, with their records, as of the last step."""

    def __init__(self, root: Path, workspace: Folder | None = None):
        self.root = root
        self.workspace = workspace  # what `-o` of a command in a message names
        self.shards: list[Shard] = []
        self._seen: files.Stamp | None = None
        self._forget_all()
        self._refresh()

    @classmethod
    def open(
        cls,
        root: Path,
        identity: dict[str, Any],
        provenance: dict[str, Any],
        *,
        overwrite: bool = False,
        workspace: Folder | None = None,
    ) -> FrameWriter:
        """Open the store in `root`, creating it when there is none; with `overwrite`, empty it first.

        workspace: the one that it belongs to, for the commands in messages. Raises StoreMismatch when the store was
        made with another plan, or the folder holds something else.
        """
        require_own(root, workspace)
        with _locked(root):
            require_own(root, workspace)
            if overwrite:
                clear(root)
            if (root / listing.HEAD).exists():
                check_identity(root, heads.read_head(root).identity, identity)
            else:
                begin(root, identity, provenance)
            writer = cls(root, workspace)
            writer._drop_orphans()
            return writer

    @property
    def roots(self) -> Mapping[str, str]:
        """Each source that gave videos, with what stands before its ids, as of the last step."""
        return self._head.roots

    def clips(self) -> list[StoredClip]:
        """Return every clip of the store as of the last step."""
        return [clip for shard in self.shards for clip in shard.clips]

    def set_header(self, *, captions_beside: str | None = None, roots: Mapping[str, str] | None = None) -> None:
        """Note the captions that were found beside the videos, and sources; None leaves what is there."""
        with _locked(self.root):
            self._refresh()
            head = self._head
            if captions_beside is not None:
                head = dataclasses.replace(head, captions_beside=captions_beside)
            if roots is not None:
                head = dataclasses.replace(head, roots={**roots, **head.roots})
            if head != self._head:
                self._commit(head)

    def add(self, new: Sequence[NewClip]) -> ShardLine | None:
        """Write the clips as one shard and replace what the store has of the same videos. None: nothing to write."""
        if not new:
            return None
        timelines = list({id(n.timeline): n.timeline for n in new}.values())
        row_of = {id(timeline): row for row, timeline in enumerate(timelines)}
        data = frames.pack_shard(timelines)
        digest = hashlib.sha256(data).hexdigest()
        name = f"{digest[:20]}.safetensors"
        clips = tuple(dataclasses.replace(n.clip, shard=name, row=row_of[id(n.timeline)]) for n in new)
        for clip in clips:
            records.check(clip)
        with _locked(self.root):
            self._refresh()
            line, held = frames.line_of(self._about(name, digest, len(data), len(timelines)), clips)
            stale = not self._videos.isdisjoint(c.video for c in clips) or not self._ids.isdisjoint(
                c.record.id for c in clips
            )
            files.write_bytes(self.root / name, data)
            shard = Shard(line, clips)
            if stale:  # one atomic step, so that old and new clips of a video never both count
                ids, videos = {c.record.id for c in clips}, {c.video for c in clips}
                kept = _keep(self.shards, lambda c: c.video not in videos and c.record.id not in ids)
                self._rewrite([*kept, shard])
            else:
                files.write_bytes(self.root / line.records, held)
                self._append(shard)
        return line

    def change(self, update: Callable[[StoredClip], StoredClip | None]) -> int:
        """Replace clips by what `update` returns (None = forget it) and return how many clips changed.

        Shard and row of a clip must stay: frames are not touched. Shards that become mostly garbage are compacted.
        """
        with _locked(self.root):
            self._refresh()
            changed, result = 0, []
            for shard in self.shards:
                clips = [(clip, update(clip)) for clip in shard.clips]
                differ = sum(old is not new for old, new in clips)
                kept = tuple(new for _, new in clips if new is not None)
                result.append(dataclasses.replace(shard, clips=kept) if differ else shard)
                changed += differ
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
            self._rewrite(
                [dataclasses.replace(s, clips=(*s.clips, *by_shard[s.name])) if s.name in by_shard else s for s in kept]
            )

    def drop_shards(self, names: Iterable[str]) -> None:
        """Forget whole shards, their clips included, and delete their files."""
        names = set(names)
        if names:
            with _locked(self.root):
                self._refresh()
                self._rewrite([shard for shard in self.shards if shard.name not in names])

    def seal(self) -> None:
        """Note in the head what all records together tell, so that readers need not read them for it."""
        with _locked(self.root):
            self._refresh()
            if self._head.sealed is None:
                self._commit(dataclasses.replace(self._head, sealed=frames.seal(self._head.identity, self.clips())))

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

    def _forget_all(self) -> None:
        self.shards, self._digest, self._videos, self._ids = [], hashlib.sha256(), set[str](), set[str]()

    def _refresh(self) -> None:
        """Bring this writer up to the head on disk: another one may have made steps since."""
        stamp = files.stamp(self.root / listing.HEAD)
        if stamp == self._seen:
            return
        head = heads.read_head(self.root, self.workspace)
        new, known = self._appended(head), dict[str, Shard]()
        if new is None:  # another list, or another beginning of it
            new, known = (
                heads.covered_bytes(self.root, head, self.workspace),
                {shard.line.records: shard for shard in self.shards},
            )
            self._forget_all()
        for line in heads.parse_list(new, self.root, self.workspace):
            shard = known.get(line.records)
            self._take(
                shard
                if shard and shard.line == line
                else Shard(line, frames.read_records(self.root, line, self.workspace))
            )
        self._digest.update(new)
        self._head, self._seen = head, stamp

    def _appended(self, head: Head) -> bytes | None:
        """Return what a head covers beyond what this writer has read, None where that is not a part of it."""
        if self._seen is None or head.shards.name != self._head.shards.name:
            return None
        done, digest = self._head.shards.size_bytes, self._digest.copy()
        try:
            with open(self.root / head.shards.name, "rb") as f:
                f.seek(done)
                new = f.read(max(0, head.shards.size_bytes - done))
        except OSError:  # `covered_bytes` says what is wrong
            return None
        digest.update(new)
        return new if digest.hexdigest() == head.shards.sha256 else None

    def _take(self, shard: Shard) -> None:
        self.shards.append(shard)
        self._videos.update(clip.video for clip in shard.clips)
        self._ids.update(clip.record.id for clip in shard.clips)

    def _append(self, shard: Shard) -> None:
        """Add a line behind what the head covers, then let the head cover it."""
        covered, line = self._head.shards, heads.list_bytes([shard.line])
        covers = listing.append(self.root, covered, self._digest, line)
        self._take(shard)
        self._commit(dataclasses.replace(self._head, shards=covers, sealed=None))

    def _rewrite(self, shards: Sequence[Shard]) -> None:
        """Write a new list, let the head name it in one step, then delete the files that it no longer names."""
        standing = set(map(id, self.shards))
        shards = [s if id(s) in standing else self._recorded(s) for s in shards if s.clips]
        data = heads.list_bytes([shard.line for shard in shards])
        covers = listing.write_list(self.root, listing.next_list(self._head.shards.name), data)
        self._forget_all()
        for shard in shards:
            self._take(shard)
        self._digest.update(data)
        self._commit(dataclasses.replace(self._head, shards=covers, sealed=None))
        self._drop_orphans()

    def _recorded(self, shard: Shard) -> Shard:
        """Return a shard whose records are on the disk as its clips are now."""
        old = shard.line
        about = self._about(old.name, old.sha256, old.size_bytes, old.rows)
        line, data = frames.line_of(about, shard.clips)
        if line.records != old.records or not (self.root / line.records).is_file():
            files.write_bytes(self.root / line.records, data)
        return dataclasses.replace(shard, line=line)

    def _about(self, name: str, sha256: str, size_bytes: int, rows: int) -> About:
        return About(name, sha256, size_bytes, rows, self._head.identity)

    def _commit(self, head: Head) -> None:
        heads.write_head(self.root, head)
        self._head, self._seen = head, files.stamp(self.root / listing.HEAD)

    def _drop_orphans(self) -> None:
        """Delete files that the head does not cover: a crash before a step counted leaves some."""
        drop_orphans(self.root, self._head.shards.name, [shard.line for shard in self.shards])

    def _compact(self) -> None:
        """Rewrite shards of which most rows are no longer wanted."""
        result, done = [], False
        for shard in self.shards:
            rows = sorted({clip.row for clip in shard.clips})
            if len(rows) >= _LIVE_SHARE * shard.line.rows:
                result.append(shard)
                continue
            try:
                data = frames.pack_shard(frames.read_rows(self.root, shard.line, rows))
            except DataError:  # damaged: left for --repair, which needs to know what was in it
                result.append(shard)
                continue
            digest = files.write_bytes(self.root / f"{hashlib.sha256(data).hexdigest()[:20]}.safetensors", data)
            name, place = f"{digest[:20]}.safetensors", {row: i for i, row in enumerate(rows)}
            clips = tuple(dataclasses.replace(c, shard=name, row=place[c.row]) for c in shard.clips)
            line, _ = frames.line_of(self._about(name, digest, len(data), len(rows)), clips)
            result.append(Shard(line, clips))
            done = True
        if done:
            self._rewrite(result)


def drop_damaged_records(root: Path, shard: str) -> list[str]:
    """Forget shards whose records are damaged, and return their names. shard: one name, or `all`.

    What was in them is known no more; the videos are read again by an extraction that names them.
    """
    with _locked(root):
        head, lines = heads.read(root)
        lost = [line.name for line in lines if shard in ("all", line.name) and not _has_records(root, line)]
        if lost:
            data = heads.list_bytes([line for line in lines if line.name not in lost])
            covers = listing.write_list(root, listing.next_list(head.shards.name), data)
            heads.write_head(root, dataclasses.replace(head, shards=covers, sealed=None))
    return lost


def require_own(root: Path, workspace: Folder | None = None) -> None:
    """Raise StoreMismatch (DataError if it cannot be read) unless `root` is a frame store, or nothing is in it yet.

    workspace: as in `FrameWriter.open`.
    """
    if (root / listing.HEAD).exists():
        heads.read_head(root, workspace)
        return
    there = {path.name for path in root.iterdir()} if root.is_dir() else set()
    there -= {*_BEFORE_THE_HEAD, *(n for n in there if listing.LIST.fullmatch(n) and not (root / n).stat().st_size)}
    if others := sorted(name for name in there if not _TEMPORARY.fullmatch(name)):
        if heads.has_own_names(root):
            heads.require_head(root, "start again", workspace)
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
    """Delete a store's files; nothing else in the folder. A stop leaves a store, an empty one, or nothing.

    The caller has made sure that it is a store of this format.
    """
    if not (root / listing.HEAD).exists():
        return
    head = heads.read_head(root)
    empty = listing.next_list(head.shards.name)
    covers = listing.write_list(root, empty, b"")
    heads.write_head(root, dataclasses.replace(head, shards=covers, sealed=None))
    gone = [path for path in _own_files(root) if path.name != empty]
    kept = [root / name for name in unfinished.kept(root)]
    for path in [root / "failures.jsonl", *kept, *gone, root / listing.HEAD, root / empty]:
        path.unlink(missing_ok=True)


def begin(root: Path, identity: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Write the head of a store without shards. The caller holds the lock."""
    covers = listing.write_list(root, listing.first_list(), b"")
    heads.write_head(root, Head(identity, provenance, None, {}, covers))


def drop_orphans(root: Path, covered: str, lines: Iterable[ShardLine]) -> None:
    """Delete files of a store that its head does not cover. covered: the list's name. The caller holds the lock."""
    names = {covered, *(name for line in lines for name in (line.name, line.records))}
    for path in _own_files(root):
        if path.name not in names:
            path.unlink(missing_ok=True)


def _has_records(root: Path, line: ShardLine) -> bool:
    try:
        frames.read_records(root, line)
    except Unreadable:
        raise
    except DataError:
        return False
    return True


def _own_files(root: Path) -> list[Path]:
    """Return the files of a store besides its head, by the names that only a store gives."""
    return [p for p in root.iterdir() if any(x.fullmatch(p.name) for x in _OWN) or _TEMPORARY.fullmatch(p.name)]


def _keep(shards: Iterable[Shard], wanted: Callable[[StoredClip], bool]) -> list[Shard]:
    """Return shards with the clips that are wanted; one that loses none is the same object."""
    kept = ((s, tuple(c for c in s.clips if wanted(c))) for s in shards)
    return [s if len(clips) == len(s.clips) else dataclasses.replace(s, clips=clips) for s, clips in kept]


def _locked(root: Path) -> AbstractContextManager[None]:
    return files.lock(root, wait_s=_LOCK_WAIT_S)
