"""Run a pair score tile by tile: in cache when scoring, with recomputation when training does not fit.

An op's folded form is a function of (text tensors, clip tensors) with T rows and V rows. `by_clips` calls it on blocks
of clips small enough for the cache (no gradient), on everything at once (gradient, small batch), or on blocks whose
intermediates are thrown away and recomputed in the backward pass (gradient, large batch): the memory of the pair
tensors is then that of one block, and the gradients are those of the direct call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

Tile = Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor]

CACHE_BYTES = 2**21  # pair tensors of one scoring tile; 1-8 MB measure alike, smaller tiles starve the GEMM
SAVED_BYTES = 2**28  # pair tensors that a training step may keep for its backward pass: 256 MB
TEXTS = 1024  # captions of one scoring tile


def by_clips(
    tile: Tile,
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    pair_bytes: int,
    saved_bytes: int,
    tile_bytes: int | None = None,
) -> Tensor:
    """Return `tile(text, video)` [T, V], computed in blocks.

    pair_bytes: intermediates of one pair when scoring; saved_bytes: what autograd keeps of one pair. Worked example,
    text pooling in fp32 with F = 12: two [F] rows of 48 bytes when scoring, so a tile of 1024 captions has 21 clips.
    tile_bytes: of one scoring tile, CACHE_BYTES if not given.
    """
    T, V = len(next(iter(text.values()))), len(next(iter(video.values())))
    tensors = [*text.values(), *video.values()]
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        if T * V * saved_bytes <= SAVED_BYTES:
            return tile(dict(text), dict(video))
        clips = max(1, SAVED_BYTES // (8 * T * saved_bytes))
        names = (tuple(text), tuple(video))
        return cast(Tensor, _Recompute.apply(tile, names, clips, *tensors))
    like = next(x for x in tensors if x.is_floating_point())
    out = torch.empty(T, V, dtype=like.dtype, device=like.device)
    clips = max(1, (tile_bytes or CACHE_BYTES) // (min(T, TEXTS) * pair_bytes or 1))
    for first in range(0, T, TEXTS):
        some_text = {k: v[first : first + TEXTS] for k, v in text.items()}
        for start in range(0, V, clips):
            some_video = {k: v[start : start + clips] for k, v in video.items()}
            out[first : first + TEXTS, start : start + clips] = tile(some_text, some_video)
    return out


class _Recompute(torch.autograd.Function):
    """Saves the inputs only; each block of clips is scored again, with its graph, in the backward pass."""

    @staticmethod
    def forward(ctx: Any, tile: Tile, names: tuple[tuple[str, ...], tuple[str, ...]], clips: int, *tensors: Tensor):
        ctx.tile, ctx.names, ctx.clips = tile, names, clips
        ctx.save_for_backward(*tensors)
        blocks = [tile(*_named(names, block)) for _, block in _blocks(tensors, len(names[0]), clips)]
        return torch.cat(blocks, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor):
        tensors = ctx.saved_tensors
        n_text = len(ctx.names[0])
        wanted = [i for i, want in enumerate(ctx.needs_input_grad[3:]) if want]
        grads: list[Tensor | None] = [torch.zeros_like(x) if i in wanted else None for i, x in enumerate(tensors)]
        for rows, block in _blocks(tensors, n_text, ctx.clips):
            leaves = [x.detach().requires_grad_(i in wanted) for i, x in enumerate(block)]
            with torch.enable_grad():
                scores = ctx.tile(*_named(ctx.names, leaves))
            parts = torch.autograd.grad(scores, [leaves[i] for i in wanted], grad[:, rows], allow_unused=True)
            for i, part in zip(wanted, parts, strict=True):
                total = grads[i]
                if total is not None and part is not None:
                    (total if i < n_text else total[rows]).add_(part)
        return (None, None, None, *grads)


def _blocks(tensors: Sequence[Tensor], n_text: int, clips: int) -> Iterator[tuple[slice, list[Tensor]]]:
    for start in range(0, len(tensors[-1]), clips):
        rows = slice(start, start + clips)
        yield rows, [*tensors[:n_text], *(x[rows] for x in tensors[n_text:])]


def _named(
    names: tuple[tuple[str, ...], tuple[str, ...]], tensors: Sequence[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    of_text, of_video = names
    n = len(of_text)
    return dict(zip(of_text, tensors[:n], strict=True)), dict(zip(of_video, tensors[n:], strict=True))


Score = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Any], Tensor]


def fused_forward(
    fused: Score, folded: Score, text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: Any
) -> Tensor:
    """Return `fused(text, video, weights)`, whose gradient is that of `folded`, recomputed in the backward pass."""
    tensors = [*text.values(), *video.values()]
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
        return fused(text, video, weights)
    names = (tuple(text), tuple(video))
    return cast(Tensor, _FusedForward.apply(fused, folded, weights, names, *tensors))


class _FusedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fused: Score, folded: Score, weights: Any, names: Any, *tensors: Tensor):
        ctx.folded, ctx.weights, ctx.names = folded, weights, names
        ctx.save_for_backward(*tensors)
        return fused(*_named(names, tensors), weights)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor):
        wanted = [i for i, want in enumerate(ctx.needs_input_grad[4:]) if want]
        leaves = [x.detach().requires_grad_(i in wanted) for i, x in enumerate(ctx.saved_tensors)]
        with torch.enable_grad():
            scores = ctx.folded(*_named(ctx.names, leaves), ctx.weights)
        parts = torch.autograd.grad(scores, [leaves[i] for i in wanted], grad, allow_unused=True)
        grads: list[Tensor | None] = [None] * len(leaves)
        for i, part in zip(wanted, parts, strict=True):
            grads[i] = part
        return (None, None, None, None, *grads)
