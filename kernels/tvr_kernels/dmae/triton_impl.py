"""DMAE in one kernel: a tile of words and frames is reduced to scores where it was computed.

Scoring only: training takes the folded form, whose gradient follows the chosen frames.
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
    clip_rows,
    products,
    supported,
    tile_of,
    vectors,
)

if TYPE_CHECKING:
    from tvr_kernels.dmae import DmaeOptions

VECTORS = ("rows", "frames")  # what may be bf16 or fp16; the rest is fp32
TILES = Tiles(
    hopper=(Tile(16, 128, 4, 3, 32), Tile(16, 64, 8, 2, 64)),
    other=(Tile(16, 64, 8, 2, 16), Tile(16, 64, 8, 2, 64)),
    long=(Tile(16, 64, 8, 2, 16), Tile(16, 64, 8, 2, 64)),
)
MAX_WORDS = 128


@triton.jit
def best_frame(s, choice, closeness, neighbour, FP: tl.constexpr, NEIGHBOURS: tl.constexpr):
    """Return S_f* + r(f*) S_n(f*) / 2 over the last axis, f* the first maximum of `choice`; s: [A, B, C, FP].

    Without neighbours it is the maximum.
    """
    f = tl.arange(0, FP)[None, None, None, :]
    top = tl.max(choice, 3)
    if not NEIGHBOURS:
        return top
    first = tl.min(tl.where(choice == top[:, :, :, None], f, FP), 3)
    here = f == first[:, :, :, None]
    second = tl.sum(tl.where(here, neighbour, 0), 3)
    best = tl.sum(tl.where(here, s, 0.0), 3)
    beside = tl.sum(tl.where(f == second[:, :, :, None], s, 0.0), 3)
    return best + 0.5 * tl.sum(tl.where(here, closeness, 0.0), 3) * beside


@triton.jit
def dmae_fwd_kernel(
    rows,  # [T, L1, D], the sentence (if it has a branch) and then the words
    row_weight,  # [T, L1]
    row_bias,  # [T, L1], -inf on rows that never win
    frames,  # [V, F, D]
    frame_weight,  # [V, F]
    frame_bias,  # [V, F], -inf on frames that never win
    closeness,  # [V, F]
    neighbour,  # [V, F] int64
    out,  # [T, V] fp32
    T,
    V,
    F,
    D,
    L1,
    WORDS: tl.constexpr,
    SENTENCE: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    LP: tl.constexpr,
    BW: tl.constexpr,
    BT: tl.constexpr,
    BV: tl.constexpr,
    FP: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    text_tile, clip_tile = tile_of(tl.program_id(0), tl.cdiv(T, BW), tl.cdiv(V, BV), GROUP)
    v = clip_tile * BV + tl.arange(0, BV)
    there = v < V
    clips, live = clip_rows(clip_tile * BV, V, F, F, 0, BV, FP)
    weight_f = vectors(frame_weight, v, there, F, F, 0, 1, 0.0, FP)
    bias_f = vectors(frame_bias, v, there, F, F, 0, 1, -float("inf"), FP)
    close = vectors(closeness, v, there, F, F, 0, 1, 0.0, FP)
    near = vectors(neighbour, v, there, F, F, 0, 1, 0, FP).to(tl.int32)

    if SENTENCE:  # BT >= 16 rows for the matrix unit, of which BW are this tile's captions
        slot = tl.arange(0, BT)
        t = text_tile * BW + slot
        here = (slot < BW) & (t < T)
        tile = products(rows, frames, t.to(tl.int64) * L1, clips, here, live, D, BT, BV * FP, BK, PRECISION)
        s = by_clip(tile, BT, BV, FP)[:, :, None, :]  # [BV, BT, 1, FP]
        choice = tl.where(bias_f[:, None, None, :] == 0.0, s, -float("inf"))
        score = tl.sum(best_frame(s, choice, close[:, None, None, :], near[:, None, None, :], FP, NEIGHBOURS), 2)
        score += tl.sum(tl.sum(s * weight_f[:, None, None, :], 3), 2)  # [BV, BT]
        score *= 0.5
    if WORDS:
        word = tl.arange(0, BW * LP)
        w = text_tile * BW + word // LP
        row = SENTENCE + word % LP
        alive = (w < T) & (row < L1)
        word_rows = w.to(tl.int64) * L1 + row
        tile = products(rows, frames, word_rows, clips, alive, live, D, BW * LP, BV * FP, BK, PRECISION)
        s = tl.reshape(tile, (BW, LP, BV, FP))
        weight_l = tl.reshape(tl.load(row_weight + word_rows, mask=alive, other=0.0), (BW, LP))
        bias_l = tl.reshape(tl.load(row_bias + word_rows, mask=alive, other=-float("inf")), (BW, LP))
        choice = tl.where(bias_f[None, None, :, :] == 0.0, s, -float("inf"))
        best = best_frame(s, choice, close[None, None, :, :], near[None, None, :, :], FP, NEIGHBOURS)  # [BW, LP, BV]
        words = tl.sum(best * weight_l[:, :, None], 1)  # [BW, BV]
        per_frame = tl.max(tl.where(bias_l[:, :, None, None] == 0.0, s, -float("inf")), 1)  # [BW, BV, FP]
        words += tl.sum(tl.where(weight_f[None, :, :] != 0.0, per_frame * weight_f[None, :, :], 0.0), 2)
        words *= 0.5
    if SENTENCE and WORDS:
        mine = slot[None, :] == tl.arange(0, BW)[:, None]  # the caption of a word tile in the sentence tile
        score = 0.5 * (score + tl.sum(tl.where(mine[:, None, :], words[:, :, None], 0.0), 0))
    if SENTENCE:
        tl.store(out + t.to(tl.int64)[None, :] * V + v[:, None], score, mask=here[None, :] & there[:, None])
    else:
        t = text_tile * BW + tl.arange(0, BW)
        tl.store(out + t.to(tl.int64)[:, None] * V + v[None, :], words, mask=(t < T)[:, None] & there[None, :])


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: DmaeOptions) -> tuple[bool, str]:
    """Return (can run, why)."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*text.values(), *video.values())):
        return False, "the kernel has no backward pass"
    words = text["rows"].shape[1] - weights.sentence
    if words > MAX_WORDS:
        return False, f"a caption has {words} word slots, the kernel holds at most {MAX_WORDS}"
    return supported({**text, **video}, video["frames"].shape[1], VECTORS)


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: DmaeOptions) -> Tensor:
    """Return [T, V] fp32."""
    out = torch.empty(len(text["rows"]), len(video["frames"]), dtype=torch.float32, device=text["rows"].device)
    launch(text, video, weights, out).run()
    return out


