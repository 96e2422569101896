"""Feature stores of format 1, which tvr 0.1.0 wrote, and how one becomes format 2 in its own folder.

    store.json         kind, format 1, fingerprint, backbone, dim, provides, identity, provenance; no checksum
    shards.jsonl       one line a shard: shard, kind, sha256, bytes, and the key of each row
    state.json         which clips and captions count, and where the captions came from; missing = begun, not finished
    clips-<hash>.json, captions-<hash>.json     the lists themselves
    video-<hash>.safetensors, text-<hash>.safetensors     as in format 2

The shards stay what and where they are; they are read once, for the norms of their vectors. Rows, tables and list of
format 2 have names of their own, so they are written beside the old files; the store is of format 2 from the moment in
which `store.json` is replaced, and only then the old files go. Stopped anywhere before, it is the store that it was,
and the next try finishes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import commands, files, schema
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError
from tvr_cli.log import logger
from tvr_cli.removal import listed
from tvr_cli.schema import Misfit
from tvr_cli.stores import listing
from tvr_cli.stores.features import head as heads
from tvr_cli.stores.features import rows
from tvr_cli.stores.features.head import Finished, Head, Made, NormSum, ShardLine
from tvr_cli.stores.features.shards import norm_sums, read_shard
from tvr_cli.stores.features.tables import NOWHERE, StoredCaption, content_by_names, pack_captions, pack_clips
from tvr_cli.stores.features.writer import drop_orphans
from tvr_cli.stores.frames.records import ClipRecord
from tvr_cli.stores.listing import Covered
from tvr_cli.stores.upgraded import Upgraded
from tvr_cli.types import SPLITS, caption_key

FORMAT_VERSION = 1
_LIST_OF_STATE = re.compile(r"(clips|captions)-[0-9a-f]{16}\.json")
_DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


@dataclass(frozen=True, slots=True)
class _OldShard:
    """A line of shards.jsonl."""

    name: str
    kind: heads.Kind
    sha256: str
    size_bytes: int
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _State:
    """What state.json names. names: the files of clips and captions, each with its own hash."""

    clips: list[ClipRecord]
    captions: list[StoredCaption]
    corpus: dict[str, Any]
    names: tuple[str, str]


def found_format(folder: Path, workspace: Folder | None = None) -> int | None:
    """Return the format of the feature store in a folder, None where there is none that says one.

    Raises DataError, with what mends it, where its head cannot be read.
    """
    path = folder / listing.HEAD
    fix = f"nothing of it was changed; {heads.mend(folder, workspace)}"
    head = files.read_json(path, fix=fix) if path.is_file() else None
    version = head.get("format") if isinstance(head, dict) and head.get("kind") == "features" else None
    return version if type(version) is int else None


def time_of(folder: Path) -> int:
    """Return when a store was asked for last (mtime_ns): by its state.json, of one never finished by its head."""
    path = folder / "state.json"
    return (path if path.is_file() else folder / listing.HEAD).stat().st_mtime_ns


def upgrade(
    folder: Path, workspace: Folder | None, *, dry_run: bool, each: Callable[[], None] = lambda: None
) -> Upgraded:
    """Make a store of format 1 one of format 2. The caller holds its lock. each: called after every shard.

    Raises DataError, having changed nothing, where the store is damaged, EnvironmentProblem when the disk is full.
    """
    made = _read_head(folder)
    shards = _read_lines(folder, workspace)
    state = _read_state(folder, workspace)
    _refuse_cut_short(folder, shards, state, workspace)
    written, lines = 0, []
    for shard in shards:
        line, said = rows.pack(
            made, shard.name, shard.sha256, shard.size_bytes, shard.keys, _norms(folder, shard, workspace)
        )
        written += _write(folder / line.keys, said, dry_run)
        lines.append(line)
        each()
    finished = None
    if state is not None:
        known = {kind: rows.places(zip(lines, (s.keys for s in shards), strict=True), kind) for kind in _KINDS}
        at = [known["video"].get(rows.clip_row_key(c.key, c.n_frames), NOWHERE) for c in state.clips]
        of = [known["text"].get(rows.text_row_key(c.text), NOWHERE) for c in state.captions]
        (clips, a), (captions, b) = pack_clips(state.clips, at), pack_captions(state.captions, of)
        written += _write(folder / clips.file, a, dry_run) + _write(folder / captions.file, b, dry_run)
        content = content_by_names(made.fingerprint, *state.names)
        finished = Finished(clips, captions, content, sum(not c.n_frames for c in state.clips), state.corpus)
    listed = heads.list_bytes(lines)
    written += _write(folder / listing.first_list(), listed, dry_run)
    covers = Covered(listing.first_list(), len(listed), hashlib.sha256(listed).hexdigest())
    head = Head(made, covers, heads.mean_norms(lines), finished)
    try:
        heads.from_json(head.to_json(), folder / listing.HEAD)
    except Misfit as e:
        raise DataError(f"{str(folder / listing.HEAD)!r} is damaged ({e}); nothing was changed") from e
    if not dry_run:
        heads.write_head(folder, head, mtime_ns=time_of(folder))  # the newest store stays the newest
        drop_orphans(folder, head, lines)
    return Upgraded(len(lines), 0 if state is None else len(state.clips), written)


def remove_old(folder: Path) -> None:
    """Remove what is left of format 1 in a store of format 2; a stop right after the change leaves it."""
    if (folder / heads.OLD_LIST).exists() or (folder / "state.json").exists():
        drop_orphans(folder, *heads.read(folder))


def shard_count(folder: Path) -> int:
    """Return how many lines shards.jsonl has."""
    path = folder / heads.OLD_LIST
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _write(path: Path, data: bytes, dry_run: bool) -> int:
    """Write a file unless it stands or nothing is to be written; return its size."""
    stands = path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
    if not dry_run and not stands:
        files.write_bytes(path, data)
    return len(data)


def _norms(folder: Path, shard: _OldShard, workspace: Folder | None) -> dict[str, NormSum] | None:
    """Return the norms of a shard's vectors, None where it is damaged: it is kept as it is, and named when read."""
    line = ShardLine(shard.name, shard.kind, shard.sha256, shard.size_bytes, len(shard.keys), "", "", 0, None)
    try:
        return norm_sums(shard.kind, read_shard(folder, line, workspace))
    except DataError as e:
        logger.warning("the store is migrated as it is, and then: %s", e)
        return None


