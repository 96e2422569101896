"""Features of the frames of a file by time: rows of shards of the kind `timeline`, one a film, always ragged.

A shard holds `key` [n], `n_frames` [n], `frames` [sum of n_frames, D], `frame_ts` (seconds in the file) and
`frame_change` [sum of n_frames], and `frame_offsets` [n + 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tvr_cli.stores.features.shards import ShardReader, offsets


@dataclass(frozen=True)
class FilmFeatures:
    """Features of one film, un-normalised. key: `types.timeline_key`. frames: [n, D]. ts: [n] float64, seconds.

    change: [n] float32, how much of the picture changed at once (`decoding/alike.py`); NaN where that is not known.
    """

    key: int
    frames: Tensor
    ts: Tensor
    change: Tensor


def film_row_key(key: int) -> str:
    """What finds a film's features."""
    return f"{key & (2**64 - 1):016x}"


def pack(films: Sequence[FilmFeatures]) -> dict[str, Tensor]:
    """Return the tensors of a shard."""
    lengths = [len(film.ts) for film in films]
    return {
        "key": torch.tensor([film.key for film in films], dtype=torch.int64),
        "n_frames": torch.tensor(lengths, dtype=torch.int64),
        "frames": torch.cat([film.frames for film in films]),
        "frame_ts": torch.cat([film.ts for film in films]),
        "frame_change": torch.cat([film.change for film in films]),
        "frame_offsets": offsets(lengths),
    }


class Films:
    """The films of a store, read one at a time. names: its shards of them."""

    def __init__(self, reader: ShardReader, names: Iterable[str]):
        self._reader = reader
        self._places: Mapping[int, tuple[str, int]] = {
            key: (name, row) for name in names for row, key in enumerate(reader.tensors(name)["key"].tolist())
        }

    def get(self, key: int) -> FilmFeatures | None:
        """Return a film, frames as float32; None where no shard has it."""
        if key not in self._places:
            return None
        name, row = self._places[key]
        held = self._reader.tensors(name)
        first, last = held["frame_offsets"][row : row + 2].tolist()
        part = slice(first, last)
        return FilmFeatures(key, held["frames"][part].float(), held["frame_ts"][part], held["frame_change"][part])
