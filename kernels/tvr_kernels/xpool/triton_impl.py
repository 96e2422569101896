"""X-Pool in one kernel: two products a tile, the forms of `folded.py` in registers, one number a pair written.

The backward pass recomputes through the folded form (`_tiles.fused_forward`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from tvr_kernels._tiles import fused_forward
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
from tvr_kernels.xpool import folded

if TYPE_CHECKING:
    from tvr_kernels.xpool import XPoolWeights

VECTORS = ("query", "unit", "key", "value")  # what may be bf16 or fp16; the rest is fp32
TILES = Tiles(
    hopper=(Tile(32, 64, 4, 3, 32), Tile(64, 64, 4, 3, 64)),
    other=(Tile(64, 64, 8, 2, 16), Tile(64, 128, 8, 2, 64)),
    long=(Tile(32, 64, 8, 2, 16), Tile(32, 64, 8, 2, 64)),
)


@triton.jit
def xpool_fwd_kernel(
    query,  # [T, D]
    unit,  # [T, D]
    offset,  # [T] fp32
    bias,  # [T] fp32
    key,  # [V, F, D]
    value,  # [V, F, D]
    key_bias,  # [V, F], -inf where missing
    forms,  # [V, 3 F + 3, F]
    constants,  # [4]
    out,  # [T, V] fp32
    T,
    V,
    F,
    D,
    eps,
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
    here, there, t64 = t < T, v < V, t.to(tl.int64)
    rows, live = clip_rows(clip_tile * BV, V, F, F, 0, BV, FP)
    stride = (3 * F + 3) * F

    logits = by_clip(products(query, key, t64, rows, here, live, D, BT, BV * FP, BK, PRECISION), BT, BV, FP)
    shift = vectors(key_bias, v, there, F, F, 0, 1, -float("inf"), FP)[:, None, :]
    e = exp_below_max(logits + shift, shift > -float("inf"))
    total = tl.sum(e, 2)  # [BV, BT]
    form = bilinear(e, matrices(forms, v, there, F, F, stride, 0, 0, F, FP), e, PRECISION)
    e = e * tl.rsqrt(form + eps * total * total + 1e-37)[:, :, None]  # u: LN2 has divided

    gamma = tl.load(constants)
    form = bilinear(e, matrices(forms, v, there, F, F, stride, F, 0, F, FP), e, PRECISION)
    linear = tl.sum(e * vectors(forms, v, there, F, stride, 3 * F * F, 1, 0.0, FP)[:, None, :], 2)
    inverse3 = tl.rsqrt(form + 2.0 * linear + gamma + eps)

    nu, eta, beta = tl.load(constants + 1), tl.load(constants + 2), tl.load(constants + 3)
    form = bilinear(e, matrices(forms, v, there, F, F, stride, 2 * F, 0, F, FP), e, PRECISION)
    linear = tl.sum(e * vectors(forms, v, there, F, stride, (3 * F + 1) * F, 1, 0.0, FP)[:, None, :], 2)
    length2 = inverse3 * (form + 2.0 * linear + nu)
    linear = tl.sum(e * vectors(forms, v, there, F, stride, (3 * F + 2) * F, 1, 0.0, FP)[:, None, :], 2)
    length2 = inverse3 * (length2 + 2.0 * (linear + eta)) + beta

    along = by_clip(products(unit, value, t64, rows, here, live, D, BT, BV * FP, BK, PRECISION), BT, BV, FP)
    dot = tl.sum(along * e, 2) + tl.load(offset + t, mask=here, other=0.0)[None, :]
    dot = dot * inverse3 + tl.load(bias + t, mask=here, other=0.0)[None, :]
    at, pair = t64[None, :] * V + v[:, None], here[None, :] & there[:, None]
    tl.store(out + at, dot * tl.rsqrt(tl.where(pair, length2, 1.0)), mask=pair)


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XPoolWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    return supported({**text, **video}, video["key"].shape[1], VECTORS)


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XPoolWeights) -> Tensor:
    """Return [T, V] fp32; differentiable."""
    return fused_forward(_forward, folded.score, text, video, weights)


def _forward(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XPoolWeights) -> Tensor:
    out = torch.empty(len(text["query"]), len(video["key"]), dtype=torch.float32, device=text["query"].device)
    launch(text, video, weights, out).run()
    return out


def launch(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: XPoolWeights,
    out: Tensor,
    capability: int | None = None,
) -> Launch:
    """Return the launch that fills `out` [T, V]."""
    query, key = text["query"].contiguous(), video["key"].contiguous()
    (T, D), (V, F, _) = query.shape, key.shape
    blocks = Blocks(T, V, F, query, TILES, capability)
    tensors = (
        *(query, text["unit"].contiguous(), text["offset"].float(), text["bias"].float()),
        *(key, video["value"].contiguous(), video["key_bias"].float().contiguous()),
        *(video["forms"].float().contiguous(), video["constants"][0].float().contiguous(), out),
    )
    return Launch(xpool_fwd_kernel, blocks.grid, (*tensors, T, V, F, D, weights.eps), blocks.constants())
