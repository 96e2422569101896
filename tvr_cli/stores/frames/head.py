"""The head of a frame store: `store.json`, and the list of shards that it covers. Opening a store reads these alone.

How a head covers its list is in `stores/listing.py`; here is what both say.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import commands, files, schema
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.plans import FramePlan
from tvr_cli.schema import Misfit
from tvr_cli.stores import listing
from tvr_cli.stores.frames import records
from tvr_cli.stores.frames.place import FORMAT_VERSION
from tvr_cli.stores.listing import HEAD, LIST, Covered

_OLD_LIST = "manifest.jsonl"  # of format 1
# What a store may need of its reader beyond this version: a later one adds a word where an older one would read wrong.
_KNOWN_USES: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ShardLine:
    """One line of the list: a shard, its records, and what they add up to.

    rows: timelines in the shard. clips, frames, truncated, decoders (name -> clips): of the clips that count.
    """

    name: str
    sha256: str
    size_bytes: int
    rows: int
    records: str
    records_sha256: str
    records_bytes: int
    clips: int
    frames: int
    truncated: int
    decoders: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        said = dataclasses.asdict(self)
        return {"shard": said.pop("name"), "sha256": said.pop("sha256"), "bytes": said.pop("size_bytes"), **said}


@dataclass(frozen=True, slots=True)
class Sealed:
    """What only all records together tell, noted when a run ends; None in the head while a run is adding.

    content: `FrameStore.content_hash`. videos: different files.
    """

    content: str
    videos: int


@dataclass(frozen=True, slots=True)
class Head:
    """What store.json says. roots: each source that gave videos, with what stands before its ids ("" = nothing)."""

    identity: dict[str, Any]
    provenance: dict[str, Any]
    captions_beside: str | None
    roots: Mapping[str, str]
    shards: Covered
    sealed: Sealed | None = None

    def to_json(self) -> dict[str, Any]:
        return listing.sealed({
            "kind": "frames",
            "format": FORMAT_VERSION,
            "identity": self.identity,
            "provenance": self.provenance,
            "captions_beside": self.captions_beside,
            "roots": dict(self.roots),
            "uses": [],
            "shards": self.shards.to_json(),
            "sealed": None if self.sealed is None else dataclasses.asdict(self.sealed),
        })  # fmt: skip


def write_head(folder: Path, head: Head) -> None:
    """Replace store.json: what the head covers counts from now on."""
    files.write_json(folder / HEAD, head.to_json())


def list_bytes(lines: Sequence[ShardLine]) -> bytes:
    """Serialise lines of the list."""
    return listing.list_bytes(line.to_json() for line in lines)


def read(folder: Path, workspace: Folder | None = None) -> tuple[Head, tuple[ShardLine, ...]]:
    """Read the head and the list that it covers, as of one moment, also while a writer goes on.

    Raises DataError when there is no store or the head is damaged, StoreMismatch on another kind or format version.
    """

    def at_once() -> tuple[Head, tuple[ShardLine, ...]]:
        head = read_head(folder, workspace)
        return head, parse_list(covered_bytes(folder, head, workspace), folder, workspace)

    return listing.while_written(folder, at_once)


def read_head(folder: Path, workspace: Folder | None = None) -> Head:
    """Read store.json alone. Raises as `read` does."""
    path = folder / HEAD
    extract = commands.tvr("extract-frames", commands.VIDEOS, workspace=workspace)
    require_head(folder, f"run: {extract}", workspace)
    if not path.exists():
        raise DataError(f"expected a frame store in {str(folder)!r}, found none; run: {extract}")
    move = _move()
    found = files.read_json(
        path, fix=f"nothing of it was changed; {move}, or if it is tvr's, run: {_rebuild(workspace)}"
    )
    _require_format(folder, found, workspace, move)
    try:
        head = from_json(found)
    except Misfit as e:
        raise DataError(
            f"{str(path)!r} is damaged ({e}); the frames and records beside it may be whole: {_rebuild(workspace)}"
        ) from e
    plan = FramePlan.from_identity(head.identity)
    later = plan.unsupported()
    if not later and (sentence := head.identity["filter"]) != plan.identity()["filter"]:
        later = f"filter = {sentence!r}"  # another way to resize than its `fit` has
    if later:
        raise StoreMismatch(
            f"{str(folder)!r} holds frames with {later}, which a later tvr reads; update tvr, or {move}"
        )
    return head


def require_head(folder: Path, again: str, workspace: Folder | None = None) -> None:
    """Raise DataError where a store's frames are there and its store.json is not. again: what makes a new store."""
    if (folder / HEAD).exists() or not has_store_files(folder):
        return
    raise DataError(
        f"{str(folder)!r} holds frames and no store.json, which says how they were made; it is left as it is. "
        + mend(folder, workspace, again)
    )


def mend(folder: Path, workspace: Folder | None, again: str = "") -> str:
    """Say what makes a head again: what lies beside it, unless that is of format 1. again: what makes a new store."""
    again = again or f"run: {commands.tvr('extract-frames', commands.VIDEOS, workspace=workspace)}"
    if (folder / _OLD_LIST).exists():
        return f"Put a copy of store.json back, or move the folder elsewhere and {again}"
    return f"Make it again from the records beside it: {_rebuild(workspace)}"


def roots_of(folder: Path, workspace: Folder | None) -> list[str]:
    """Return the folders and manifests that frames were read from, for a command line that reads them again.

    Where nothing says them, or they are those of a data set, it is an example.
    """
    try:
        roots = read_head(folder, workspace).roots
    except DataError:
        roots = {}
    return [root for root in roots if os.path.isabs(root)] or [commands.VIDEOS]


