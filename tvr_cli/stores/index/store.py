"""The search index: what a method keeps of every clip, in shards, plus one unit vector a clip for the coarse stage.

    index/
      store.json         kind, format, identity (feature store, method, run), what was asked for, the shards with sha256
      clips.jsonl        one line a clip: id, path, file, span in seconds, number of frames
      coarse.safetensors coarse [V, D] bf16, ts [V, F] fp64 seconds in the file, n_frames [V]
      encoding-*.safetensors   `types.Encoding` of up to ENCODING_ROWS clips each

The whole index is written beside the old one and put in its place (`index_place.py`) under the workspace's lock, which
readers share: a query sees the old or the new one, never a mixture, and after a crash still one of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

from tvr_cli import commands
from tvr_cli.errors import DataError
from tvr_cli.files import parse_lines, sha256_file, write_bytes
from tvr_cli.stores.index import place as index_place
from tvr_cli.stores.index.place import INDEX_FORMAT
from tvr_cli.types import Encoding

ENCODING_ROWS = 1024


@dataclass(frozen=True, slots=True)
class IndexedClip:
    """One clip of the index. start, end: its seconds in the file at `path`."""

    id: str
    file_id: str
    path: str
    start: float
    end: float


@dataclass(frozen=True)
class Index:
    """An opened index. coarse: [V, D] unit vectors. ts: [V, F] seconds in the file. n_frames: [V]."""

    folder: Path
    identity: Mapping[str, Any]
    clips: Sequence[IndexedClip]
    coarse: Tensor
    ts: Tensor
    n_frames: Tensor
    shards: Sequence[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.clips)

    @staticmethod
    def open(folder: Path) -> Index:
        """Open an index, also one whose replacement was stopped between two steps.

        Raises DataError when there is none, it is damaged or was never finished, StoreMismatch on another format.
        """
        folder = index_place.standing(folder)
        head = index_place.read_head(folder)
        if head.get("building"):
            make = commands.tvr("index")
            raise DataError(f"the index at {str(folder)!r} was begun but not finished; build it with: {make}")
        tensors = load(_verified(folder, head["coarse"]).read_bytes())
        listed = _verified(folder, head["clips"])
        clips = parse_lines(listed, lambda record: IndexedClip(**record))
        if len(clips) != len(tensors["coarse"]):
            raise DataError(
                f"the index at {str(folder)!r} lists {len(clips)} clips for {len(tensors['coarse'])} rows; "
                f"{_rebuild(folder)}"
            )
        return Index(
            folder, head["identity"], clips, tensors["coarse"], tensors["ts"], tensors["n_frames"], head["encodings"]
        )

    def encoding(self, rows: Tensor) -> Encoding:
        """Read the encodings of some clips, in the order of `rows` ([N] int64), from the shards that hold them."""
        order = rows.argsort()
        shard_of = rows[order] // ENCODING_ROWS
        parts = []
        for shard in torch.unique(shard_of).tolist():
            path = _verified(self.folder, self.shards[shard])
            parts.append(_read_rows(path, (rows[order][shard_of == shard] - shard * ENCODING_ROWS).tolist()))
        return Encoding.cat(parts).rows(order.argsort())

    def size_bytes(self) -> int:
        """Return the bytes on disk."""
        return sum(f.stat().st_size for f in self.folder.iterdir() if f.is_file())


@dataclass(frozen=True)
class IndexBlock:
    """Up to ENCODING_ROWS clips on their way into an index. coarse: [n, D]. ts: [n, F] seconds. n_frames: [n]."""

    encoding: Encoding
    coarse: Tensor
    ts: Tensor
    n_frames: Tensor


def write_index(
    folder: Path,
    identity: Mapping[str, Any],
    clips: Sequence[IndexedClip],
    blocks: Iterable[IndexBlock],
    *,
    asked: Mapping[str, str | None] | None = None,
) -> Index:
    """Write an index block by block and put it in the place of the old one, which stands until the new one does.

    blocks: in the order of `clips`, ENCODING_ROWS clips each (the last may be shorter). asked: the run, method and
    backbone that were named for it; a refresh keeps to them. Raises DataError when what stands there is not an index,
    or holds anything beside one.
    """
    names = [f"encoding-{i:05d}.safetensors" for i in range(-(-len(clips) // ENCODING_ROWS))]
    head: dict[str, Any] = {
        "kind": "index",
        "format": INDEX_FORMAT,
        "identity": dict(identity),
        "asked": {k: v for k, v in (asked or {}).items() if v},
        "encodings": [_record(name, None) for name in names],
        "coarse": _record("coarse.safetensors", None),
        "clips": _record("clips.jsonl", None),
    }
    building = index_place.prepare(folder, head)
    small: list[dict[str, Tensor]] = []
    for i, (name, block) in enumerate(zip(names, blocks, strict=True)):
        head["encodings"][i] = _record(name, write_bytes(building / name, block.encoding.save()))
        small.append({"coarse": block.coarse.to(torch.bfloat16), "ts": block.ts.double(), "n_frames": block.n_frames})
    width = max((part["ts"].shape[1] for part in small), default=0)
    for part in small:
        part["ts"] = torch.nn.functional.pad(part["ts"], (0, width - part["ts"].shape[1]))
    tensors = {key: torch.cat([part[key] for part in small]).contiguous() for key in ("coarse", "ts", "n_frames")}
    head["coarse"] = _record("coarse.safetensors", write_bytes(building / "coarse.safetensors", save(tensors)))
    lines = "".join(json.dumps(asdict(clip), ensure_ascii=False) + "\n" for clip in clips)
    head["clips"] = _record("clips.jsonl", write_bytes(building / "clips.jsonl", lines.encode()))
    index_place.write_head(building, head)
    index_place.replace(folder)
    return Index.open(folder)


def _rebuild(folder: Path) -> str:
    return f"rebuild it with: {commands.tvr('index', overwrite=True, workspace=folder.parent)}"


def _record(name: str, sha256: str | None) -> dict[str, Any]:
    return {"name": name, "sha256": sha256}


def _read_rows(path: Path, rows: list[int]) -> Encoding:
    """Read some rows (ascending) of a shard by memory map: all of it when they are many, else row by row."""
    with safe_open(path, "pt") as f:
        names = list(f.keys())
        if len(rows) > ENCODING_ROWS // 4:
            tensors = {name: f.get_tensor(name)[rows] for name in names}
        else:
            tensors = {name: torch.cat([f.get_slice(name)[r : r + 1] for r in rows]) for name in names}
    return Encoding(tensors.pop("key"), {name.removeprefix("t."): x for name, x in tensors.items()})


_checked: dict[tuple[str, int, int], str] = {}


def _verified(folder: Path, record: Mapping[str, Any]) -> Path:
    """Return the path of a shard whose checksum is right; a file is hashed once as long as it does not change."""
    path = folder / record["name"]
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise DataError(f"the index misses {str(path)!r}; {_rebuild(folder)}") from None
    key = (str(path), stat.st_mtime_ns, stat.st_size)
    if _checked.get(key) != record["sha256"]:
        if sha256_file(path) != record["sha256"]:
            raise DataError(f"the index file {str(path)!r} is damaged (its checksum differs); {_rebuild(folder)}")
        _checked[key] = record["sha256"]
    return path
