"""Shards of a feature store: safetensors files of many clips or captions, verified when first read, memory-mapped.

A video shard holds `key`, `n_frames` [n] and what the store has of `frames`, `pooled` [n, D] and `patches`. In the plan
`fixed` these are `frames` [n, F, D], `frame_ts` [n, F], `patches` [n, F, P, D]; in the plan `ragged` `frames` [sum of
F, D], `frame_ts` [sum of F], `patches` [sum of F, P, D] and `frame_offsets` [n + 1]. A text shard holds `key`,
`n_tokens`, `pooled` [n, D]; where the backbone has them, `tokens` [n, L, D], or [sum of L, D] with `token_offsets`
[n + 1]; and, if asked for, `importance` [n, L] uint8. The bytes are described in docs/formats.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tvr_cli import files, os_errors
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError
from tvr_cli.stores.features.head import TENSORS, Kind, NormSum, ShardLine, complete
from tvr_cli.stores.features.tables import Place


def norm_sums(kind: Kind, tensors: Mapping[str, Tensor]) -> dict[str, NormSum]:
    """Return, by full name, the L2 norms of the real vectors of a shard, summed: no empty frame slots, no pads."""
    real: dict[str, Tensor] = {}
    for name, counts, offsets in (
        ("frames", "n_frames", "frame_offsets"),
        ("patches", "n_frames", "frame_offsets"),
        ("tokens", "n_tokens", "token_offsets"),
    ):
        if (x := tensors.get(name)) is not None:
            in_slots = offsets not in tensors
            real[name] = x[torch.arange(x.shape[1])[None] < tensors[counts][:, None]] if in_slots else x
    if "pooled" in tensors:
        real["pooled"] = tensors["pooled"]
    found = {}
    for full in TENSORS:
        of, _, name = full.partition(".")
        if of == kind and name in real:
            norms = torch.linalg.vector_norm(real[name].float(), dim=-1)
            found[full] = NormSum(float(norms.double().sum()), norms.numel())
    return found


def damaged(folder: Path, name: str, found: str, workspace: Folder | None = None) -> DataError:
    """Return the error for a shard that is not what the manifest says, with the command that rebuilds only it."""
    return DataError(
        f"shard {str(folder / name)!r} is damaged: {found}; rebuild only it with: " + complete(folder, workspace, name)
    )


def read_shard(folder: Path, line: ShardLine, workspace: Folder | None = None) -> dict[str, Tensor]:
    """Return a shard's tensors, memory-mapped, after verifying its sha256. Raises DataError for a damaged file."""
    from safetensors import safe_open

    path = folder / line.name
    try:
        found = files.sha256_file(path)
    except OSError as e:
        found = f"it cannot be read ({e.strerror})"
        raise os_errors.unread(e, path) or damaged(folder, line.name, found, workspace) from e
    if found != line.sha256:
        raise damaged(
            folder,
            line.name,
            f"expected sha256 {line.sha256[:12]}… and {line.size_bytes} bytes, found {found[:12]}… and "
            f"{path.stat().st_size} bytes",
            workspace,
        )
    with safe_open(path, "pt") as f:
        return {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - not a mapping


class ShardReader:
    """Rows of a store's shards. Each file's sha256 is verified once, at its first use; afterwards it is mapped."""

    def __init__(self, folder: Path, lines: Sequence[ShardLine], workspace: Folder | None = None):
        self._folder, self._workspace = folder, workspace
        self._lines = {line.name: line for line in lines}
        self._open: dict[str, dict[str, Tensor]] = {}

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return a shard's tensors, memory-mapped. Raises DataError for a damaged or missing file."""
        if name not in self._open:
            self._open[name] = read_shard(self._folder, self._lines[name], self._workspace)
        return self._open[name]

    def rows(self, wanted: Sequence[Place], field: str) -> Tensor:
        """Gather one row a place of a field with one row an item: [n, …], in its stored type."""
        out: Tensor | None = None
        for name, (positions, rows) in _by_shard(wanted).items():
            part = self._field(name, field)[rows]
            if out is None:
                out = torch.empty((len(wanted), *part.shape[1:]), dtype=part.dtype)
            self._require_alike(name, field, part, out.shape[1:])
            out[positions] = part.to(out.dtype)
        assert out is not None
        return out

    def padded(self, wanted: Sequence[Place], field: str, offsets: str, width: int) -> Tensor:
        """Gather a ragged field, zero-padded to [n, width, …]; rows longer than `width` are cut."""
        out: Tensor | None = None
        for name, (positions, rows) in _by_shard(wanted).items():
            flat, ends = self._field(name, field), self._field(name, offsets).tolist()
            if out is None:
                out = torch.zeros((len(wanted), width, *flat.shape[1:]), dtype=flat.dtype)
            self._require_alike(name, field, flat, out.shape[2:])
            for position, row in zip(positions.tolist(), rows.tolist(), strict=True):
                part = flat[ends[row] : min(ends[row + 1], ends[row] + width)]
                out[position, : len(part)] = part.to(out.dtype)
        assert out is not None
        return out

    def _field(self, name: str, field: str) -> Tensor:
        found = self.tensors(name).get(field)
        if found is None:
            raise damaged(self._folder, name, f"it has no {field!r}, which its store has", self._workspace)
        return found

    def _require_alike(self, name: str, field: str, part: Tensor, shape: torch.Size) -> None:
        if part.shape[1:] != shape:
            found = f"its {field!r} has rows of {list(part.shape[1:])}, and others have {list(shape)}"
            raise damaged(self._folder, name, found, self._workspace)


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