def again(folder: Path, workspace: Folder | None) -> str:
    """Return the command that brings frames up to date with their videos, by name and with their plan."""
    try:
        flags = FramePlan.from_identity(read_head(folder, workspace).identity).flags()
    except DataError:
        flags = {}
    return commands.tvr("extract-frames", *roots_of(folder, workspace), **flags, workspace=workspace)


def has_store_files(folder: Path) -> bool:
    """Whether a folder holds a list of shards, of this format or of format 1, or files with names of frame stores."""
    return has_own_names(folder) or any(
        path.name == _OLD_LIST or LIST.fullmatch(path.name) for path in folder.glob("*.jsonl")
    )


def has_own_names(folder: Path) -> bool:
    """Whether a folder holds files whose names only frame stores give: shards, records."""
    own = (records.SHARD, records.RECORDS)
    return any(pattern.fullmatch(path.name) for path in folder.glob("*") for pattern in own)


def covered_bytes(folder: Path, head: Head, workspace: Folder | None = None) -> bytes:
    """Return the bytes of the list that the head covers. Raises DataError unless they are what was written."""
    return listing.covered_bytes(folder, head.shards, lambda path, found: _damaged_list(path, found, workspace))


def parse_list(data: bytes, folder: Path, workspace: Folder | None = None) -> tuple[ShardLine, ...]:
    """Read lines of the list. Raises DataError for one that does not fit, or a name that is not bare."""
    lines = []
    for at, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            lines.append(_line(files.parse_json(line), folder / HEAD))
        except ValueError as e:
            raise _damaged_list(folder / "the list of shards", f"line {at}: {e}", workspace) from e
    return tuple(lines)


def from_json(found: dict[str, Any]) -> Head:
    """Return the head that an object of JSON says.

    Raises Misfit for another checksum, a missing key or another type.
    """
    listing.require_sealed(found)
    said = schema.require(found, _HEAD)
    sealed = said["sealed"]
    return Head(
        identity=said["identity"],
        provenance=said["provenance"],
        captions_beside=said["captions_beside"],
        roots=said["roots"],
        shards=Covered.from_json(said["shards"]),
        sealed=None if sealed is None else Sealed(sealed["content"], sealed["videos"]),
    )


def _require_format(folder: Path, found: Any, workspace: Folder | None, move: str) -> None:
    kind, version = (found.get("kind"), found.get("format")) if isinstance(found, dict) else (None, None)
    if kind == "frames" and version == 1:
        raise StoreMismatch(
            f"{str(folder)!r} is a frame store of format 1, which tvr 0.1.0 wrote; this tvr reads format "
            f"{FORMAT_VERSION}. Nothing needs to be decoded again; run: {commands.tvr('migrate', workspace=workspace)}"
        )
    if kind != "frames" or version != FORMAT_VERSION:
        raise StoreMismatch(
            f"{str(folder)!r}: format: this tvr reads frame stores of format {FORMAT_VERSION}, found "
            f"{kind} {version}; it is left as it is: {move}"
        )
    uses = found.get("uses")
    if isinstance(uses, list) and (unknown := [u for u in uses if u not in _KNOWN_USES]):
        raise StoreMismatch(
            f"{str(folder)!r} uses {', '.join(map(repr, unknown))}, which a later tvr knows; it is left as it is: "
            f"update tvr, or {move}"
        )


def _line(found: Any, where: Path) -> ShardLine:
    said = schema.require(found, _LINE)
    for name, pattern in ((said["shard"], records.SHARD), (said["records"], records.RECORDS)):
        files.bare_name(name, where)
        if not pattern.fullmatch(name):
            raise Misfit(f"{name!r} is no name that a frame store gives")
    name, sha256, size_bytes = (said.pop(key) for key in ("shard", "sha256", "bytes"))
    return ShardLine(name, sha256, size_bytes, **said)


def _damaged_list(path: Path, found: str, workspace: Folder | None) -> DataError:
    return DataError(
        f"{str(path)!r} is damaged: {found}; make it again from what lies beside it: {_rebuild(workspace)}"
    )


def _rebuild(workspace: Folder | None) -> str:
    return commands.tvr("extract-frames", repair="all", workspace=workspace)


def _move() -> str:
    other = commands.tvr("extract-frames", commands.VIDEOS, workspace=Path("out-2"))
    return f"move the folder elsewhere, or choose another workspace: {other}"


_PLAN = schema.known(
    {
        "kind": schema.one_of("uniform", "fps", "timeline"),
        "size": schema.whole,
        "quality": schema.whole,
        "filter": schema.text,
    },
    {  # what only some plans have
        "num_frames": schema.whole,
        "fps": schema.number,
        "max_frames": schema.maybe(schema.whole),
        "fit": schema.text,
        "short_side": schema.maybe(schema.whole),
        "alike": schema.number,
        "detail": schema.number,
    },
)
_HEAD = {
    "identity": _PLAN,
    "provenance": schema.mapping,
    "captions_beside": schema.maybe(schema.text),
    "roots": schema.each(schema.text),
    "shards": schema.known({"list": schema.text, "bytes": schema.whole, "sha256": schema.text}),
    "sealed": schema.maybe(schema.known({"content": schema.text, "videos": schema.whole})),
}
_LINE = {
    "shard": schema.anything,  # `bare_name` says what is wrong with a name
    "sha256": schema.text,
    "bytes": schema.whole,
    "rows": schema.whole,
    "records": schema.anything,
    "records_sha256": schema.text,
    "records_bytes": schema.whole,
    "clips": schema.whole,
    "frames": schema.whole,
    "truncated": schema.whole,
    "decoders": schema.each(schema.whole),
}
