"""GARE in one kernel: three products a tile, five forms in registers, one number a pair written.

The products of captions with mean frames, one number a pair, come from a plain GEMM: they are read where the score is
then written. The backward pass recomputes through the folded form (`_tiles.fused_forward`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from tvr_kernels._tiles import fused_forward
from tvr_kernels.gare import folded
from tvr_kernels.gare._sides import LAYER_NORM_EPS
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
    to_slots,
)

if TYPE_CHECKING:
    from tvr_kernels.gare import GareWeights

VECTORS = ("text", "columns")  # what may be bf16 or fp16; the rest is fp32
TILES = Tiles(
    hopper=(Tile(64, 32, 4, 3, 32), Tile(128, 32, 4, 3, 64)),
    other=(Tile(64, 16, 4, 2, 16), Tile(64, 32, 4, 2, 64)),
    long=(Tile(16, 64, 8, 2, 16), Tile(32, 64, 4, 2, 64)),
)


@triton.jit
def gare_fwd_kernel(
    text,  # [T, D]
    text_variance,  # [T] fp32
    square,  # [T] fp32, squared length
    on_shared,  # [T, 2] fp32
    columns,  # [V, 3 F + 1, D]: frames | Q | -kappa | mean frame
    normal2,  # [V, F, F]
    normal3,  # [V, F + 1, F + 1]
    qq,  # [V, F + 2, F + 2]
    qv,  # [V, F + 2, F]
    vv,  # [V, F, F]
    shift,  # [V, F]
    offset,  # [V, F], -inf where not attended
    variance,  # [V]
    mask,  # [V, F] uint8
    out,  # [T, V] fp32: products of captions and mean frames on entry, scores on return
    T,
    V,
    F,
    D,
    inverse_temperature,
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
    stride, step, area = 3 * F + 1, F + 2, (F + 2) * (F + 2)
    text, text_variance, square = text + first_t * D, text_variance + first_t, square + first_t
    on_shared, columns, normal2 = on_shared + 2 * first_t, columns + first_v * stride * D, normal2 + first_v * F * F
    normal3, qq, qv = normal3 + first_v * (F + 1) * (F + 1), qq + first_v * area, qv + first_v * step * F
    vv, shift, offset = vv + first_v * F * F, shift + first_v * F, offset + first_v * F
    variance, mask = variance + first_v, mask + first_v * F
    t, v = tl.arange(0, BT), tl.arange(0, BV)
    row = tl.minimum(t, (T - first_t).to(tl.int32) - 1)
    clip, f, live = slots(first_v, V, F, BV, FP)
    out += (first_t + t)[:, None] * V + first_v + v[None, :]
    pair = (t < T - first_t)[:, None] & (v < V - first_v)[None, :]
    last = tl.minimum(v, (V - first_v).to(tl.int32) - 1)

    # attention of the increment: e, then what LN2 and LN3 leave of it
    square2, square3 = F * F, (F + 1) * (F + 1)
    bound2 = bounds(normal2, first_v, V, F, square2, F, 0, BV, FP)
    bound3 = bounds(normal3, first_v, V, F, square3, F + 1, 0, BV, FP)
    matrix2 = block_diagonal(normal2, first_v, V, F, bound2, square2, F, 0, BV, FP, PRECISION)
    matrix3 = block_diagonal(normal3, first_v, V, F, bound3, square3, F + 1, 0, BV, FP, PRECISION)
    gap = tl.load(out, mask=pair, other=0.0)
    spread = tl.load(variance + last)[None, :] + tl.load(text_variance + row)[:, None] - gap * (2.0 / D)
    c = slot_products(text, columns, row, clip * stride + 2 * F + f, live, D, BK, EVEN, PRECISION)
    add = slot_numbers(offset, clip, f, live, F, 0, 1, -float("inf"))[None, :]
    inverse = to_slots(tl.rsqrt(tl.maximum(spread, 0.0) + eps), FP)
    c = (c + slot_numbers(shift, clip, f, live, F, 0, 1, 0.0)[None, :]) * inverse + add
    e = slot_weights(c, add > -float("inf"), BV, FP, PRECISION)
    total = slot_sum(e.to(tl.float32), BV, FP)
    c = tl.rsqrt(slot_form(e, matrix2, e, bound2, BV, FP, PRECISION) + eps * total * total + 1e-37)
    linear3 = slot_numbers(normal3, clip, f, live, square3, F * (F + 1), 1, 0.0)[None, :]
    form = c * slot_form(e, matrix3, e, bound3, BV, FP, PRECISION) + 2.0 * slot_sum(e * linear3, BV, FP)
    c_last = tl.rsqrt(c * form + tl.load(normal3 + last * square3 + square3 - 1)[None, :] + eps)
    c = c * c_last  # c * e: coefficients of the first F rows of Q; then c_last, then 1

    # |t + Delta|^2
    bound = bounds(qq, first_v, V, F, area, step, 0, BV, FP)
    matrix = block_diagonal(qq, first_v, V, F, bound, area, step, 0, BV, FP, PRECISION)
    moved = c_last * tl.load(on_shared + 2 * row)[:, None] + tl.load(on_shared + 2 * row + 1)[:, None]
    moved += c_last * tl.load(qq + last * area + F * step + F + 1)[None, :]
    corner = tl.load(qq + last * area + F * step + F)[None, :]
    corner = c_last * c_last * corner + tl.load(qq + last * area + area - 1)[None, :] + tl.load(square + row)[:, None]
    tile = slot_products(text, columns, row, clip * stride + F + f, live, D, BK, EVEN, PRECISION)
    tile += slot_numbers(qq, clip, f, live, area, (F + 1) * step, 1, 0.0)[None, :]
    linear = slot_sum(e * slot_numbers(qq, clip, f, live, area, F * step, 1, 0.0)[None, :], BV, FP)
    moved = 2.0 * (moved + c * (slot_sum(e * tile, BV, FP) + c_last * linear)) + corner
    moved += c * c * slot_form(e, matrix, e, bound, BV, FP, PRECISION)

    # <t + Delta, p> and |p|^2 with the pooling weights w
    bound_v = bounds(vv, first_v, V, F, square2, F, 0, BV, FP)
    bound = tl.sqrt(bound) * tl.sqrt(bound_v)  # |<q, v>| is at most |q| |v|
    matrix = block_diagonal(qv, first_v, V, F, bound, step * F, F, 0, BV, FP, PRECISION)
    matrix2 = block_diagonal(vv, first_v, V, F, bound_v, square2, F, 0, BV, FP, PRECISION)
    tile = slot_products(text, columns, row, clip * stride + f, live, D, BK, EVEN, PRECISION)
    real = slot_numbers(mask, clip, f, live, F, 0, 1, 0)[None, :] > 0.5
    linear = slot_numbers(qv, clip, f, live, step * F, F * F, 1, 0.0)[None, :]
    w = slot_weights(tile * inverse_temperature, real, BV, FP, PRECISION)
    tile += slot_numbers(qv, clip, f, live, step * F, (F + 1) * F, 1, 0.0)[None, :]
    dot = slot_sum(w * tile, BV, FP) + c_last * slot_sum(w * linear, BV, FP)
    dot += c * slot_form(e, matrix, w, bound, BV, FP, PRECISION)
    length = slot_form(w, matrix2, w, bound_v, BV, FP, PRECISION)
    tl.store(out, dot * tl.rsqrt(tl.where(pair, moved * length, 1.0)), mask=pair)


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GareWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    return supported({**text, **video}, video["mask"].shape[1], VECTORS)


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GareWeights) -> Tensor:
    """Return [T, V] fp32; differentiable."""
    return fused_forward(_forward, folded.score, text, video, weights)


def _forward(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GareWeights) -> Tensor:
    out = (text["text"] @ video["columns"][:, -1].mT).float().contiguous()
    launch(text, video, weights, out).run()
    return out


def launch(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: GareWeights,
    out: Tensor,
    capability: int | None = None,
) -> Launch:
    """Return the launch that turns `out` [T, V], the products with the mean frames, into scores."""
    t, columns = text["text"].contiguous(), video["columns"].contiguous()
    (T, D), (V, F) = t.shape, video["mask"].shape
    blocks = Blocks(T, V, F, t, TILES, capability)
    small = ("normal2", "normal3", "qq", "qv", "vv", "shift", "offset", "variance")
    tensors = (
        *(t, text["variance"].float(), text["square"].float(), text["on_shared"].float().contiguous(), columns),
        *(video[name].float().contiguous() for name in small),
        *(video["mask"].contiguous().view(torch.uint8), out),
    )
    scalars = (T, V, F, D, 1.0 / weights.temperature, LAYER_NORM_EPS)
    return Launch(gare_fwd_kernel, blocks.grid, (*tensors, *scalars), blocks.constants(D))
