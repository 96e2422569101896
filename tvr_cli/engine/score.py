"""Scoring every caption against every clip in tiles that fit a memory budget.

The tile never changes a score by more than rounding: a method's `score` is tile-invariant by contract. Clips are the
outer loop (encoded once each), captions the inner one; encodings that do not fit the budget are made again when needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tvr_cli import log
from tvr_cli.errors import ConfigError, EnvironmentProblem
from tvr_cli.methods.base import Method
from tvr_cli.types import Encoding, TextFeatures, VideoFeatures

DEFAULT_BUDGET = 512_000_000  # bytes: one tile, its encodings and what the method's score needs in between
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Items(Protocol):
    """Features or encodings by row: held (`TextFeatures`, `Encoding` …), or read when a block of them is needed."""

    def __len__(self) -> int: ...

    def rows(self, index: slice, /) -> TextFeatures | VideoFeatures | Encoding: ...


@dataclass(frozen=True)
class Tile:
    """A block of the score matrix: captions `texts` against clips `videos`."""

    texts: slice
    videos: slice
    scores: Tensor  # [texts, videos] fp32, CPU


def parse_bytes(text: str) -> int:
    """Read a size like 512MB, 2GB or 1.5GiB. Raises ConfigError."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if not found or found.group(2).upper() not in _UNITS:
        raise ConfigError(f"expected a size like 512MB or 2GB, found {text!r}")
    return int(float(found.group(1)) * _UNITS[found.group(2).upper()])


def pick_device(name: str) -> torch.device:
    """Return a device: auto = cuda, then mps, then cpu. Raises EnvironmentProblem when the one named is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise EnvironmentProblem(
            f"device {name!r} cannot be used here: {str(e).splitlines()[0]}; try --device cpu"
        ) from e
    return device


@torch.no_grad()
def encode_texts(method: Method, text: TextFeatures, *, batch: int = 256) -> Encoding:
    """Encode captions in batches, on the method's device."""
    device = _device_of(method)
    parts = [method.encode_text(text.rows(slice(i, i + batch)).to(device)) for i in range(0, len(text), batch)]
    return Encoding.cat(parts)


@torch.no_grad()
def encode_videos(method: Method, video: VideoFeatures, *, batch: int = 256) -> Encoding:
    """Encode clips in batches, on the method's device."""
    device = _device_of(method)
    parts = [method.encode_video(video.rows(slice(i, i + batch)).to(device)) for i in range(0, len(video), batch)]
    return Encoding.cat(parts)


def score_matrix(
    method: Method,
    text: Items,
    video: Items,
    *,
    memory_budget: int = DEFAULT_BUDGET,
) -> Tensor:
    """Return the whole [T, V] score matrix as fp32 on the CPU, computed in tiles."""
    scores = torch.empty(len(text), len(video))
    with log.progress("scoring", total=len(text) * len(video), unit="pairs") as bar:
        for tile in score_tiles(method, text, video, memory_budget=memory_budget):
            scores[tile.texts, tile.videos] = tile.scores
            bar.advance(tile.scores.numel())
    return scores


@torch.no_grad()
def score_tiles(
    method: Method,
    text: Items,
    video: Items,
    *,
    memory_budget: int = DEFAULT_BUDGET,
    row_ends: Sequence[int] | None = None,
) -> Iterator[Tile]:
    """Yield the score matrix block by block, every clip block against all captions before the next.

    row_ends: where a block of captions may end (ascending), so that the captions of one video stay together.
    """
    rows, columns = tile_shape(method, len(text), len(video), memory_budget)
    blocks = _row_blocks(len(text), rows, row_ends)
    text_blocks = _Blocks(method, text, keep_bytes=memory_budget // 4)
    for v in range(0, len(video), columns):
        video_slice = slice(v, min(v + columns, len(video)))
        encoded = _encode(method, video, video_slice)
        for text_slice in blocks:
            yield Tile(text_slice, video_slice, method.score(text_blocks.get(text_slice), encoded).float().cpu())


@torch.no_grad()
def top_k(
    method: Method,
    text: Items,
    video: Items,
    k: int,
    *,
    memory_budget: int = DEFAULT_BUDGET,
) -> tuple[Tensor, Tensor]:
    """Return scores and clip rows [T, k] of the best clips of each caption without holding [T, V].

    Equal scores keep the clip that comes first, so the answer does not depend on the tile.
    """
    k = min(k, len(video))
    best = torch.full((len(text), 0), -torch.inf)
    where = torch.zeros(len(text), 0, dtype=torch.long)
    pending: list[Tile] = []
    for tile in score_tiles(method, text, video, memory_budget=memory_budget):
        pending.append(tile)
        if tile.texts.stop < len(text):
            continue
        block = torch.cat([t.scores for t in pending])
        index = torch.arange(tile.videos.start, tile.videos.stop).expand(len(text), -1)
        scores, rows = torch.cat([best, block], 1), torch.cat([where, index], 1)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        best, where = scores.gather(1, order), rows.gather(1, order)
        pending = []
    return best, where


def tile_shape(method: Method, texts: int, videos: int, memory_budget: int) -> tuple[int, int]:
    """Return (captions, clips) of a tile: half of the budget is for `pair_bytes` of every pair in it."""
    pairs = max(1, memory_budget // 2 // method.pair_bytes())
    columns = max(1, min(videos, int(pairs**0.5)))
    rows = max(1, min(texts, pairs // columns))
    return rows, max(1, min(videos, pairs // rows))


def _row_blocks(n: int, rows: int, ends: Sequence[int] | None) -> list[slice]:
    """Cut n captions into blocks of about `rows`: exactly so, or at the last allowed end before."""
    if ends is None:
        return [slice(t, min(t + rows, n)) for t in range(0, n, rows)]
    blocks, start, last = [], 0, 0
    for end in [*ends, n]:
        if end - start > rows and last > start:
            blocks.append(slice(start, last))
            start = last
        last = end
    return [*blocks, slice(start, n)]


class _Blocks:
    """Caption encodings by block, kept as long as they fit in `keep_bytes`."""

    def __init__(self, method: Method, text: Items, *, keep_bytes: int):
        self._method, self._text, self._room = method, text, keep_bytes
        self._kept: dict[int, Encoding] = {}

    def get(self, block: slice) -> Encoding:
        if block.start in self._kept:
            return self._kept[block.start]
        encoded = _encode(self._method, self._text, block)
        size = sum(x.numel() * x.element_size() for x in encoded.tensors.values())
        if size <= self._room:
            self._room -= size
            self._kept[block.start] = encoded
        return encoded


def _encode(method: Method, items: Items, block: slice) -> Encoding:
    part = items.rows(block)
    if isinstance(part, Encoding):
        return part.to(_device_of(method))
    if isinstance(part, TextFeatures):
        return encode_texts(method, part)
    return encode_videos(method, part)


def _device_of(method: Method) -> torch.device:
    tensor = next(method.parameters(), next(method.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device