def _read_head(folder: Path) -> Made:
    path = folder / listing.HEAD
    fix = "nothing was changed"
    said = files.read_json(path, fix=fix)
    schema.check(said, _HEAD, repr(str(path)), fix)
    if heads.fingerprint_of(said["identity"]) != said["fingerprint"]:
        raise DataError(f"{str(path)!r} is damaged (it does not fit its fingerprint); {fix}")
    return Made.of(
        said["identity"],
        backbone=said["backbone"],
        dim=said["dim"],
        provides=said["provides"],
        provenance=said["provenance"],
        dtype=_DTYPES[said["provenance"].get("dtype", "fp16")],
    )


def _read_lines(folder: Path, workspace: Folder | None) -> list[_OldShard]:
    """Return the shards of every whole line, of two lines of a shard the last; a torn last line was never finished."""
    path = folder / heads.OLD_LIST
    found: dict[str, _OldShard] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1] if path.is_file() else [], start=1):
        try:
            said = files.parse_json(line)
            _LINE(said, "")
            name = heads.shard_name(said["shard"], said["kind"], path)
        except ValueError as e:
            raise DataError(
                f"{path!s}:{number}: this line is damaged ({e}); nothing was changed. Keep a copy of the file, take "
                f"the line out and run again: {commands.tvr('migrate', workspace=workspace)}; then "
                f"{heads.complete(folder, workspace)} makes again what it stood for"
            ) from e
        found.pop(name, None)
        found[name] = _OldShard(name, said["kind"], said["sha256"], said["bytes"], tuple(said["keys"]))
    return list(found.values())


def _read_state(folder: Path, workspace: Folder | None) -> _State | None:
    """Return what a store contains, None of one that was never finished."""
    path = folder / "state.json"
    if not path.is_file():
        return None
    fix = (
        f"nothing was changed. Move {str(path)!r} elsewhere, and the lists that it names, and run "
        f"{commands.tvr('migrate', workspace=workspace)}, then "
        f"{heads.complete(folder, workspace)}"
    )
    state = files.read_json(path, fix=fix)
    schema.check(state, _STATE, repr(str(path)), fix)
    clips = [_clip(said) for said in _read_list(folder, state["clips"], "clips", _CLIP, path, fix)]
    captions = [_caption(said) for said in _read_list(folder, state["captions"], "captions", _CAPTION, path, fix)]
    if odd := next((c for c in clips if c.duration != c.span[1] - c.span[0]), None):
        raise DataError(f"{str(path)!r}: the clip {odd.id!r} does not last as long as its span; {fix}")
    if out := next((c for c in captions if any(row >= len(clips) for row in c.clips)), None):
        raise DataError(f"{str(path)!r}: the caption {out.id!r} is about a clip that is not there; {fix}")
    return _State(clips, captions, state["corpus"], (state["clips"], state["captions"]))


