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
from tvr_kernels.xpool import folded

if TYPE_CHECKING:
    from tvr_kernels.xpool import XPoolWeights

VECTORS = ("query", "unit", "key", "value")  # what may be bf16 or fp16; the rest is fp32
TILES = Tiles(
    hopper=(Tile(64, 32, 4, 3, 32), Tile(128, 64, 8, 3, 64)),
    other=(Tile(64, 16, 4, 2, 16), Tile(64, 32, 4, 2, 64)),
    long=(Tile(16, 64, 8, 2, 16), Tile(32, 64, 4, 2, 64)),
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
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    text_tile, clip_tile = tile_of(tl.program_id(0), tl.cdiv(T, BT), tl.cdiv(V, BV), GROUP)
    first_t, first_v = text_tile.to(tl.int64) * BT, clip_tile.to(tl.int64) * BV
    stride = (3 * F + 3) * F
    query, unit, offset, bias = query + first_t * D, unit + first_t * D, offset + first_t, bias + first_t
    key, value = key + first_v * F * D, value + first_v * F * D
    key_bias, forms = key_bias + first_v * F, forms + first_v * stride
    t, v = tl.arange(0, BT), tl.arange(0, BV)
    row = tl.minimum(t, (T - first_t).to(tl.int32) - 1)
    clip, f, live = slots(first_v, V, F, BV, FP)
    out += (first_t + t)[:, None] * V + first_v + v[None, :]
    pair = (t < T - first_t)[:, None] & (v < V - first_v)[None, :]
    bound2 = bounds(forms, first_v, V, F, stride, F, 0, BV, FP)
    bound3 = bounds(forms, first_v, V, F, stride, F, F, BV, FP)
    bound = bounds(forms, first_v, V, F, stride, F, 2 * F, BV, FP)
    normal2 = block_diagonal(forms, first_v, V, F, bound2, stride, F, 0, BV, FP, PRECISION)
    normal3 = block_diagonal(forms, first_v, V, F, bound3, stride, F, F, BV, FP, PRECISION)
    lengths = block_diagonal(forms, first_v, V, F, bound, stride, F, 2 * F, BV, FP, PRECISION)
    gamma, nu, eta, beta = tl.load(constants), tl.load(constants + 1), tl.load(constants + 2), tl.load(constants + 3)

    logits = slot_products(query, key, row, clip * F + f, live, D, BK, EVEN, PRECISION)
    shift = slot_numbers(key_bias, clip, f, live, F, 0, 1, -float("inf"))[None, :]
    linear3 = slot_numbers(forms, clip, f, live, stride, 3 * F * F, 1, 0.0)[None, :]
    linear = slot_numbers(forms, clip, f, live, stride, (3 * F + 1) * F, 1, 0.0)[None, :]
    on_bias = slot_numbers(forms, clip, f, live, stride, (3 * F + 2) * F, 1, 0.0)[None, :]
    e = slot_weights(logits + shift, shift > -float("inf"), BV, FP, PRECISION)
    total = slot_sum(e.to(tl.float32), BV, FP)  # [BT, BV]
    form = slot_form(e, normal2, e, bound2, BV, FP, PRECISION)
    inverse2 = tl.rsqrt(form + eps * total * total + 1e-37)  # LN2 divides: u = e * inverse2
    form = slot_form(e, normal3, e, bound3, BV, FP, PRECISION)
    inverse3 = tl.rsqrt(inverse2 * (inverse2 * form + 2.0 * slot_sum(e * linear3, BV, FP)) + gamma + eps)
    form = slot_form(e, lengths, e, bound, BV, FP, PRECISION)
    length2 = inverse3 * (inverse2 * (inverse2 * form + 2.0 * slot_sum(e * linear, BV, FP)) + nu)
    length2 = inverse3 * (length2 + 2.0 * (inverse2 * slot_sum(e * on_bias, BV, FP) + eta)) + beta

    along = slot_products(unit, value, row, clip * F + f, live, D, BK, EVEN, PRECISION)
    dot = inverse2 * slot_sum(along * e, BV, FP) + tl.load(offset + row)[:, None]
    dot = dot * inverse3 + tl.load(bias + row)[:, None]
    tl.store(out, dot * tl.rsqrt(tl.where(pair, length2, 1.0)), mask=pair)


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
    return Launch(xpool_fwd_kernel, blocks.grid, (*tensors, T, V, F, D, weights.eps), blocks.constants(D))
