"""TC-MGC in one kernel: forms, ranks and attention of a pair in registers, one number written.

A program owns one caption and BV clips. Scoring only; training takes the folded form, recomputed block by block. The
ranks need no sort: the k best (k <= 8) are found by k maxima.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from tvr_kernels.tcmgc import shift
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
    from tvr_kernels.tcmgc import TcmgcWeights

VECTORS = ("query", "unit", "mapped", "columns")  # what may be bf16 or fp16; the rest is fp32
TILES = Tiles(
    hopper=(Tile(16, 32, 2, 2, 16), Tile(16, 32, 2, 2, 32)),
    other=(Tile(16, 64, 8, 2, 16), Tile(16, 64, 8, 2, 64)),
    long=(Tile(16, 64, 8, 2, 16), Tile(16, 64, 8, 2, 64)),
)
MAX_WORDS, MAX_RANKS = 64, 7
KP = tl.constexpr(8)  # slots of a rank vector


@triton.jit
def attend(m, real, sharpness):
    """Return softmax(sharpness * m) over the last axis of [B, KP], real slots only."""
    kept = tl.where(real, m * sharpness, -float("inf"))
    e = tl.exp(kept - tl.max(kept, 1)[:, None])
    return e / tl.sum(e, 1)[:, None]


@triton.jit
def isa(c, mixing, real, sharpness):
    """Return alpha' c [B], alpha = softmax(sharpness * (softmax(sharpness * c) A)): c [B, KP], mixing A [KP, KP]."""
    mixed = tl.sum(attend(c, real, sharpness)[:, :, None] * mixing[None, :, :], 1)
    return tl.sum(tl.where(real, attend(mixed, real, sharpness) * c, 0.0), 1)


@triton.jit
def best_of(x, ranks):
    """Return the `ranks` largest of [B, N] in descending order [B, KP], 0 beyond, and x without them (-inf)."""
    slot = tl.arange(0, x.shape[1])[None, :]
    rank = tl.arange(0, KP)[None, :]
    best = tl.zeros((x.shape[0], KP), tl.float32)
    for r in range(0, ranks):
        top = tl.max(x, 1)
        first = tl.min(tl.where(x == top[:, None], slot, x.shape[1]), 1)
        best = tl.where(rank == r, top[:, None], best)
        x = tl.where(slot == first[:, None], -float("inf"), x)
    return best, x


@triton.jit
def coordinates(a, forms, v, there, N, constants, FP: tl.constexpr, PRECISION: tl.constexpr):
    """Return (share [BV, R, FP], on_shift, inverse [BV, R]) of unit y from frame weights a [BV, R, FP]."""
    stride = (3 * N + 3) * N
    form = symmetric_form(a, forms, v, there, N, stride, 0, FP, PRECISION)
    inverse2 = tl.rsqrt(form + 1e-5)
    a = a * inverse2[:, :, None]
    form = symmetric_form(a, forms, v, there, N, stride, N, FP, PRECISION)
    linear = tl.sum(a * vectors(forms, v, there, N, stride, 3 * N * N, 1, 0.0, FP)[:, None, :], 2)
    inverse3 = tl.rsqrt(form + 2.0 * linear + tl.load(constants) + 1e-5)
    form = symmetric_form(a, forms, v, there, N, stride, 2 * N, FP, PRECISION)
    linear = tl.sum(a * vectors(forms, v, there, N, stride, (3 * N + 1) * N, 1, 0.0, FP)[:, None, :], 2)
    square = inverse3 * (form + 2.0 * linear + tl.load(constants + 1))
    linear = tl.sum(a * vectors(forms, v, there, N, stride, (3 * N + 2) * N, 1, 0.0, FP)[:, None, :], 2)
    square = inverse3 * (square + 2.0 * (linear + tl.load(constants + 2))) + tl.load(constants + 3)
    inverse = tl.rsqrt(square)
    on_shift = inverse3 * inverse
    return a * on_shift[:, :, None], on_shift, inverse


