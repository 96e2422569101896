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
    from tvr_kernels.gare import GareWeights

VECTORS = ("text", "columns")  # what may be bf16 or fp16; the rest is fp32
TILES = Tiles(
    hopper=(Tile(32, 64, 4, 3, 16), Tile(64, 32, 4, 3, 64)),
    other=(Tile(32, 64, 8, 2, 16), Tile(64, 64, 8, 2, 64)),
    long=(Tile(16, 64, 8, 2, 16), Tile(16, 64, 8, 2, 64)),
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
    PRECISION: tl.constexpr,
):
    text_tile, clip_tile = tile_of(tl.program_id(0), tl.cdiv(T, BT), tl.cdiv(V, BV), GROUP)
    t = text_tile * BT + tl.arange(0, BT)
    v = clip_tile * BV + tl.arange(0, BV)
    here, there, t64, v64 = t < T, v < V, t.to(tl.int64), v.to(tl.int64)
    at = t64[None, :] * V + v[:, None]
    pair = here[None, :] & there[:, None]
    stride = 3 * F + 1

    # attention of the increment: alpha, then what LN2 and LN3 leave of it
    gap = tl.load(out + at, mask=pair, other=0.0)
    spread = tl.load(variance + v, mask=there, other=0.0)[:, None]
    spread += tl.load(text_variance + t, mask=here, other=0.0)[None, :] - gap * (2.0 / D)
    inverse = tl.rsqrt(tl.maximum(spread, 0.0) + eps)[:, :, None]
    rows, live = clip_rows(clip_tile * BV, V, F, stride, 2 * F, BV, FP)
    c = by_clip(products(text, columns, t64, rows, here, live, D, BT, BV * FP, BK, PRECISION), BT, BV, FP)
    add = vectors(offset, v, there, F, F, 0, 1, -float("inf"), FP)[:, None, :]
    c = (c + vectors(shift, v, there, F, F, 0, 1, 0.0, FP)[:, None, :]) * inverse + add
    c = exp_below_max(c, add > -float("inf"))
    total = tl.sum(c, 2)
    form = bilinear(c, matrices(normal2, v, there, F, F, F * F, 0, 0, F, FP), c, PRECISION)
    c = c * tl.rsqrt(form + eps * total * total + 1e-37)[:, :, None]
    step, area = F + 1, (F + 1) * (F + 1)
    form = bilinear(c, matrices(normal3, v, there, F, F, area, 0, 0, step, FP), c, PRECISION)
    form += 2.0 * tl.sum(c * vectors(normal3, v, there, F, area, F * step, 1, 0.0, FP)[:, None, :], 2)
    c_last = tl.rsqrt(form + tl.load(normal3 + v64 * area + area - 1, mask=there, other=0.0)[:, None] + eps)
    c = c * c_last[:, :, None]  # coefficients of the first F rows of Q; then c_last, then 1

    # |t + Delta|^2
    rows, live = clip_rows(clip_tile * BV, V, F, stride, F, BV, FP)
    tile = by_clip(products(text, columns, t64, rows, here, live, D, BT, BV * FP, BK, PRECISION), BT, BV, FP)
    moved = tl.sum(c * tile, 2) + c_last * tl.load(on_shared + 2 * t, mask=here, other=0.0)[None, :]
    moved += tl.load(on_shared + 2 * t + 1, mask=here, other=0.0)[None, :]
    step, area = F + 2, (F + 2) * (F + 2)
    moved += tl.sum(c * vectors(qq, v, there, F, area, F * step, 1, 0.0, FP)[:, None, :], 2) * c_last
    moved += tl.sum(c * vectors(qq, v, there, F, area, (F + 1) * step, 1, 0.0, FP)[:, None, :], 2)
    moved += c_last * tl.load(qq + v64 * area + F * step + F + 1, mask=there, other=0.0)[:, None]
    moved = 2.0 * moved + bilinear(c, matrices(qq, v, there, F, F, area, 0, 0, step, FP), c, PRECISION)
    moved += c_last * c_last * tl.load(qq + v64 * area + F * step + F, mask=there, other=0.0)[:, None]
    moved += tl.load(qq + v64 * area + area - 1, mask=there, other=0.0)[:, None]
    moved += tl.load(square + t, mask=here, other=0.0)[None, :]

    # <t + Delta, p> and |p|^2 with the pooling weights w
    rows, live = clip_rows(clip_tile * BV, V, F, stride, 0, BV, FP)
    tile = by_clip(products(text, columns, t64, rows, here, live, D, BT, BV * FP, BK, PRECISION), BT, BV, FP)
    real = vectors(mask, v, there, F, F, 0, 1, 0, FP)[:, None, :] > 0.5
    w = exp_below_max(tile * inverse_temperature, real)
    dot = tl.sum(w * tile, 2)
    area = (F + 2) * F
    dot += tl.sum(w * vectors(qv, v, there, F, area, F * F, 1, 0.0, FP)[:, None, :], 2) * c_last
    dot += tl.sum(w * vectors(qv, v, there, F, area, (F + 1) * F, 1, 0.0, FP)[:, None, :], 2)
    dot += bilinear(c, matrices(qv, v, there, F, F, area, 0, 0, F, FP), w, PRECISION)
    length = bilinear(w, matrices(vv, v, there, F, F, F * F, 0, 0, F, FP), w, PRECISION)
    tl.store(out + at, dot * tl.rsqrt(tl.where(pair, moved * length, 1.0)), mask=pair)


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
    return Launch(gare_fwd_kernel, blocks.grid, (*tensors, *scalars), blocks.constants())
