"""GLCCL in one kernel: the L x L similarities of a pair are made, attended to and summed up in registers.

A program owns one caption and BV clips. Scoring only; training takes the folded form, recomputed block by block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from tvr_kernels.triton_impl import (
    Blocks,
    Launch,
    Tile,
    Tiles,
    by_clip,
    capability_of,
    clip_rows,
    exp_below_max,
    products,
    square_matrix,
    supported,
    symmetric_form,
    tile_of,
    times,
    vectors,
)

if TYPE_CHECKING:
    from tvr_kernels.glccl import GlcclWeights

VECTORS = ("query", "mapped", "columns")  # what may be bf16 or fp16; the rest is fp32
TILES = Tiles(
    hopper=(Tile(16, 16, 2, 2, 16), Tile(16, 64, 4, 3, 64)),
    other=(Tile(16, 32, 8, 2, 16), Tile(16, 64, 4, 3, 64)),
    long=(Tile(16, 64, 8, 2, 16), Tile(16, 64, 8, 2, 64)),
)
MAX_WORDS = 64


@triton.jit
def attend(m, real, sharpness):
    """Return softmax(sharpness * m) over the last axis of [B, L], real slots only."""
    kept = tl.where(real, m * sharpness, -float("inf"))
    e = tl.exp(kept - tl.max(kept, 1)[:, None])
    return e / tl.sum(e, 1)[:, None]


@triton.jit
def isa(m, mixing, real, sharpness):
    """Return softmax(m / temperature)' A m [B]: m [B, L], mixing A [L, L]."""
    kept = tl.where(real, m, 0.0)
    mixed = tl.sum(mixing[None, :, :] * kept[:, None, :], 2)
    return tl.sum(attend(m, real, sharpness) * mixed, 1)