@triton.jit
def tcmgc_fwd_kernel(
    query,  # [T, L + 1, D], LN1 of words and sentence
    unit,  # [T, L + 1, D]
    mapped,  # [T, D]
    shared,  # [T, L + 1, 4] fp32
    mapped_shared,  # [T, 2] fp32
    word_mask,  # [T, L] uint8
    columns,  # [V, 3 F, D]: kappa | U | U Lambda'
    forms,  # [V, 3 F + 3, F]
    frame_mask,  # [V, F] uint8
    constants,  # [4]
    mixing,  # [6, KP, KP], zero-padded: the six rank mixings in the order of the weights
    fusion,  # [4, 4]
    out,  # [T, V] fp32
    T,
    V,
    F,
    D,
    L,
    K,
    scale,
    sharpness,
    inverse_root,
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
    first_clip = clip_tile * BV
    kappa, live = clip_rows(first_clip, V, F, 3 * F, 0, BV, FP)
    own, _ = clip_rows(first_clip, V, F, 3 * F, F, BV, FP)
    local, _ = clip_rows(first_clip, V, F, 3 * F, 2 * F, BV, FP)
    word, slot = tl.arange(0, LP), tl.arange(0, BT)
    text64 = text.to(tl.int64)
    rows, last = text64 * (L + 1) + word, text64 * (L + 1) + L
    real = tl.load(word_mask + text64 * L + word, mask=word < L, other=0) > 0
    n_real = tl.sum(real.to(tl.int32), 0)
    frame = vectors(frame_mask, v, there, F, F, 0, 1, 0, FP)[:, None, :] > 0.5

    # the sentence (row 0 of BT): unit video vector, then what words and sentence see of it
    tile = products(query, columns, last + slot, kappa, slot < 1, live, D, BT, BV * FP, BK, PRECISION)
    a = tl.sum(by_clip(tile, BT, BV, FP), 1)[:, None, :]  # [BV, 1, FP]: the other rows are zero
    a = exp_below_max(a * inverse_root, frame)
    a, shift_a, inverse_a = coordinates(
        a / tl.maximum(tl.sum(a, 2), 1e-30)[:, :, None], forms, v, there, F, constants, FP, PRECISION
    )
    shift_a, inverse_a = tl.sum(shift_a, 1), tl.sum(inverse_a, 1)  # [BV]
    tile = products(mapped, columns, text64 + slot, own, slot < 1, live, D, BT, BV * FP, BK, PRECISION)
    tile = by_clip(tile, BT, BV, FP)
    video_sentence = tl.sum(tl.sum(tile, 1) * tl.sum(a, 1), 1)
    video_sentence += shift_a * tl.load(mapped_shared + 2 * text64) + inverse_a * tl.load(
        mapped_shared + 2 * text64 + 1
    )
    tile = products(unit, columns, rows, own, word < L, live, D, LP, BV * FP, BK, PRECISION)
    tile = by_clip(tile, LP, BV, FP)
    on_c = tl.load(shared + rows * 4, mask=word < L, other=0.0)[None, :]
    on_b = tl.load(shared + rows * 4 + 1, mask=word < L, other=0.0)[None, :]
    seen = tl.sum(tile * a, 2) + shift_a[:, None] * on_c + inverse_a[:, None] * on_b  # [BV, LP]
    tile = products(unit, columns, last + slot, own, slot < 1, live, D, BT, BV * FP, BK, PRECISION)
    tile = by_clip(tile, BT, BV, FP)
    sentence = tl.sum(tile, 1)[:, None, :]

    rank = tl.arange(0, KP)[None, :]
    kept = rank < tl.minimum(K, n_real)
    best, _ = best_of(tl.where(real[None, :], seen, -float("inf")), K)
    video_word = isa(tl.where(kept, best, 0.0), square_matrix(mixing, 0, KP, KP), kept, sharpness)

    # the words
    tile = products(query, columns, rows, kappa, word < L, live, D, LP, BV * FP, BK, PRECISION)
    tile = by_clip(tile, LP, BV, FP)
    b = exp_below_max(tile * inverse_root, frame)
    b, shift_b, inverse_b = coordinates(
        b / tl.maximum(tl.sum(b, 2), 1e-30)[:, :, None], forms, v, there, F, constants, FP, PRECISION
    )
    seen = tl.sum(b * sentence, 2) + shift_b * tl.load(shared + last * 4) + inverse_b * tl.load(shared + last * 4 + 1)
    best, rest = best_of(tl.where(real[None, :], seen, -float("inf")), K)
    top = tl.max(rest, 1)
    top = tl.where(top == -float("inf"), 0.0, top)
    e = tl.exp(rest - top[:, None])
    fused = tl.sum(tl.where(e > 0.0, e * rest, 0.0), 1) / tl.maximum(tl.sum(e, 1), 1e-30)
    with_rest = rank < tl.minimum(K + 1, n_real)
    grouped = tl.where(rank == K, fused[:, None], best)
    grouped = tl.where(with_rest, grouped, 0.0)
    sentence_frame = isa(grouped, square_matrix(mixing, 1, KP, KP), with_rest, sharpness)

    # M [BV, LP, LP], word i, frame slot j; R: the best K words of each column, then the best K columns of each row
    tile = products(unit, columns, rows, local, word < L, live, D, LP, BV * FP, BK, PRECISION)
    tile = by_clip(tile, LP, BV, FP)
    m = times(tile, tl.permute(b, (0, 2, 1)), PRECISION)
    on_c = tl.load(shared + rows * 4 + 2, mask=word < L, other=0.0)[None, :, None]
    on_b = tl.load(shared + rows * 4 + 3, mask=word < L, other=0.0)[None, :, None]
    m += on_c * shift_b[:, None, :] + on_b * inverse_b[:, None, :]
    m = tl.where(real[None, :, None] & real[None, None, :], m, -float("inf"))
    reorganised = tl.zeros((BV, KP, KP), tl.float32)  # R[r, s]
    index = word[None, :, None]
    for r in range(0, K):
        best_word = tl.max(m, 1)  # [BV, LP], the r-th best word of each frame slot
        winner = tl.min(tl.where(m == best_word[:, None, :], index, LP), 1)
        m = tl.where(index == winner[:, None, :], -float("inf"), m)
        row_best, _ = best_of(best_word, K)
        reorganised = tl.where(tl.arange(0, KP)[None, :, None] == r, row_best[:, None, :], reorganised)
    both = kept[:, :, None] & kept[:, None, :]
    reorganised = tl.where(both, reorganised, 0.0)
    flat_kept = tl.broadcast_to(kept[:, None, :], (BV, KP, KP))
    flat_kept = tl.reshape(flat_kept, (BV * KP, KP))
    rows_first = tl.reshape(reorganised, (BV * KP, KP))
    columns_first = tl.reshape(tl.permute(reorganised, (0, 2, 1)), (BV * KP, KP))
    left = isa(columns_first, square_matrix(mixing, 2, KP, KP), flat_kept, sharpness)
    left = tl.where(kept, tl.reshape(left, (BV, KP)), 0.0)
    frame_word = isa(left, square_matrix(mixing, 4, KP, KP), kept, sharpness)
    left = isa(rows_first, square_matrix(mixing, 3, KP, KP), flat_kept, sharpness)
    left = tl.where(kept, tl.reshape(left, (BV, KP)), 0.0)
    frame_word += isa(left, square_matrix(mixing, 5, KP, KP), kept, sharpness)

    s0, s1, s2, s3 = video_sentence * scale, video_word * scale, sentence_frame * scale, frame_word * (0.5 * scale)
    l0 = s0 * tl.load(fusion) + s1 * tl.load(fusion + 4) + s2 * tl.load(fusion + 8) + s3 * tl.load(fusion + 12)
    l1 = s0 * tl.load(fusion + 1) + s1 * tl.load(fusion + 5) + s2 * tl.load(fusion + 9) + s3 * tl.load(fusion + 13)
    l2 = s0 * tl.load(fusion + 2) + s1 * tl.load(fusion + 6) + s2 * tl.load(fusion + 10) + s3 * tl.load(fusion + 14)
    l3 = s0 * tl.load(fusion + 3) + s1 * tl.load(fusion + 7) + s2 * tl.load(fusion + 11) + s3 * tl.load(fusion + 15)
    top = tl.maximum(tl.maximum(l0, l1), tl.maximum(l2, l3))
    e0, e1, e2, e3 = tl.exp(l0 - top), tl.exp(l1 - top), tl.exp(l2 - top), tl.exp(l3 - top)
    score = (e0 * s0 + e1 * s1 + e2 * s2 + e3 * s3) / (e0 + e1 + e2 + e3)
    tl.store(out + text64 * V + v, score, mask=there)


def most_slots(dtype: torch.dtype, capability: int) -> int:
    """Return how many words or frames of an item fit: the forms of longer ones leave no registers."""
    return 32


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TcmgcWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    tensors = {**{f"text {k}": x for k, x in text.items()}, **video}
    parameters = [w for w in weights if isinstance(w, Tensor)]
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*tensors.values(), *parameters)):
        return False, "the kernel has no backward pass"
    words, ranks = text["unit"].shape[1] - 1, len(weights.video_word)
    if words > MAX_WORDS or ranks > MAX_RANKS or words <= ranks:
        limits = f"the kernel holds at most {MAX_WORDS} and {MAX_RANKS}, and more words than ranks"
        return False, f"{words} word slots and {ranks} ranks; {limits}"
    if weights.heads != 1:
        return False, f"the attention has {weights.heads} heads, the kernel knows one"
    frames = video["forms"].shape[-1]
    query = text["query"]
    most = most_slots(query.dtype, capability_of(query.device))
    if max(words, frames) > most:
        return False, f"{words} words and {frames} frames; the kernel holds {most} in {query.dtype} on this device"
    return supported({**tensors, **text}, frames, VECTORS)


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TcmgcWeights) -> Tensor:
    """Return [T, V] fp32."""
    out = torch.empty(len(text["query"]), len(video["forms"]), dtype=torch.float32, device=text["query"].device)
    launch(text, video, weights, out).run()
    return out


