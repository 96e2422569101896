"""What each row of a shard of features is: a checked file of keys beside it, read only by who writes.

A clip is found by its content, a caption by its text, so that a renamed video or a caption of two videos costs nothing.
The file also says what made the store, so that a lost head can be made again from what lies beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import files, os_errors, schema
from tvr_cli.errors import DataError
from tvr_cli.schema import Misfit
from tvr_cli.stores.features import head as heads
from tvr_cli.stores.features.head import Kind, Made, NormSum, ShardLine
from tvr_cli.stores.features.tables import Place


@dataclass(frozen=True)
class ShardRows:
    """A shard and the key of each of its rows."""

    line: ShardLine
    made: Made
    keys: tuple[str, ...]


def clip_row_key(key: int, n_frames: int) -> str:
    """What finds a clip's features: its content key and how many of its frames could be read.

    With the plan, which is part of the store's identity, these decide which frames of the file they are: as much as a
    vector of a whole clip depends on.
    """
    return f"{key & (2**64 - 1):016x}.{n_frames}"


def text_row_key(text: str) -> str:
    """What finds a caption's features: its text, whatever its spacing."""
    return hashlib.blake2b(" ".join(text.split()).encode(), digest_size=12).hexdigest()


def places(shards: Iterable[tuple[ShardLine, Sequence[str]]], kind: Kind) -> dict[str, Place]:
    """Return where the row of each key is, of shards with their keys; a later shard wins."""
    return {key: (line.name, row) for line, keys in shards if line.kind == kind for row, key in enumerate(keys)}


def pack(
    made: Made,
    name: str,
    sha256: str,
    size_bytes: int,
    keys: Sequence[str],
    norms: Mapping[str, NormSum] | None,
) -> tuple[ShardLine, bytes]:
    """Return the line of a shard, and the bytes of the file of its rows."""
    kind: Kind = name.partition("-")[0]  # type: ignore[assignment]  # names of shards begin with it
    body = {
        "shard": name,
        "kind": kind,
        "sha256": sha256,
        "bytes": size_bytes,
        **made.to_json(),
        "norms": heads.norms_to_json(norms),
        "keys": list(keys),
    }
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    digest = hashlib.sha256(data).hexdigest()
    file = f"{name.partition('.')[0]}.{digest[:12]}.rows.json"
    return ShardLine(name, kind, sha256, size_bytes, len(keys), file, digest, len(data), norms), data


def read(folder: Path, line: ShardLine) -> tuple[str, ...]:
    """Return the keys of a shard's rows. Raises Misfit, with what was found, unless they are what was written."""
    data = _bytes(folder / line.keys)
    if len(data) != line.keys_bytes or hashlib.sha256(data).hexdigest() != line.keys_sha256:
        raise Misfit(f"{str(folder / line.keys)!r} differs from its checksum")
    found = _unpack(data, folder / line.keys)
    if (found.line.name, len(found.keys)) != (line.name, line.rows):
        raise Misfit(f"{str(folder / line.keys)!r} is not of this shard")
    return found.keys


def read_or_none(folder: Path, line: ShardLine) -> tuple[str, ...] | None:
    """Return the keys of a shard's rows, None where they are not what was written: these rows are made again."""
    try:
        return read(folder, line)
    except Misfit:
        return None


def read_alone(path: Path) -> ShardRows:
    """Return what a file of rows says, without a head. Raises Misfit unless it is what its own name says."""
    data = _bytes(path)
    found = _unpack(data, path)
    if found.line.keys != path.name:
        raise Misfit(f"{str(path)!r} differs from the checksum in its name")
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise os_errors.unread(e, path) or Misfit(f"{str(path)!r} cannot be read ({e.strerror})") from e


def _unpack(data: bytes, path: Path) -> ShardRows:
    try:
        body: Any = files.parse_json(data)
        _BODY(body, "")
        name = heads.shard_name(body["shard"], body["kind"], path)
    except (ValueError, DataError) as e:
        raise Misfit(f"{str(path)!r} is damaged: {e}") from e
    made, norms = Made.from_json(body), heads.norms_from_json(body["norms"])
    digest = hashlib.sha256(data).hexdigest()
    file = f"{name.partition('.')[0]}.{digest[:12]}.rows.json"
    line = ShardLine(
        name, body["kind"], body["sha256"], body["bytes"], len(body["keys"]), file, digest, len(data), norms
    )
    return ShardRows(line, made, tuple(body["keys"]))


_BODY = schema.record({
    "shard": schema.anything,
    "kind": schema.one_of("video", "text", "timeline"),
    "sha256": schema.sha256,
    "bytes": schema.count,
    **heads.MADE,
    "norms": heads.NORMS,
    "keys": schema.items(schema.text),
})  # fmt: skip
