"""EagleNet in one kernel: a program scores one pair, its noise made in registers, its graph never stored.

The steps (a)-(f) of `folded.py`. The candidates y_s = sigma_s * R are made again wherever a block of D needs them: once
for the logits, once for each C of the messages, once for T; that is cheaper than to keep 20 x D numbers a pair. Scoring
only. Not tuned: no GPU was available.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from tvr_kernels.eaglenet.folded import fold_weights
from tvr_kernels.eaglenet.weights import EPSILON, EagleNetWeights
from tvr_kernels.triton_impl import Launch, supported

VECTORS = ("text", "values", "base", "columns")  # what may be bf16 or fp16; the rest is fp32
SLOTS = 32  # candidates and the caption itself
MAX_FRAMES = 31


@triton.jit
def candidates(
    text_key, video_key, noise, noise_step, cosines, radius_weight, radius_bias, first, F, D, S, draw,
    REPLAY: tl.constexpr, SP: tl.constexpr, FP: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Return y [SP, BK] of dimensions first..first + BK: row 0 (the caption) and rows beyond S are zero.

    REPLAY reads sigma from `noise`, one candidate every `noise_step` numbers, instead of drawing it.
    """
    d, f, s = first + tl.arange(0, BK), tl.arange(0, FP), tl.arange(0, SP)
    inside = (d < D)[:, None] & (f < F)[None, :]
    weight = tl.load(radius_weight + d[:, None] * F + f[None, :], mask=inside, other=0.0)
    radius = tl.exp(tl.sum(weight * cosines[None, :], 1) + tl.load(radius_bias + d, mask=d < D, other=0.0))
    candidate = ((s > 0) & (s <= S))[:, None] & (d < D)[None, :]
    if REPLAY:
        at = (s - 1)[:, None].to(tl.int64) * noise_step + d[None, :]
        sigma = tl.load(noise + at, mask=candidate, other=0.0)
    else:
        block = (first // 4 + tl.arange(0, BK // 4))[None, :] + tl.zeros((SP, BK // 4), tl.int32)
        number = (s - 1 + S * draw)[:, None] + tl.zeros((SP, BK // 4), tl.int32)
        low = tl.zeros((SP, BK // 4), tl.uint32) + video_key.to(tl.uint32)
        high = tl.zeros((SP, BK // 4), tl.uint32) + (video_key >> 32).to(tl.uint32)
        w0, w1, w2, w3 = tl.philox(text_key, block.to(tl.uint32), number.to(tl.uint32), low, high)
        words = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (SP, BK))
        sigma = (words >> 8).to(tl.int32).to(tl.float32) * (2.0**-24)
    return tl.where(candidate, sigma * radius[None, :], 0.0)


@triton.jit
def rows_times(y, matrix, row0, n, first, D, N: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """Return y [SP, BK] @ matrix[row0 : row0 + n, first : first + BK].T, [SP, N]."""
    r, d = tl.arange(0, N), first + tl.arange(0, BK)
    w = tl.load(
        matrix + (row0 + r)[:, None].to(tl.int64) * D + d[None, :], mask=(r < n)[:, None] & (d < D)[None, :], other=0.0
    )
    return tl.dot(y.to(w.dtype), tl.trans(w), input_precision=PRECISION)


@triton.jit
def softmax_of(receiver, sender, real, slope):
    """Return softmax over senders of leaky(receiver_i + sender_j) [I, J], real senders only."""
    logits = receiver[:, None] + sender[None, :]
    logits = tl.where(real[None, :], tl.where(logits > 0, logits, slope * logits), -float("inf"))
    e = tl.exp(logits - tl.max(logits, 1)[:, None])
    return e / tl.sum(e, 1)[:, None]


@triton.jit
def column(tile, index, N: tl.constexpr):
    """Return column `index` of [M, N]."""
    return tl.sum(tl.where((tl.arange(0, N) == index)[None, :], tile, 0.0), 1)


@triton.jit
def form(matrix, x, n, FP: tl.constexpr):
    """Return x' M x of one n x n matrix; x [FP]."""
    f = tl.arange(0, FP)
    inside = (f < n)[:, None] & (f < n)[None, :]
    m = tl.load(matrix + f[:, None] * n + f[None, :], mask=inside, other=0.0).to(tl.float32)
    return tl.sum(tl.sum(m * x[None, :], 1) * x, 0)


@triton.jit
def eaglenet_fwd_kernel(
    text,  # [T, D]
    text_key,  # [T] int64
    message,  # [T, M] fp32, M = 2 D + k + 4 H
    frames,  # [V, F, D] fp32
    video_key,  # [V] int64
    values,  # [V, F, D]
    receiver,  # [V, F, H] fp32
    sender,  # [V, F, H] fp32
    base,  # [V, F, D]
    columns,  # [V, 2 F + 1, D]
    logit_sum,  # [V, F]
    logit_shift,  # [V, F]
    gram2,  # [V, F, F]
    gram3,  # [V, F + 1, F + 1]
    gram_out,  # [V, F + 1, F + 1]
    out_shift,  # [V, F + 1]
    radius_weight,  # [D, F] fp32
    radius_bias,  # [D] fp32
    fold_message,  # [M, D], in the dtype of the vectors
    fold_receiver,  # [H, D] fp32
    fold_sender,  # [H, D] fp32
    last_bias,  # [D] fp32, of LN3
    noise,  # [S, T, V, D] fp32, read if REPLAY
    out,  # [T, V] fp32
    T,
    V,
    F,
    D,
    S,
    draw,
    noise_step,  # T V D
    slope,
    eps,
    REPLAY: tl.constexpr,  # take the candidates' noise from `noise` (golden files) instead of drawing it
    H: tl.constexpr,
    K: tl.constexpr,  # D / H
    C: tl.constexpr,  # divides K
    SP: tl.constexpr,
    FP: tl.constexpr,  # above F
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64)
    t, v = pair // V, pair % V
    s, f, k, h = tl.arange(0, SP), tl.arange(0, FP), tl.arange(0, C), tl.arange(0, 16)
    node, frame = s <= S, f < F
    text, message, frames = text + t * D, message + t * (2 * D + K + 4 * H), frames + v * F * D
    values, base, columns = values + v * F * D, base + v * F * D, columns + v * (2 * F + 1) * D
    seed, clip = tl.load(text_key + t), tl.load(video_key + v)
    noise += pair * D

    # cosines of the caption with the frames, 0 for a zero vector
    dots, squares, square = tl.zeros((FP,), tl.float32), tl.zeros((FP,), tl.float32), 0.0
    for first in range(0, D, BK):
        d = first + tl.arange(0, BK)
        x = tl.load(text + d, mask=d < D, other=0.0).to(tl.float32)
        z = tl.load(frames + f[:, None] * D + d[None, :], mask=frame[:, None] & (d < D)[None, :], other=0.0)
        dots += tl.sum(z * x[None, :], 1)
        squares += tl.sum(z * z, 1)
        square += tl.sum(x * x, 0)
    lengths = tl.sqrt(squares) * tl.sqrt(square)
    cosines = tl.where(lengths > 0, dots / tl.where(lengths > 0, lengths, 1.0), 0.0)

    # (b) logits of the text nodes
    logits = tl.zeros((SP, 16), tl.float32)
    for first in range(0, D, BK):
        y = candidates(
            seed, clip, noise, noise_step, cosines, radius_weight, radius_bias, first, F, D, S, draw,
            REPLAY, SP, FP, BK,
        )  # fmt: skip
        logits += rows_times(y, fold_message, 2 * D + K, 4 * H, first, D, 16, BK, PRECISION)
    logits += tl.load(message + 2 * D + K + h, mask=h < 4 * H, other=0.0)[None, :]

    # (c), (d) the hidden nodes, C dimensions of a head at a time, reduced to the last layer's logit scalars (a)
    to_sender, to_receiver = tl.zeros((SP, 16), tl.float32), tl.zeros((FP, 16), tl.float32)
    for start in range(0, D, C):
        q = start // K
        head, in_head = start + k, start % K + k
        sent_tt, sent_ft = tl.zeros((SP, C), tl.float32), tl.zeros((SP, C), tl.float32)
        sent_out = tl.zeros((SP, C), tl.float32)
        for first in range(0, D, BK):
            y = candidates(
            seed, clip, noise, noise_step, cosines, radius_weight, radius_bias, first, F, D, S, draw,
            REPLAY, SP, FP, BK,
        )  # fmt: skip
            sent_tt += rows_times(y, fold_message, start, C, first, D, C, BK, PRECISION)
            sent_ft += rows_times(y, fold_message, D + start, C, first, D, C, BK, PRECISION)
            sent_out += rows_times(y, fold_message, 2 * D + start % K, C, first, D, C, BK, PRECISION)
        of_frames = tl.load(sender + (v * F + f) * H + q, mask=frame, other=0.0)
        at_frames = tl.load(receiver + (v * F + f) * H + q, mask=frame, other=0.0)
        among = softmax_of(column(logits, q, 16), column(logits, H + q, 16), node, slope)
        texts = tl.dot(among, sent_tt, input_precision=PRECISION) + sent_out
        from_frames = softmax_of(column(logits, 2 * H + q, 16), of_frames, frame, slope)
        at = f[:, None] * D + head[None, :]
        value = tl.load(values + at, mask=frame[:, None], other=0.0).to(tl.float32)
        texts += tl.dot(from_frames, value, input_precision=PRECISION)
        own = tl.load(message + head) + tl.load(message + 2 * D + in_head)
        texts = tl.maximum(texts + own[None, :], 0.0)
        to_frames = softmax_of(at_frames, column(logits, 3 * H + q, 16), node, slope)
        nodes = tl.dot(to_frames, sent_ft, input_precision=PRECISION)
        nodes += tl.load(base + at, mask=frame[:, None], other=0.0).to(tl.float32)
        nodes = tl.maximum(nodes + tl.load(message + D + head)[None, :], 0.0)
        for p in range(0, H):
            share = tl.sum(texts * tl.load(fold_sender + p * D + head)[None, :], 1)
            to_sender += tl.where((h == p)[None, :], share[:, None], 0.0)
            share = tl.sum(nodes * tl.load(fold_receiver + p * D + head)[None, :], 1)
            to_receiver += tl.where((h == p)[None, :], share[:, None], 0.0)
    mean = tl.zeros((SP,), tl.float32)
    for p in range(0, H):
        last = column(to_receiver, p, 16)[:, None] + column(to_sender, p, 16)[None, :]
        last = tl.where(last > 0, last, slope * last)
        mean += tl.sum(tl.where(frame[:, None], last, 0.0), 0)
    mean = tl.where(node, mean / (F * H), -float("inf"))
    weight = tl.exp(mean - tl.max(mean, 0))
    weight = weight / tl.sum(weight, 0)

    # (e) T, (f) its dots with the clip's vectors
    on_key, on_out = tl.zeros((FP,), tl.float32), tl.zeros((FP,), tl.float32)
    total, square, on_bias = 0.0, 0.0, 0.0
    for first in range(0, D, BK):
        d = first + tl.arange(0, BK)
        y = candidates(
            seed, clip, noise, noise_step, cosines, radius_weight, radius_bias, first, F, D, S, draw,
            REPLAY, SP, FP, BK,
        )  # fmt: skip
        z = tl.load(text + d, mask=d < D, other=0.0).to(tl.float32) + tl.sum(y * weight[:, None], 0)
        at = f[:, None] * D + d[None, :]
        rows = tl.load(columns + at, mask=frame[:, None] & (d < D)[None, :], other=0.0).to(tl.float32)
        on_key += tl.sum(rows * z[None, :], 1)
        rows = tl.load(columns + F * D + at, mask=(f <= F)[:, None] & (d < D)[None, :], other=0.0).to(tl.float32)
        on_out += tl.sum(rows * z[None, :], 1)
        total += tl.sum(z, 0)
        square += tl.sum(z * z, 0)
        on_bias += tl.sum(z * tl.load(last_bias + d, mask=d < D, other=0.0), 0)
    average = total / D
    inverse1 = 1.0 / tl.sqrt(square / D - average * average + eps)
    on_key = (on_key - average * tl.load(logit_sum + v * F + f, mask=frame, other=0.0)) * inverse1
    on_key = (on_key + tl.load(logit_shift + v * F + f, mask=frame, other=0.0)) / tl.sqrt(D * 1.0)
    on_key = tl.where(frame, on_key, -float("inf"))
    p = tl.exp(on_key - tl.max(on_key, 0))
    p = p / tl.sum(p, 0)
    x = p / tl.sqrt(form(gram2 + v * F * F, p, F, FP) + eps)
    x = tl.where(f == F, 1.0, x)
    area = (F + 1) * (F + 1)
    scale = 1.0 / tl.sqrt(form(gram3 + v * area, x, F + 1, FP) + eps)
    shift = tl.load(out_shift + v * (F + 1) + f, mask=f <= F, other=0.0)
    bias_square = 0.0
    for first in range(0, D, BK):
        d = first + tl.arange(0, BK)
        b = tl.load(last_bias + d, mask=d < D, other=0.0)
        bias_square += tl.sum(b * b, 0)
    length2 = form(gram_out + v * area, x, F + 1, FP) * scale * scale + 2.0 * scale * tl.sum(x * shift, 0) + bias_square
    score = (tl.sum(x * on_out, 0) * scale + on_bias) / tl.sqrt(length2 * square)
    tl.store(out + pair, score)


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: EagleNetWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    options, (_, F, D) = weights.options, video["frames"].shape
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*text.values(), *video.values())):
        return False, "the kernel has no backward pass"
    plain = (options.prior, options.pool_heads, options.mask_padding) == ("uniform", 1, False)
    if not plain or weights.hidden.out is None:
        return False, "the kernel knows the published head only: RGAT, uniform noise, one pooling head, no masks"
    if options.candidates >= SLOTS or F > MAX_FRAMES or 4 * options.heads > 16:
        return False, f"the kernel holds at most {SLOTS - 1} candidates, {MAX_FRAMES} frames and 4 heads"
    if (D // options.heads) & (D // options.heads - 1) or D // options.heads < 16:
        return False, f"a head has {D // options.heads} dimensions, the kernel needs a power of two from 16"
    return supported({**text, **{f"video {k}": x for k, x in video.items()}, **video}, F, ("values", "base", "columns"))


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: EagleNetWeights) -> Tensor:
    """Return [T, V] fp32."""
    out = torch.empty(len(text["text"]), len(video["frames"]), dtype=torch.float32, device=text["text"].device)
    launch(text, video, weights, out).run()
    return out


def launch(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: EagleNetWeights,
    out: Tensor,
    capability: int | None = None,
) -> Launch:
    """Return the launch that fills `out` [T, V]; one tile serves every device."""
    (T, D), (V, F), options = text["text"].shape, video["frames"].shape[:2], weights.options
    fold, low = fold_weights(weights), video["values"].dtype
    small = ("logit_sum", "logit_shift", "gram2", "gram3", "gram_out", "out_shift")

    def exact(x: Tensor) -> Tensor:
        return x.float().contiguous()

    tensors = (
        *(text["text"].contiguous(), text["key"].contiguous(), exact(text["message"])),
        *(exact(video["frames"]), video["key"].contiguous(), video["values"].contiguous()),
        *(exact(video["receiver"]), exact(video["sender"])),
        *(video["base"].contiguous(), video["columns"].contiguous()),
        *(exact(video[name]) for name in small),
        *(exact(weights.radius.weight), exact(weights.radius.bias), fold.message.to(low).contiguous()),
        *(exact(fold.receiver), exact(fold.sender), exact(weights.pool.norm3.bias)),
        *(out if weights.sigma is None else exact(weights.sigma), out),  # without replay the pointer is never read
    )
    fp32 = low == torch.float32
    constants = {
        **{
            "REPLAY": weights.sigma is not None,
            "H": options.heads,
            "K": D // options.heads,
            "SP": SLOTS,
            "FP": max(16, triton.next_power_of_2(F + 1)),
        },
        **{"C": min(D // options.heads, 64 if fp32 else 128), "BK": 16 if fp32 else 32},
        **{"PRECISION": "tf32x3" if fp32 else "tf32", "num_warps": 8, "num_stages": 2},
    }
    scalars = (T, V, F, D, options.candidates, weights.draw, T * V * D, options.slope, EPSILON)
    return Launch(eaglenet_fwd_kernel, (T * V,), (*tensors, *scalars), constants)