def _refuse_cut_short(
    folder: Path, shards: Sequence[_OldShard], state: _State | None, workspace: Folder | None
) -> None:
    """Raise DataError where a list is missing, or has no end, that says what files beside it are.

    So is a copy that was cut short; in format 2 these files would count no more, and be removed. Shards behind a whole
    list are what a killed run left, as ever.
    """
    there = sorted(path.name for path in folder.iterdir())
    path = folder / heads.OLD_LIST
    data = path.read_bytes() if path.is_file() else b""
    unnamed = [n for n in there if heads.SHARD.fullmatch(n) and n not in {shard.name for shard in shards}]
    found = ""
    if unnamed and not data.endswith(b"\n"):
        found = f"{str(path)!r} {'ends within a line' if data else 'is missing or empty'}"
    elif unnamed and state is not None and _lacks(shards, state):
        found = f"{str(path)!r} lacks rows of what the store contains"
    elif state is None and (unnamed := [name for name in there if _LIST_OF_STATE.fullmatch(name)]):
        found = f"{str(folder / 'state.json')!r} is missing"
    if found:
        raise DataError(
            f"{found}, and {listed(unnamed)} beside it {'is' if len(unnamed) == 1 else 'are'} not named there; nothing "
            "was changed. Copy the file again from where the workspace came from; if there is no other, move these "
            f"files elsewhere and run {commands.tvr('migrate', workspace=workspace)}, then "
            f"{heads.complete(folder, workspace)}"
        )


def _lacks(shards: Sequence[_OldShard], state: _State) -> bool:
    """Whether no shard has the features of some clip or caption."""
    known = {kind: {key for shard in shards if shard.kind == kind for key in shard.keys} for kind in _KINDS}
    clips = {rows.clip_row_key(clip.key, clip.n_frames) for clip in state.clips}
    return not (clips <= known["video"] and {rows.text_row_key(c.text) for c in state.captions} <= known["text"])


def _read_list(folder: Path, name: Any, what: str, shape: schema.Shape, where: Path, fix: str) -> list[Any]:
    """Read a list that the state names. Its name is its checksum."""
    path = folder / files.bare_name(name, where)
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    if f"{what}-{hashlib.sha256(data).hexdigest()[:16]}.json" != path.name:
        raise DataError(f"{str(path)!r} {'differs from its checksum' if data else 'is missing or empty'}; {fix}")
    try:
        said = files.parse_json(data)
    except ValueError as e:
        raise DataError(f"{str(path)!r} is not readable as JSON: {e}; {fix}") from e
    schema.check(said, schema.items(shape), repr(str(path)), fix)
    return list(said)


def _clip(said: Mapping[str, Any]) -> ClipRecord:
    values = {name: said[name] for name in ClipRecord.__slots__}
    return ClipRecord(**{**values, "span": (said["span"][0], said["span"][1])})


def _caption(said: Mapping[str, Any]) -> StoredCaption:
    return StoredCaption(**{**said, "clips": tuple(said["clips"]), "key": caption_key(said["text"])})


_KINDS: tuple[heads.Kind, ...] = ("video", "text")
_HEAD = schema.known({
    "fingerprint": schema.text, "identity": heads.IDENTITY, "provenance": heads.PROVENANCE, "backbone": schema.text,
    "dim": schema.count, "provides": schema.items(schema.one_of("frames", "pooled", "tokens", "importance")),
})  # fmt: skip
_LINE = schema.known({
    "shard": schema.anything,  # `bare_name` says what is wrong with a name
    "kind": schema.one_of("video", "text"), "sha256": schema.sha256, "bytes": schema.count,
    "keys": schema.items(schema.text),
})  # fmt: skip
_STATE = schema.known({"clips": schema.anything, "captions": schema.anything, "corpus": heads.CORPUS})
_LIMIT = schema.maybe(schema.number)
_CLIP = schema.known({
    "id": schema.text, "path": schema.text, "start": _LIMIT, "end": _LIMIT, "key": schema.int64,
    "file_id": schema.text, "source_sha256": schema.text, "n_frames": schema.int32, "duration": schema.number,
    "span": schema.fixed(schema.number, schema.number), "width": schema.int32, "height": schema.int32,
    "decoder": schema.text, "truncated": schema.flag, "damaged": schema.int32,
})  # fmt: skip
_CAPTION = schema.record(
    {"id": schema.text, "text": schema.text, "split": schema.one_of(*SPLITS), "clips": schema.items(schema.int32),
     "file_id": schema.text},
    {"source": schema.text, "start": schema.number, "end": schema.number},
)  # fmt: skip
