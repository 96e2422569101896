"""Frame stores of format 1, which tvr 0.1.0 wrote, and how one becomes format 2 in its own folder.

    store.json         kind, format 1, identity, provenance, captions_beside; no checksum
    manifest.jsonl     one line a shard: shard, sha256, bytes, rows, and every clip with all of its fields
    <hash>.safetensors, failures.jsonl     as in format 2

The shards stay what and where they are, and nothing is decoded. Records and list of format 2 have names of their own,
so they are written beside the manifest; the store is of format 2 from the moment in which `store.json` is replaced, and
only then the manifest goes. Stopped anywhere before, it is the store that it was, and the next try finishes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import commands, files, schema
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError
from tvr_cli.removal import listed
from tvr_cli.schema import Misfit
from tvr_cli.stores import listing
from tvr_cli.stores.frames import head as heads
from tvr_cli.stores.frames import records
from tvr_cli.stores.frames import store as frames
from tvr_cli.stores.frames.head import Head
from tvr_cli.stores.frames.records import About, ClipRecord, SourceFile, StoredClip
from tvr_cli.stores.listing import Covered
from tvr_cli.stores.upgraded import Upgraded

FORMAT_VERSION = 1
MANIFEST = "manifest.jsonl"
_BEGINS = b'{"shard": "'


@dataclass(frozen=True, slots=True)
class _Shard:
    """A line of the manifest."""

    name: str
    sha256: str
    size_bytes: int
    rows: int
    clips: tuple[StoredClip, ...]


def found_format(folder: Path, workspace: Folder | None = None) -> int | None:
    """Return the format of the frame store in a folder, None where there is none that says one.

    Raises DataError, with what mends it, where its head cannot be read.
    """
    path = folder / listing.HEAD
    fix = f"nothing of it was changed. {heads.mend(folder, workspace)}"
    head = files.read_json(path, fix=fix) if path.is_file() else None
    version = head.get("format") if isinstance(head, dict) and head.get("kind") == "frames" else None
    return version if type(version) is int else None


def upgrade(
    folder: Path, workspace: Folder | None, *, dry_run: bool, each: Callable[[], None] = lambda: None
) -> Upgraded:
    """Make a store of format 1 one of format 2. The caller holds its lock. each: called after every shard.

    Raises DataError, having changed nothing, where the store is damaged, EnvironmentProblem when the disk is full.
    """
    old = _read_head(folder)
    named = list(_read_manifest(folder, workspace))
    _refuse_cut_short(folder, {shard.name for shard in named}, workspace)
    shards = _last_of_each(named)
    lines, written = [], 0
    for shard in shards:
        about = About(shard.name, shard.sha256, shard.size_bytes, shard.rows, old["identity"])
        line, data = frames.line_of(about, shard.clips)
        if not dry_run and not _stands(folder / line.records, data):
            files.write_bytes(folder / line.records, data)
        lines.append(line)
        written += len(data)
        each()
    listed = heads.list_bytes(lines)
    clips = [clip for shard in shards for clip in shard.clips]
    name = listing.first_list()
    digest = hashlib.sha256(listed).hexdigest() if dry_run else files.write_bytes(folder / name, listed)
    head = Head(
        identity=old["identity"],
        provenance=old["provenance"],
        captions_beside=old["captions_beside"],
        roots=dict.fromkeys((clip.source for clip in clips), ""),
        shards=Covered(name, len(listed), digest),
        sealed=frames.seal(old["identity"], clips),
    )
    try:
        heads.from_json(head.to_json())
    except Misfit as e:
        raise DataError(f"{str(folder / listing.HEAD)!r} is damaged ({e}); nothing was changed") from e
    if not dry_run:
        heads.write_head(folder, head)
        remove_old(folder)
    return Upgraded(len(lines), len(clips), written + len(listed))


def remove_old(folder: Path) -> None:
    """Remove the manifest of format 1 from a store of format 2; a stop right after the change leaves it."""
    path = folder / MANIFEST
    if not path.is_file():
        return
    with open(path, "rb") as f:
        ours = f.read(len(_BEGINS)) in (_BEGINS, b"")
    if ours:
        with files.disk_errors(path):
            path.unlink()


def shard_count(folder: Path) -> int:
    """Return how many lines the manifest has."""
    path = folder / MANIFEST
    if not path.is_file():
        return 0
    with open(path, "rb") as f:
        return sum(line.endswith(b"\n") for line in f)


def _read_head(folder: Path) -> dict[str, Any]:
    path = folder / listing.HEAD
    head = files.read_json(path)
    head = {"provenance": {}, "captions_beside": None, **head}
    try:
        return schema.require(head, _HEAD)
    except Misfit as e:
        raise DataError(f"{str(path)!r} is damaged ({e}); nothing was changed") from e


def _read_manifest(folder: Path, workspace: Folder | None) -> Iterator[_Shard]:
    """Yield the shards of every whole line; a torn last line was never finished."""
    path = folder / MANIFEST
    if not path.is_file():
        return
    with open(path, "rb") as f:
        for number, line in enumerate(f, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield _shard(files.parse_json(line), path)
            except ValueError as e:
                raise DataError(
                    f"{path!s}:{number}: this line is damaged ({e}); nothing was changed. Keep a copy of the file, "
                    f"take the line out and run again: {commands.tvr('migrate', workspace=workspace)}; then "
                    f"{commands.tvr('extract-frames', commands.VIDEOS, workspace=workspace)} reads again what was in it"
                ) from e


def _refuse_cut_short(folder: Path, named: Collection[str], workspace: Folder | None) -> None:
    """Raise DataError where the manifest has no end and shards lie there that it does not name.

    So does a copy that was cut short; in format 2 these shards would count no more, and the next extraction would
    remove them. Behind a whole manifest they are what a killed run left, as ever.
    """
    path = folder / MANIFEST
    data = path.read_bytes() if path.is_file() else b""
    unnamed = sorted(p.name for p in folder.iterdir() if records.SHARD.fullmatch(p.name) and p.name not in named)
    if not unnamed or data.endswith(b"\n"):
        return
    found = f"{str(path)!r} {'ends within a line' if data else 'is missing or empty'}"
    extract = commands.tvr("extract-frames", commands.VIDEOS, workspace=workspace)
    raise DataError(
        f"{found}, and {listed(unnamed)} beside it {'is' if len(unnamed) == 1 else 'are'} not named there; nothing was "
        "changed. Copy the file again from where the workspace came from; if there is no other, move these shards "
        f"elsewhere and run {commands.tvr('migrate', workspace=workspace)}, then {extract}"
    )


def _shard(line: Any, where: Path) -> _Shard:
    said = schema.require(line, _LINE)
    name = files.bare_name(said["shard"], where)
    if not records.SHARD.fullmatch(name):
        raise Misfit(f"{name!r} is no name of a shard")
    clips = tuple(_clip(c, name) for c in said["clips"])
    if any(clip.row >= said["rows"] for clip in clips):
        raise Misfit("a clip points outside of its shard")
    return _Shard(name, said["sha256"], said["bytes"], said["rows"], clips)


def _clip(said: dict[str, Any], shard: str) -> StoredClip:
    try:
        said = schema.require(said, _CLIP)
    except Misfit as e:
        raise Misfit(
            f"the clip {said['id']!r}: {e}" if isinstance(said, dict) and "id" in said else f"a clip: {e}"
        ) from e
    values = {f.name: said[f.name] for f in dataclasses.fields(ClipRecord)}
    record = ClipRecord(**{**values, "span": (said["span"][0], said["span"][1])})
    stamp = (said["size"], said["mtime_ns"], None, None)
    clip = StoredClip(
        record, SourceFile(said["video"], (said["source"],), stamp, said["file_duration"]), shard, said["row"]
    )
    records.check(clip)
    return clip


def _last_of_each(shards: list[_Shard]) -> list[_Shard]:
    """Return the shards with the clips that count: of several lines that name a clip the last one does."""
    last = {clip.record.id: number for number, shard in enumerate(shards) for clip in shard.clips}
    kept = (
        dataclasses.replace(shard, clips=tuple(c for c in shard.clips if last[c.record.id] == number))
        for number, shard in enumerate(shards)
    )
    return [shard for shard in kept if shard.clips]


def _stands(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


_HEAD = {
    "identity": schema.mapping,
    "provenance": schema.mapping,
    "captions_beside": schema.maybe(schema.text),
}
_LINE = {
    "shard": schema.anything,  # `bare_name` says what is wrong with it
    "sha256": schema.text,
    "bytes": schema.whole,
    "rows": schema.whole,
    "clips": schema.items(schema.anything),
}
_CLIP = {
    "id": schema.text,
    "path": schema.text,
    "start": schema.maybe(schema.number),
    "end": schema.maybe(schema.number),
    "key": schema.integer,
    "file_id": schema.text,
    "source_sha256": schema.text,
    "n_frames": schema.positive,
    "duration": schema.number,
    "span": schema.fixed(schema.number, schema.number),
    "width": schema.whole,
    "height": schema.whole,
    "decoder": schema.text,
    "truncated": schema.flag,
    "damaged": schema.whole,
    "video": schema.text,
    "source": schema.text,
    "size": schema.whole,
    "mtime_ns": schema.integer,
    "file_duration": schema.number,
    "row": schema.whole,
}
