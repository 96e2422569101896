"""Text-guided pooling in one kernel: the products of a tile of captions and clips never leave the chip.

Forward as `folded.py`; the backward pass recomputes through the folded form (`_tiles.fused_forward`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from tvr_kernels._tiles import fused_forward
from tvr_kernels.text_pooling import folded
from tvr_kernels.triton_impl import (
    Blocks,
    Launch,
    Tile,
    Tiles,
    bilinear,
    by_clip,
    clip_rows,
    exp_below_max,
    matrices,
    products,
    supported,
    tile_of,
    vectors,
)

if TYPE_CHECKING:
    from tvr_kernels.text_pooling import TextPoolingWeights


VECTORS = ("text", "frames")  # what may be bf16 or fp16; the rest is fp32
TILES = Tiles(
    hopper=(Tile(64, 64, 4, 3, 32), Tile(64, 128, 8, 3, 64)),
    other=(Tile(64, 64, 8, 2, 16), Tile(64, 128, 8, 2, 64)),
    long=(Tile(32, 64, 8, 2, 16), Tile(32, 64, 8, 2, 64)),
)


@triton.jit
def text_pooling_fwd_kernel(
    text,  # [T, D]
    inverse_norm,  # [T] fp32
    frames,  # [V, F, D]
    gram,  # [V, F, F]
    mask,  # [V, F] uint8
    out,  # [T, V] fp32
    T,
    V,
    F,
    D,
    scale,
    BT: tl.constexpr,
    BV: tl.constexpr,
    FP: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    text_tile, clip_tile = tile_of(tl.program_id(0), tl.cdiv(T, BT), tl.cdiv(V, BV), GROUP)
    t = text_tile * BT + tl.arange(0, BT)
    v = clip_tile * BV + tl.arange(0, BV)
    rows, live = clip_rows(clip_tile * BV, V, F, F, 0, BV, FP)
    tile = products(text, frames, t.to(tl.int64), rows, t < T, live, D, BT, BV * FP, BK, PRECISION)
    s = by_clip(tile, BT, BV, FP)
    real = vectors(mask, v, v < V, F, F, 0, 1, 0, FP) > 0.5
    e = exp_below_max(s * scale, real[:, None, :])
    square = bilinear(e, matrices(gram, v, v < V, F, F, F * F, 0, 0, F, FP), e, PRECISION)
    norm = tl.load(inverse_norm + t, mask=t < T, other=0.0)
    score = tl.sum(e * s, 2) * tl.rsqrt(tl.maximum(square, 1e-30)) * norm[None, :]
    at = t.to(tl.int64)[None, :] * V + v[:, None]
    tl.store(out + at, score, mask=(t < T)[None, :] & (v < V)[:, None])


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TextPoolingWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    return supported({**text, **video}, video["frames"].shape[1], ("text", "frames"))


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TextPoolingWeights) -> Tensor:
    """Return [T, V] fp32; differentiable."""
    return fused_forward(_forward, folded.score, text, video, weights)


def _forward(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TextPoolingWeights) -> Tensor:
    t = text["text"]
    out = torch.empty(len(t), len(video["frames"]), dtype=torch.float32, device=t.device)
    launch(text, video, weights, out).run()
    return out


def launch(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: TextPoolingWeights,
    out: Tensor,
    capability: int | None = None,
) -> Launch:
    """Return the launch that fills `out` [T, V]."""
    t, z = text["text"].contiguous(), video["frames"].contiguous()
    (T, D), (V, F, _) = t.shape, z.shape
    blocks = Blocks(T, V, F, t, TILES, capability)
    tensors = (
        t,
        text["inverse_norm"].float().contiguous(),
        z,
        video["gram"].contiguous(),
        video["frame_mask"].contiguous().view(torch.uint8),
        out,
    )
    scalars = (T, V, F, D, 1.0 / weights.temperature)
    return Launch(text_pooling_fwd_kernel, blocks.grid, (*tensors, *scalars), blocks.constants())
