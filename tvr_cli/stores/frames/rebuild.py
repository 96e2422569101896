"""A damaged or lost head is made again from what lies beside it: each file of records says all about its shard.

The frames are worth hours of decoding and the head a few bytes, so a bit that flips in it must not cost them. Only
files count whose name holds their own checksum; a head of another version or program is never touched.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from tvr_cli import files
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError, StoreMismatch, Unreadable
from tvr_cli.schema import Misfit
from tvr_cli.stores import listing
from tvr_cli.stores.frames import head as heads
from tvr_cli.stores.frames import records
from tvr_cli.stores.frames import store as frames
from tvr_cli.stores.frames.head import Head
from tvr_cli.stores.frames.records import About, StoredClip

_LOCK_WAIT_S = 60.0


def rebuild_head(root: Path, workspace: Folder | None = None) -> bool:
    """Make head and list of a store again where they are damaged or lost. Returns whether they were.

    The damaged head stays beside the new one as `store.json.damaged`. Raises DataError as reading does where no records
    are there to make it from, StoreMismatch for a head of another kind, format or version.
    """
    if not root.is_dir():
        return False
    with files.lock(root, wait_s=_LOCK_WAIT_S):
        try:
            heads.read(root, workspace)
        except (StoreMismatch, Unreadable):
            raise
        except DataError:
            held = _held(root)
            if not held:
                raise
            _write(root, _last_of_each(held))
            return True
    return False


def _held(root: Path) -> list[tuple[About, tuple[StoredClip, ...]]]:
    """Return what every whole file of records says, the newest first; of two of one shard the newer one."""
    paths = [path for path in root.iterdir() if records.RECORDS.fullmatch(path.name)]
    found: dict[str, tuple[About, tuple[StoredClip, ...]]] = {}
    for path in sorted(paths, key=lambda p: (p.stat().st_mtime_ns, p.name), reverse=True):
        data = path.read_bytes()
        try:
            about = records.about(data)
            if records.records_name(about.shard, data) == path.name:
                found.setdefault(about.shard, (about, records.unpack(data, about.shard, about.rows)))
        except Misfit:
            continue  # it was damaged as well, or is none
    return list(found.values())


def _last_of_each(held: list[tuple[About, tuple[StoredClip, ...]]]) -> list[tuple[About, tuple[StoredClip, ...]]]:
    """Return shards with their clips, of each video those that were written last."""
    seen: set[str] = set()
    kept = []
    for about, clips in held:
        own = tuple(clip for clip in clips if clip.video not in seen)
        seen.update(clip.video for clip in own)
        if own:
            kept.append((about, own))
    return kept[::-1]


def _write(root: Path, held: list[tuple[About, tuple[StoredClip, ...]]]) -> None:
    identity = held[0][0].identity
    if any(about.identity != identity for about, _ in held):
        raise DataError(
            f"{str(root)!r} holds records of more than one frame plan, so nothing says which is this store's; nothing "
            "was changed. Move the folder elsewhere"
        )
    lines, roots = [], dict[str, str]()
    for about, clips in held:
        line, data = frames.line_of(about, clips)
        if not (root / line.records).is_file():
            files.write_bytes(root / line.records, data)
        lines.append(line)
        roots |= {clip.source: _prefix(clip) for clip in clips if clip.source not in roots}
    covers = listing.write_list(root, listing.free_list(root), heads.list_bytes(lines))
    path = root / listing.HEAD
    if path.is_file():
        files.write_bytes(path.with_name("store.json.damaged"), path.read_bytes())
    heads.write_head(root, Head(dict(identity), {}, None, roots, covers))


def _prefix(clip: StoredClip) -> str:
    """Return what stands before the name that a clip's file has below its source."""
    try:
        name = PurePath(os.path.relpath(clip.record.path, clip.source)).as_posix()
    except ValueError:  # another drive
        return ""
    return clip.video.removesuffix(f"/{name}") if clip.video.endswith(f"/{name}") else ""