def launch(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: DmaeOptions,
    out: Tensor,
    capability: int | None = None,
) -> Launch:
    """Return the launch that fills `out` [T, V]."""
    rows, frames = text["rows"].contiguous(), video["frames"].contiguous()
    (T, L1, D), (V, F, _) = rows.shape, frames.shape
    slots = max(1, L1 - weights.sentence)
    words = max(16, triton.next_power_of_2(slots))  # LP
    word_rows = 64 if rows.dtype == torch.float32 else 128  # more spill registers
    captions = max(1, word_rows // words) if weights.words else 16  # BW
    blocks = Blocks(captions, V, F, rows, TILES, capability)
    zeros = {"text": torch.zeros_like(text["weight"]), "video": torch.zeros_like(video["weight"])}
    no_one = zeros["video"].long()  # what is never read without neighbours
    tensors = (
        *(rows, text["weight"].float().contiguous(), text.get("bias", zeros["text"]).float().contiguous()),
        *(frames, video["weight"].float().contiguous(), video.get("bias", zeros["video"]).float().contiguous()),
        video.get("closeness", zeros["video"]).float().contiguous(),
        *(video.get("neighbour", no_one).contiguous(), out),
    )
    grid = (triton.cdiv(T, captions) * triton.cdiv(V, blocks.BV),)
    branches = {"WORDS": weights.words, "SENTENCE": weights.sentence, "NEIGHBOURS": weights.neighbours}
    constants = {**blocks.constants(), **branches, "LP": words, "BW": captions}
    return Launch(dmae_fwd_kernel, grid, (*tensors, T, V, F, D, L1), constants)
