"""Scoring every caption against every clip in tiles that fit a memory budget.

The tile never changes a score by more than rounding: a method's `score` is tile-invariant by contract. Clips are the
outer loop (encoded once each), captions the inner one; encodings that do not fit the budget are made again when needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
import tvr_kernels
from torch import Tensor

from tvr_cli import log
from tvr_cli.engine.device import DEFAULT_BUDGET
from tvr_cli.engine.scorers import device_of, encode_texts, encode_videos
from tvr_cli.methods.base import Method
from tvr_cli.types import Encoding, TextFeatures, VideoFeatures


class Items(Protocol):
    """Features or encodings by row: held (`TextFeatures`, `Encoding` …), or read when a block of them is needed."""

    def __len__(self) -> int: ...

    def rows(self, index: slice, /) -> TextFeatures | VideoFeatures | Encoding: ...


class Together(Protocol):
    """Processes that share work: `engine.training.ranks.Ranks`."""

    def counts(self, n: int, /) -> list[int]: ...

    def share(self, n: int, /) -> slice: ...

    def join(self, x: Tensor, counts: Sequence[int], /) -> Tensor: ...


@dataclass(frozen=True)
class Tile:
    """A block of the score matrix: captions `texts` against clips `videos`."""

    texts: slice
    videos: slice
    scores: Tensor  # [texts, videos] fp32, CPU


def score_matrix(
    method: Method,
    text: Items,
    video: Items,
    *,
    memory_budget: int = DEFAULT_BUDGET,
    together: Together | None = None,
) -> Tensor:
    """Return the whole [T, V] score matrix as fp32 on the CPU, computed in tiles.

    together: other processes that score the same; each takes some blocks of captions. The tiles are those of one
    process, so the scores are its scores to the bit.
    """
    blocks = _row_blocks(len(text), tile_shape(method, len(text), len(video), memory_budget)[0], None)
    mine = blocks if together is None else blocks[together.share(len(blocks))]
    first = mine[0].start if mine else 0
    scores = torch.empty(sum(b.stop - b.start for b in mine), len(video))
    with log.progress("scoring", total=scores.numel(), unit="pairs") as bar:
        for tile in _score_blocks(method, text, video, memory_budget, mine):
            scores[tile.texts.start - first : tile.texts.stop - first, tile.videos] = tile.scores
            bar.advance(tile.scores.numel())
    if together is None:
        return scores
    left = iter(blocks)
    counts = [sum(b.stop - b.start for b in islice(left, n)) for n in together.counts(len(blocks))]
    return together.join(scores, counts)


def score_tiles(
    method: Method,
    text: Items,
    video: Items,
    *,
    memory_budget: int = DEFAULT_BUDGET,
    row_ends: Sequence[int] | None = None,
) -> Iterator[Tile]:
    """Return the score matrix block by block, every clip block against all captions before the next.

    row_ends: where a block of captions may end (ascending), so that the captions of one video stay together.
    """
    rows, _ = tile_shape(method, len(text), len(video), memory_budget)
    return _score_blocks(method, text, video, memory_budget, _row_blocks(len(text), rows, row_ends))


@torch.no_grad()
def _score_blocks(
    method: Method, text: Items, video: Items, memory_budget: int, blocks: Sequence[slice]
) -> Iterator[Tile]:
    """Yield the tiles of some blocks of captions."""
    if not blocks:
        return
    _, columns = tile_shape(method, len(text), len(video), memory_budget)
    text_blocks = _Blocks(method, text, keep_bytes=memory_budget // 4)
    for v in range(0, len(video), columns):
        video_slice = slice(v, min(v + columns, len(video)))
        encoded = _encode(method, video, video_slice)
        for text_slice in blocks:
            some_text = text_blocks.get(text_slice)
            with tvr_kernels.job(len(text) * len(video)):  # one form of a kernel for all tiles
                scores = method.score(some_text, encoded)
            yield Tile(text_slice, video_slice, scores.float().cpu())


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
        return part.to(device_of(method))
    if isinstance(part, TextFeatures):
        return encode_texts(method, part)
    return encode_videos(method, part)
