"""X-CLIP in one kernel: the L x F similarities of a pair are made, attended to on both axes and summed up in registers.

A program owns one caption and BV clips. Scoring only; training takes the folded form, recomputed block by block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from tvr_kernels.glccl.triton_impl import isa
from tvr_kernels.triton_impl import (
    Blocks,
    Launch,
    Tile,
    Tiles,
    by_clip,
    capability_of,
    clip_rows,
    products,
    square_matrix,
    supported,
    tile_of,
    vectors,
)

if TYPE_CHECKING:
    from tvr_kernels.xclip import XClipWeights

VECTORS = ("sentence", "words", "mapped", "local", "video", "frames")  # what may be bf16 or fp16; the rest is fp32
TILES = Tiles(
    hopper=(Tile(16, 32, 4, 2, 16), Tile(16, 64, 4, 3, 64)),
    other=(Tile(16, 32, 8, 2, 16), Tile(16, 64, 4, 3, 64)),
    long=(Tile(16, 64, 8, 2, 16), Tile(16, 64, 8, 2, 64)),
)
MAX_WORDS = 64


@triton.jit
def xclip_fwd_kernel(
    sentence,  # [T, D] unit vectors, as all that follow but those mapped
    mapped,  # [T, D]
    words,  # [T, L, D]
    local,  # [T, L, D]
    word_mask,  # [T, L] uint8
    video,  # [V, D]
    frames,  # [V, F, D]
    frame_mask,  # [V, F] uint8
    of_words,  # [3, L, L]: A1, A3, A6
    of_frames,  # [3, F, F]: A2, A4, A5
    out,  # [T, V] fp32
    T,
    V,
    F,
    D,
    L,
    sharpness,
    LP: tl.constexpr,
    VP: tl.constexpr,
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
    rows, live = clip_rows(clip_tile * BV, V, F, F, 0, BV, FP)
    word = tl.arange(0, LP)
    word_rows = text.to(tl.int64) * L + word
    real = tl.load(word_mask + word_rows, mask=word < L, other=0) > 0
    shown = vectors(frame_mask, v, there, F, F, 0, 1, 0, FP) > 0.5  # [BV, FP]
    keep = real[None, :]

    # what meets the clip's own vector: its VP >= 16 columns are BV clips, the sentence is row 0 of 16
    column = tl.arange(0, VP)
    clip = (clip_tile * BV + column).to(tl.int64)
    here = (column < BV) & (clip < V)
    slot = tl.arange(0, BT)
    mine = column[:, None] == tl.arange(0, BV)[None, :]  # [VP, BV]
    tile = products(mapped, video, text.to(tl.int64) + slot, clip, slot < 1, here, D, BT, VP, BK, PRECISION)
    total = tl.sum(tl.where(mine, tl.sum(tile, 0)[:, None], 0.0), 0)  # VS, [BV]
    tile = products(words, video, word_rows, clip, word < L, here, D, LP, VP, BK, PRECISION)
    seen = tl.sum(tl.where(mine[None, :, :], tile[:, :, None], 0.0), 1)  # [LP, BV]
    total += isa(tl.trans(seen), square_matrix(of_words, 0, L, LP), keep, sharpness)

    tile = products(sentence, frames, text.to(tl.int64) + slot, rows, slot < 1, live, D, BT, BV * FP, BK, PRECISION)
    seen = tl.sum(by_clip(tile, BT, BV, FP), 1)  # [BV, FP]
    total += isa(seen, square_matrix(of_frames, 0, F, FP), shown, sharpness)

    # M [BV, LP, FP]: word i, frame j
    tile = products(local, frames, word_rows, rows, word < L, live, D, LP, BV * FP, BK, PRECISION)  # [LP, BV * FP]
    both = real[None, :, None] & shown[:, None, :]
    m = tl.where(both, by_clip(tile, LP, BV, FP), 0.0)
    kept = tl.where(real[None, :, None], m * sharpness, -float("inf"))
    e = tl.exp(kept - tl.max(kept, 1)[:, None, :])
    flat = tl.reshape(tl.permute(m, (1, 0, 2)), (LP, BV * FP))  # clips side by side: one plain product
    mixed = tl.dot(square_matrix(of_words, 1, L, LP), flat, input_precision=PRECISION)  # (A3 M)_ij
    frame_left = tl.sum(e * by_clip(mixed, LP, BV, FP), 1) / tl.sum(e, 1)  # r, [BV, FP]
    kept = tl.where(shown[:, None, :], m * sharpness, -float("inf"))
    top = tl.max(kept, 2)
    e = tl.exp(kept - tl.where(top == -float("inf"), 0.0, top)[:, :, None])  # a clip beyond V has no frame
    over_frames = tl.trans(square_matrix(of_frames, 1, F, FP))
    mixed = tl.dot(tl.reshape(m, (BV * LP, FP)), over_frames, input_precision=PRECISION)  # (M A4')_ij
    word_left = tl.sum(e * tl.reshape(mixed, (BV, LP, FP)), 2) / tl.sum(e, 2)  # q, [BV, LP]
    total += 0.5 * isa(frame_left, square_matrix(of_frames, 2, F, FP), shown, sharpness)
    total += 0.5 * isa(word_left, square_matrix(of_words, 2, L, LP), keep, sharpness)
    tl.store(out + text.to(tl.int64) * V + v, 0.25 * total, mask=there)


def most_slots(dtype: torch.dtype, capability: int) -> int:
    """Return how many words or frames of an item fit: the forms of longer ones leave no registers."""
    return 32


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XClipWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    tensors = {**{f"text {k}": x for k, x in text.items()}, **{f"video {k}": x for k, x in video.items()}}
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*tensors.values(), *weights[:-1])):
        return False, "the kernel has no backward pass"
    words, frames = text["words"].shape[1], video["frames"].shape[1]
    most = most_slots(text["words"].dtype, capability_of(text["words"].device))
    if max(words, frames) > most:
        return False, f"{words} words and {frames} frames; the kernel holds {most} of each"
    return supported({**tensors, **text, **video}, frames, VECTORS)


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XClipWeights) -> Tensor:
    """Return [T, V] fp32."""
    out = torch.empty(len(text["words"]), len(video["frames"]), dtype=torch.float32, device=text["words"].device)
    launch(text, video, weights, out).run()
    return out


def launch(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: XClipWeights,
    out: Tensor,
    capability: int | None = None,
) -> Launch:
    """Return the launch that fills `out` [T, V]."""
    words, frames = text["words"].contiguous(), video["frames"].contiguous()
    (T, L, D), (V, F, _) = words.shape, frames.shape
    slots = max(16, triton.next_power_of_2(L))
    blocks = Blocks(T, V, F, words, TILES, capability, slots=slots)
    all_words, all_frames = words.new_ones(T, L, dtype=torch.bool), words.new_ones(V, F, dtype=torch.bool)
    tensors = (
        *(text["sentence"].contiguous(), text["mapped"].contiguous(), words, text["local"].contiguous()),
        text.get("mask", all_words).contiguous().view(torch.uint8),
        *(video["video"].contiguous(), frames, video.get("mask", all_frames).contiguous().view(torch.uint8)),
        torch.stack([weights.video_word, weights.over_words, weights.then_words]).float().contiguous(),
        torch.stack([weights.sentence_frame, weights.over_frames, weights.then_frames]).float().contiguous(),
        out,
    )
    grid = (T * triton.cdiv(V, blocks.BV),)
    constants = {**blocks.constants(), "LP": slots, "VP": max(16, blocks.BV)}
    return Launch(xclip_fwd_kernel, grid, (*tensors, T, V, F, D, L, 1.0 / weights.isa_temperature), constants)
