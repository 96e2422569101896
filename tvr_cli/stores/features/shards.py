"""Shards of a feature store: safetensors files of many clips or captions, verified when first read, memory-mapped.

A video shard holds `key`, `n_frames` [n] and, in the plan `fixed`, `frames` [n, F, D] and `frame_ts` [n, F]; in the
plan `ragged`, `frames` [sum of F, D], `frame_ts` [sum of F] and `frame_offsets` [n + 1]. A text shard holds `key`,
`n_tokens`, `pooled` [n, D]; where the backbone has them, `tokens` [n, L, D], or [sum of L, D] with `token_offsets`
[n + 1]; and, if asked for, `importance` [n, L] uint8. The bytes are described in docs/formats.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tvr_cli import commands, files
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError

Kind = Literal["video", "text"]
Place = tuple[str, int]  # name of a shard, row in it


@dataclass(frozen=True, slots=True)
class ShardLine:
    """One line of shards.jsonl: a whole file that may be read. keys: what each row is, `FeatureWriter` says how."""

    name: str
    kind: Kind
    sha256: str
    size_bytes: int
    keys: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "shard": self.name,
            "kind": self.kind,
            "sha256": self.sha256,
            "bytes": self.size_bytes,
            "keys": list(self.keys),
        }

    @staticmethod
    def from_json(line: Mapping[str, Any], where: Path) -> ShardLine:
        """Read a line of the file `where`."""
        name = files.bare_name(line["shard"], where)
        return ShardLine(name, line["kind"], line["sha256"], line["bytes"], tuple(line["keys"]))


def read_lines(folder: Path) -> list[ShardLine]:
    """Read every whole line of shards.jsonl. Raises DataError for a damaged line or a name that is not bare."""
    path = folder / "shards.jsonl"
    return files.parse_lines(path, lambda line: ShardLine.from_json(line, path))


def places(lines: Sequence[ShardLine], kind: Kind) -> dict[str, Place]:
    """Return where the row of each key is; a later shard wins."""
    return {key: (line.name, row) for line in lines if line.kind == kind for row, key in enumerate(line.keys)}


def damaged(folder: Path, name: str, found: str, workspace: Folder | None = None) -> DataError:
    """Return the error for a shard that is not what the manifest says, with the command that rebuilds only it."""
    return DataError(
        f"shard {str(folder / name)!r} is damaged: {found}; rebuild only it with: "
        + commands.tvr("precompute-features", repair=name, workspace=workspace)
    )


class ShardReader:
    """Rows of a store's shards. Each file's sha256 is verified once, at its first use; afterwards it is mapped."""

    def __init__(self, folder: Path, lines: Sequence[ShardLine], workspace: Folder | None = None):
        self._folder, self._workspace = folder, workspace
        self._lines = {line.name: line for line in lines}
        self._open: dict[str, dict[str, Tensor]] = {}

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return a shard's tensors, memory-mapped. Raises DataError for a damaged or missing file."""
        if name not in self._open:
            from safetensors import safe_open

            line, path = self._lines[name], self._folder / name
            try:
                found = files.sha256_file(path)
            except OSError as e:
                raise damaged(self._folder, name, f"it cannot be read ({e.strerror})", self._workspace) from e
            if found != line.sha256:
                raise damaged(
                    self._folder,
                    name,
                    f"expected sha256 {line.sha256[:12]}… and {line.size_bytes} bytes, found {found[:12]}… and "
                    f"{path.stat().st_size} bytes",
                    self._workspace,
                )
            with safe_open(path, "pt") as f:
                self._open[name] = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - not a mapping
        return self._open[name]

    def rows(self, wanted: Sequence[Place], field: str) -> Tensor:
        """Gather one row a place of a field with one row an item: [n, …], in its stored type."""
        out: Tensor | None = None
        for name, (positions, rows) in _by_shard(wanted).items():
            part = self.tensors(name)[field][rows]
            if out is None:
                out = torch.empty((len(wanted), *part.shape[1:]), dtype=part.dtype)
            out[positions] = part.to(out.dtype)
        assert out is not None
        return out

    def padded(self, wanted: Sequence[Place], field: str, offsets: str, width: int) -> Tensor:
        """Gather a ragged field, zero-padded to [n, width, …]; rows longer than `width` are cut."""
        out: Tensor | None = None
        for name, (positions, rows) in _by_shard(wanted).items():
            tensors = self.tensors(name)
            flat, ends = tensors[field], tensors[offsets].tolist()
            if out is None:
                out = torch.zeros((len(wanted), width, *flat.shape[1:]), dtype=flat.dtype)
            for position, row in zip(positions.tolist(), rows.tolist(), strict=True):
                part = flat[ends[row] : min(ends[row + 1], ends[row] + width)]
                out[position, : len(part)] = part.to(out.dtype)
        assert out is not None
        return out

    def has(self, place: Place, field: str) -> bool:
        """Whether the shard of a place holds a field."""
        return field in self.tensors(place[0])


def _by_shard(wanted: Sequence[Place]) -> dict[str, tuple[Tensor, Tensor]]:
    """Group places: shard -> (positions in `wanted`, rows of the shard)."""
    groups: dict[str, tuple[list[int], list[int]]] = {}
    for position, (name, row) in enumerate(wanted):
        positions, rows = groups.setdefault(name, ([], []))
        positions.append(position)
        rows.append(row)
    return {name: (torch.tensor(p), torch.tensor(r)) for name, (p, r) in groups.items()}


def offsets(lengths: Sequence[int]) -> Tensor:
    """Return [n + 1] int64: where each of n runs starts, and the end of the last."""
    return torch.tensor([0, *lengths]).cumsum(0)