@triton.jit
def glccl_fwd_kernel(
    query,  # [T, L + 1, D] unit vectors: words, sentence
    norm,  # [T, L + 1] fp32, their lengths over the temperature
    mapped,  # [T, D]
    word_mask,  # [T, L] uint8
    columns,  # [V, 2 F, D]: frames | frames Lambda'
    gram,  # [V, F, F]
    frame_mask,  # [V, F] uint8
    mixing,  # [6, L, L]: A1 .. A6
    out,  # [T, V] fp32
    T,
    V,
    F,
    D,
    L,
    sharpness,
    LP: tl.constexpr,
    BT: tl.constexpr,
    BV: tl.constexpr,
    FP: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    text, clip_tile = tile_of(tl.program_id(0), T, tl.cdiv(V, BV), GROUP)
    v = clip_tile * BV + tl.arange(0, BV)
    there = v < V
    own, live = clip_rows(clip_tile * BV, V, F, 2 * F, 0, BV, FP)
    local, _ = clip_rows(clip_tile * BV, V, F, 2 * F, F, BV, FP)
    word = tl.arange(0, LP)
    first_row = text.to(tl.int64) * (L + 1)
    lengths = tl.load(norm + first_row + word, mask=word < L, other=0.0)
    real = tl.load(word_mask + text.to(tl.int64) * L + word, mask=word < L, other=0) > 0
    frame = vectors(frame_mask, v, there, F, F, 0, 1, 0, FP)[:, None, :] > 0.5  # [BV, 1, FP]

    # weights of the unit vector that the sentence pools (row 0 of 16), and the mapped sentence's dots: [BV, 1, FP]
    slot = tl.arange(0, BT)
    sentence_rows = first_row + L + slot
    tile = products(query, columns, sentence_rows, own, slot < 1, live, D, BT, BV * FP, BK, PRECISION)
    sentence = tl.sum(by_clip(tile, BT, BV, FP), 1)[:, None, :]
    tile = products(mapped, columns, text.to(tl.int64) + slot, own, slot < 1, live, D, BT, BV * FP, BK, PRECISION)
    global_dots = tl.sum(by_clip(tile, BT, BV, FP), 1)
    a = exp_below_max(sentence * tl.load(norm + first_row + L), frame)  # [BV, 1, FP]
    square = symmetric_form(a, gram, v, there, F, F * F, 0, FP, PRECISION)  # [BV, 1]
    a = a * tl.rsqrt(tl.maximum(square, 1e-30))[:, :, None]

    total = tl.sum(tl.sum(a * global_dots[:, None, :], 2), 1)  # VS, [BV]

    # the same for the words, and the dots that they need: [BV, LP, FP]
    rows = first_row + word
    s = by_clip(products(query, columns, rows, own, word < L, live, D, LP, BV * FP, BK, PRECISION), LP, BV, FP)
    b = exp_below_max(s * lengths[None, :, None], frame)
    square = symmetric_form(b, gram, v, there, F, F * F, 0, FP, PRECISION)
    b = b * tl.rsqrt(tl.maximum(square, 1e-30))[:, :, None]
    keep = real[None, :]
    video_word = tl.sum(a * s, 2)  # [BV, LP]
    total += isa(video_word, square_matrix(mixing, 0, L, LP), keep, sharpness)
    sentence_frame = tl.sum(b * sentence, 2)
    total += isa(sentence_frame, square_matrix(mixing, 1, L, LP), keep, sharpness)

    # M [BV, LP, LP]: word i, frame slot j
    tile = products(query, columns, rows, local, word < L, live, D, LP, BV * FP, BK, PRECISION)
    m = times(by_clip(tile, LP, BV, FP), tl.permute(b, (0, 2, 1)), PRECISION)
    both = real[None, :, None] & real[None, None, :]
    m = tl.where(both, m, 0.0)
    kept = tl.where(real[None, :, None], m * sharpness, -float("inf"))
    e = tl.exp(kept - tl.max(kept, 1)[:, None, :])
    beside = tl.reshape(tl.permute(m, (1, 0, 2)), (LP, BV * LP))  # clips side by side: one plain product
    mixed = tl.dot(square_matrix(mixing, 2, L, LP), beside, input_precision=PRECISION)  # (A3 M)_ij
    mixed = tl.permute(tl.reshape(mixed, (LP, BV, LP)), (1, 0, 2))
    frame_left = tl.sum(e * mixed, 1) / tl.sum(e, 1)
    kept = tl.where(real[None, None, :], m * sharpness, -float("inf"))
    e = tl.exp(kept - tl.max(kept, 2)[:, :, None])
    over_frames = tl.trans(square_matrix(mixing, 3, L, LP))
    mixed = tl.dot(tl.reshape(m, (BV * LP, LP)), over_frames, input_precision=PRECISION)  # (M A4')_ij
    mixed = tl.reshape(mixed, (BV, LP, LP))
    word_left = tl.sum(e * mixed, 2) / tl.sum(e, 2)
    total += 0.5 * isa(frame_left, square_matrix(mixing, 4, L, LP), keep, sharpness)
    total += 0.5 * isa(word_left, square_matrix(mixing, 5, L, LP), keep, sharpness)
    tl.store(out + text.to(tl.int64) * V + v, 0.25 * total, mask=there)


def most_slots(dtype: torch.dtype, capability: int) -> int:
    """Return how many words or frames of an item fit: the forms of longer ones leave no registers."""
    return 64 if dtype != torch.float32 and capability >= 90 else 32


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GlcclWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    tensors = {**{f"text {k}": x for k, x in text.items()}, **video}
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*tensors.values(), *weights[:-2])):
        return False, "the kernel has no backward pass"
    words = text["norm"].shape[1] - 1
    if words > MAX_WORDS:
        return False, f"a caption has {words} word slots, the kernel holds at most {MAX_WORDS}"
    frames = video["gram"].shape[1]
    query = text["query"]
    most = most_slots(query.dtype, capability_of(query.device))
    if max(words, frames) > most:
        return False, f"{words} words and {frames} frames; the kernel holds {most} in {query.dtype} on this device"
    return supported({**tensors, **text}, frames, VECTORS)


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GlcclWeights) -> Tensor:
    """Return [T, V] fp32."""
    out = torch.empty(len(text["query"]), len(video["gram"]), dtype=torch.float32, device=text["query"].device)
    launch(text, video, weights, out).run()
    return out


def launch(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: GlcclWeights,
    out: Tensor,
    capability: int | None = None,
) -> Launch:
    """Return the launch that fills `out` [T, V]."""
    query, columns = text["query"].contiguous(), video["columns"].contiguous()
    (T, rows, D), (V, F) = query.shape, video["gram"].shape[:2]
    words = max(16, triton.next_power_of_2(rows - 1))
    blocks = Blocks(T, V, F, query, TILES, capability, slots=words)
    ones = query.new_ones(T, rows - 1, dtype=torch.bool), query.new_ones(V, F, dtype=torch.bool)
    tensors = (
        *(query, (text["norm"] / weights.temperature).float().contiguous(), text["mapped"].contiguous()),
        text.get("mask", ones[0]).contiguous().view(torch.uint8),
        *(columns, video["gram"].float().contiguous(), video.get("mask", ones[1]).contiguous().view(torch.uint8)),
        *(torch.stack(weights[2:8]).float().contiguous(), out),
    )
    grid = (T * triton.cdiv(V, blocks.BV),)
    scalars = (T, V, F, D, rows - 1, 1.0 / weights.isa_temperature)
    return Launch(glccl_fwd_kernel, grid, (*tensors, *scalars), {**blocks.constants(), "LP": words})
