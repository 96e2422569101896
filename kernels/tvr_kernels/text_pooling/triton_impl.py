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
from tvr_kernels.triton_impl import Blocks, Launch, Tile, Tiles, supported, tile_of
from tvr_kernels.triton_slots import (
    block_diagonal,
    bounds,
    slot_form,
    slot_numbers,
    slot_products,
    slot_sum,
    slot_weights,
    slots,
)

if TYPE_CHECKING:
    from tvr_kernels.text_pooling import TextPoolingWeights


VECTORS = ("text", "frames")  # what may be bf16 or fp16; the rest is fp32
TILES = Tiles(
    hopper=(Tile(128, 64, 8, 3, 32), Tile(128, 64, 8, 3, 64)),
    other=(Tile(64, 32, 4, 2, 32), Tile(128, 64, 8, 2, 64)),
    long=(Tile(32, 64, 8, 2, 16), Tile(64, 64, 8, 2, 64)),
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
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    text_tile, clip_tile = tile_of(tl.program_id(0), tl.cdiv(T, BT), tl.cdiv(V, BV), GROUP)
    first_t, first_v = text_tile.to(tl.int64) * BT, clip_tile.to(tl.int64) * BV
    text, inverse_norm = text + first_t * D, inverse_norm + first_t
    frames, gram, mask = frames + first_v * F * D, gram + first_v * F * F, mask + first_v * F
    t, v = tl.arange(0, BT), tl.arange(0, BV)
    row = tl.minimum(t, (T - first_t).to(tl.int32) - 1)
    clip, f, live = slots(first_v, V, F, BV, FP)
    out += (first_t + t)[:, None] * V + first_v + v[None, :]
    pair = (t < T - first_t)[:, None] & (v < V - first_v)[None, :]
    bound = bounds(gram, first_v, V, F, F * F, F, 0, BV, FP)
    products = block_diagonal(gram, first_v, V, F, bound, F * F, F, 0, BV, FP, PRECISION)
    real = slot_numbers(mask, clip, f, live, F, 0, 1, 0) > 0.5
    norm = tl.load(inverse_norm + row)
    s = slot_products(text, frames, row, clip * F + f, live, D, BK, EVEN, PRECISION)
    e = slot_weights(s * scale, real[None, :], BV, FP, PRECISION)
    square = slot_form(e, products, e, bound, BV, FP, PRECISION)
    score = slot_sum(e * s, BV, FP) * tl.rsqrt(tl.maximum(square, 1e-30)) * norm[:, None]
    tl.store(out, score, mask=pair)


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
    return Launch(text_pooling_fwd_kernel, blocks.grid, (*tensors, *scalars), blocks.constants(D))
