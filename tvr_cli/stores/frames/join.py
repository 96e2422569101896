"""Joining frame stores of one plan: shards are linked, records are read a file at a time, then one head covers all.

What two stores have of one video is taken once, from the first; nothing is decoded, and nothing of the other stores is
changed. What is held in memory is the list of shards and a few records of each run of the sort (`stores/spill.py`), so
it does not grow with the clips. A join that is stopped leaves the store as it was; run again, it goes on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from tvr_cli import commands, files, plans
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.log import Bar
from tvr_cli.stores import listing
from tvr_cli.stores.frames import head as heads
from tvr_cli.stores.frames import store as frames
from tvr_cli.stores.frames.head import Head, Sealed, ShardLine
from tvr_cli.stores.frames.records import About
from tvr_cli.stores.frames.store import StoredClip
from tvr_cli.stores.frames.writer import Failure, begin, drop_orphans, require_own
from tvr_cli.stores.spill import Spill

_LOCK_WAIT_S = 60.0


@dataclass(frozen=True)
class Side:
    """A store that takes part, as its head said when it was opened. workspace: for the commands in messages."""

    root: Path
    head: Head
    lines: tuple[ShardLine, ...]
    workspace: commands.Folder | None

    @classmethod
    def open(cls, root: Path, workspace: commands.Folder | None) -> Side:
        """Raises as `FrameStore.open` does."""
        return cls(root, *heads.read(root, workspace), workspace)


@dataclass(frozen=True)
class Joint:
    """What a store holds when others are joined to it; nothing is written yet.

    lines: all that count then. taken: (folder, line) of shards that have to be linked. written: (folder, line, records)
    of those whose records change, because a clip in them is taken from elsewhere. doubled: clips that were there twice.
    clips, frames: in all.
    """

    head: Head
    lines: tuple[ShardLine, ...]
    taken: Sequence[tuple[Path, ShardLine]]
    written: Sequence[tuple[Path, ShardLine, bytes]]
    failures: Sequence[Failure]
    doubled: int

    @property
    def clips(self) -> int:
        return sum(line.clips for line in self.lines)

    @property
    def frames(self) -> int:
        return sum(line.frames for line in self.lines)

    @property
    def videos(self) -> int:
        assert self.head.sealed is not None, "a joint is sealed"
        return self.head.sealed.videos


def joint(root: Path, sides: Sequence[Side], bar: Bar) -> Joint:
    """Return what the stores `sides` are together, in this order, as a store in `root`. Writes nothing.

    The store in `root` is the first of them where there is one. bar: advances by a shard. Raises StoreMismatch, naming
    the field, for stores of different plans; DataError where a shard is missing or cut short, its records are damaged,
    or a clip of one name has another content in another store.
    """
    for side in sides[1:]:
        _require_same_plan(sides[0], side)
    for side in sides:
        _require_whole(side)
    held = _distinct(sides)
    there = next(folder for folder in (root, *root.parents) if folder.is_dir())
    with Spill(there) as ids, Spill(there) as videos, Spill(there) as names:
        for at, line in held:
            clips = frames.read_records(sides[at].root, line, sides[at].workspace)
            for clip in clips:
                record = clip.record
                ids.add((record.id, at, clip.video, frames.said_of(record)))
            for video in {clip.video for clip in clips}:
                videos.add((video, at))
            for name in {clip.record.file_id for clip in clips}:
                names.add((name,))
            bar.advance()
        first = _first_of(videos.ascending())
        failures = _failures(sides, videos.ascending())
        doubled = _doubled(sides, held, first)
        content = _content(sides, ids.ascending(), first)
        sealed = Sealed(content, sum(1 for _ in groupby(names.ascending())))
    lines, written = _without(sides, held, first)
    count = {line.records for line in lines}
    return Joint(
        head=dataclasses.replace(
            sides[0].head,
            captions_beside=next((s.head.captions_beside for s in sides if s.head.captions_beside), None),
            roots={name: prefix for side in reversed(sides) for name, prefix in side.head.roots.items()},
            sealed=sealed,
        ),
        lines=lines,
        taken=[(sides[at].root, line) for at, line in held if sides[at].root != root and line.records in count],
        written=written,
        failures=failures,
        doubled=doubled,
    )


def commit(root: Path, found: Joint, workspace: commands.Folder | None, bar: Bar) -> int:
    """Write what `joint` found into the store in `root`, and return how many shards are new in it.

    First all files, then the head in one step. bar: advances by a shard that is linked. Raises EnvironmentProblem when
    the disk is full or another process writes, StoreMismatch where something else than a frame store is in the folder.
    """
    with files.lock(root, wait_s=_LOCK_WAIT_S):
        require_own(root, workspace)
        if not (root / listing.HEAD).exists():
            begin(root, found.head.identity, found.head.provenance)
        head, lines = heads.read(root, workspace)
        known = {line.name for line in lines}
        for folder, line in found.taken:
            _take(folder, root, (line.name, line.records), known)
            bar.advance()
        for folder, line, data in found.written:
            _take(folder, root, (line.name,), known)
            files.write_bytes(root / line.records, data)
            bar.advance()
        if found.lines != lines or _said(found.head) != _said(head):
            covers = head.shards
            if found.lines != lines:
                covers = listing.write_list(root, listing.next_list(covers.name), heads.list_bytes(found.lines))
            heads.write_head(root, dataclasses.replace(found.head, shards=covers))
            drop_orphans(root, covers.name, found.lines)
        _write_failures(root, found.failures)
    return len({line.name for line in found.lines} - known)


# ------------------------------------------------------------------------------------------------------------ checking


def _require_same_plan(one: Side, other: Side) -> None:
    for differing in plans.differences(one.head.identity, other.head.identity)[:1]:
        raise StoreMismatch(
            f"the frames in {str(one.root)!r} and {str(other.root)!r} cannot be merged: {differing.field} is "
            f"{differing.found!r} in the first and {differing.wanted!r} in the second; read all parts with the same "
            "flags. Nothing was written"
        )


def _require_whole(side: Side) -> None:
    """Raise DataError unless every shard is there in its full size; its checksum is verified when it is first read."""
    for line in side.lines:
        path = side.root / line.name
        size = path.stat().st_size if path.is_file() else None
        if size != line.size_bytes:
            found = "there is no such file" if size is None else f"it has {size} bytes"
            mend = commands.tvr("extract-frames", repair=line.name, workspace=side.workspace)
            raise DataError(
                f"the shard {str(path)!r} is incomplete: expected {line.size_bytes} bytes, {found}; copy that part "
                f"again, or make the shard again with: {mend}. Nothing was written"
            )


def _distinct(sides: Sequence[Side]) -> list[tuple[int, ShardLine]]:
    """Return every line with the number of its side, each once: shards are named after what is in them."""
    known: set[tuple[str, str]] = set()
    found = []
    for at, side in enumerate(sides):
        for line in side.lines:
            if (line.name, line.records) not in known:
                known.add((line.name, line.records))
                found.append((at, line))
    return found


def _first_of(videos: Iterable[tuple[Any, ...]]) -> dict[str, set[int]]:
    """Return the videos that several sides have, with the sides that have them. videos: (video, side), ascending."""
    found = {}
    for video, rows in groupby(videos, itemgetter(0)):
        have = {at for _, at in rows}
        if len(have) > 1:
            found[video] = have
    return found


def _doubled(sides: Sequence[Side], held: Sequence[tuple[int, ShardLine]], first: Mapping[str, set[int]]) -> int:
    """Return how many clips are there twice. Raises DataError unless they are the same clips in every side."""
    if not first:
        return 0
    have: dict[str, dict[int, set[tuple[str, int, int]]]] = {video: {} for video in first}
    of = set().union(*first.values())
    for at, line in held:
        if at in of:
            for clip in frames.read_records(sides[at].root, line, sides[at].workspace):
                if clip.video in first:
                    about = (clip.record.id, clip.record.key, clip.record.n_frames)
                    have[clip.video].setdefault(at, set()).add(about)
    twice = 0
    for video, by_side in have.items():
        one, *others = sorted(by_side)
        for other in others:
            if by_side[other] != by_side[one]:
                raise DataError(
                    f"the parts {_part(sides[one])} and {_part(sides[other])} have different clips of {video!r}: "
                    "another file of that name, or it was cut in another way (--segment); merge one of them alone, or "
                    "name the folders of both in one extraction. Nothing was written"
                )
            twice += len(by_side[other])
    return twice


def _part(side: Side) -> str:
    return repr(str(side.workspace or side.root))


def _content(sides: Sequence[Side], ids: Iterator[tuple[Any, ...]], first: Mapping[str, set[int]]) -> str:
    """Return the content hash of all records. ids: (id, side, video, what is said of it), ascending."""
    digest = frames.content_digest(sides[0].head.identity)
    for clip_id, rows in groupby(ids, itemgetter(0)):
        kept = [row for row in rows if row[2] not in first or row[1] == min(first[row[2]])]
        if len({video for _, _, video, _ in kept}) > 1:
            parts = " and ".join(_part(sides[at]) for _, at, _, _ in kept[:2])
            raise DataError(f"the parts {parts} both have a clip {clip_id!r}, of different videos; nothing was written")
        digest.update(kept[0][3].encode())
    return digest.hexdigest()


def _failures(sides: Sequence[Side], videos: Iterable[tuple[Any, ...]]) -> list[Failure]:
    """Return the failures of all sides but those of videos that a side has read. videos: (video, side), ascending."""
    lines = (line for side in sides for line in frames.read_failures(side.root))
    found = {line["video"]: Failure.from_json(line) for line in lines}
    for video, _ in videos if found else ():
        found.pop(video, None)
    return [found[video] for video in sorted(found)]


# ------------------------------------------------------------------------------------------------------------- joining


def _without(
    sides: Sequence[Side], held: Sequence[tuple[int, ShardLine]], first: Mapping[str, set[int]]
) -> tuple[tuple[ShardLine, ...], list[tuple[Path, ShardLine, bytes]]]:
    """Return the lines that count, each clip once, and those of them whose records have to be written."""
    of = set().union(*first.values()) if first else set()
    by_shard: dict[str, list[tuple[int, ShardLine]]] = {}
    for at, line in held:
        by_shard.setdefault(line.name, []).append((at, line))
    lines, written = [], []
    for same in by_shard.values():
        at, line = same[0]
        if len(same) == 1 and at not in of:
            lines.append(line)
            continue
        clips = [clip for at, line in same for clip in _wanted(sides[at], at, line, first)]
        if clips:
            about = About(line.name, line.sha256, line.size_bytes, line.rows, sides[0].head.identity)
            new, data = frames.line_of(about, clips)
            lines.append(line if new == line else new)
            if new != line:
                written.append((sides[at].root, new, data))
    return tuple(lines), written


def _wanted(side: Side, at: int, line: ShardLine, first: Mapping[str, set[int]]) -> Iterator[StoredClip]:
    for clip in frames.read_records(side.root, line, side.workspace):
        if clip.video not in first or at == min(first[clip.video]):
            yield clip


def _take(folder: Path, root: Path, names: Sequence[str], known: set[str]) -> None:
    """Link files into a store, unless its head covers the shard; a copy that was stopped is made again."""
    if folder == root or names[0] in known:
        names = [name for name in names if not (root / name).is_file()]
    for name in names:
        (root / name).unlink(missing_ok=True)
        files.link(folder / name, root / name)


def _said(head: Head) -> tuple[Any, ...]:
    return (head.captions_beside, dict(head.roots), head.sealed)


def _write_failures(root: Path, failures: Sequence[Failure]) -> None:
    path = root / "failures.jsonl"
    if frames.read_failures(root) != [dataclasses.asdict(f) for f in failures]:
        said = (json.dumps(dataclasses.asdict(f), ensure_ascii=False) + "\n" for f in failures)
        files.write_text(path, "".join(said))