def launch(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: TcmgcWeights,
    out: Tensor,
    capability: int | None = None,
) -> Launch:
    """Return the launch that fills `out` [T, V]."""
    query, columns = text["query"].contiguous(), video["columns"].contiguous()
    (T, rows, D), (V, _, F) = query.shape, video["forms"].shape
    words = max(16, triton.next_power_of_2(rows - 1))
    blocks = Blocks(T, V, F, query, TILES, capability, slots=words)
    ones = query.new_ones(T, rows - 1, dtype=torch.bool), query.new_ones(V, F, dtype=torch.bool)
    mixing = torch.zeros(6, KP.value, KP.value, dtype=torch.float32, device=query.device)
    for padded, matrix in zip(mixing, weights[10:16], strict=True):
        padded[: len(matrix), : len(matrix)] = matrix
    tensors = (
        *(query, text["unit"].contiguous(), text["mapped"].contiguous()),
        *(text["shared"].float().contiguous(), text["mapped_shared"].float().contiguous()),
        text.get("mask", ones[0]).contiguous().view(torch.uint8),
        *(columns, video["forms"].float().contiguous(), video.get("mask", ones[1]).contiguous().view(torch.uint8)),
        *(_constants(weights).float(), mixing, weights.fusion.float().contiguous(), out),
    )
    scalars = (T, V, F, D, rows - 1, len(weights.video_word), float(weights.scale), weights.sharpness, D**-0.5)
    grid = (T * triton.cdiv(V, blocks.BV),)
    return Launch(tcmgc_fwd_kernel, grid, (*tensors, *scalars), {**blocks.constants(), "LP": words})


def _constants(weights: TcmgcWeights) -> Tensor:
    """Return what every pair adds to LN3's variance and to |y|^2 (see `folded.py`): [4]."""
    c0, b3 = shift(weights), weights.norm3_bias
    c = weights.norm3_weight * c0
    return torch.stack([c0 @ c0 / len(c0), c @ c, c @ b3, b3 @ b3])
