"""GLCCL behind its GEMM, compiled by numba: a pair at a time in the first-level cache, words along the lanes.

The formulas are those of `folded.py`, with three savings. Both attentions over M share one exponential, exp((M - max
M) / temperature): a row and a column of it differ from their own only by a factor, unless one of them lies so far below
the pair's maximum that it vanishes; such pairs are done again with a maximum a row and a column. A3 M = (A3 W) B' and
M A4' = W (A4 B)' with M = W B', W [L, F] the dots through Lambda and B [L, F] the unit pooled vectors' weights: F is
smaller than L. And nothing of a pair leaves the cache but its four numbers. Slots that a mask leaves out, and those
that fill a vector up, have zeros in W, B and the exponential. X-CLIP's compiled form uses `isa` and its constants too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from tvr_kernels.compiled import array, exp_below_max, product, quadratic, supported, whole
from tvr_kernels.gemm import matmul
from tvr_kernels.glccl import GlcclWeights
from tvr_kernels.vectors import (
    LANES,
    LOG2_E,
    exp2,
    jit,
    largest,
    load,
    maximum,
    minimum,
    multiply_add,
    prefetch,
    splat,
    sqrt,
    store,
    store_totals,
    where_greater,
)

# One block's dots with the frames and through Lambda take 6.7 MB at L = 32, F = 12; smaller ones slow the GEMM down.
_TEXTS, _CLIPS = 32, 64
PAIRS = 4  # that `isa` takes at a time
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
FAR = np.float32(1e30)  # above any cosine
_BELOW_ANY = np.float32(-1e29)
FAINT = np.float32(1e-25)  # a sum of exponentials below it has lost terms that its own row would have kept


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GlcclWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    tensors = {**text, **{f"video {k}": x for k, x in video.items()}}
    maps = {k: x for k, x in weights._asdict().items() if isinstance(x, Tensor)}
    return supported({**tensors, **maps}, video["gram"].shape[-1])


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GlcclWeights) -> Tensor:
    """Return [T, V] fp32; see the package for the inputs."""
    return similarities(text, video, weights).mean(0)


def similarities(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GlcclWeights) -> Tensor:
    """Return VS, VW, SF, FW [4, T, V] fp32."""
    with torch.no_grad():
        (T, slots, _), (V, F, _) = text["query"].shape, video["gram"].shape
        L = slots - 1
        out = torch.empty(4, T, V)
        gram, frame_mask = array(video["gram"]), array(video.get("mask", torch.ones(V, F, dtype=torch.bool)))
        mixing = _mixing(weights, L)
        sharpness, pooling = LOG2_E / np.float32(weights.isa_temperature), 1.0 / weights.temperature
        for i in range(0, T, _TEXTS):
            some = {k: x[i : i + _TEXTS] for k, x in text.items()}
            t = len(some["norm"])
            columns = _columns(some, L)
            scale = some["norm"] * pooling
            of_words, of_sentence = pad(scale[:, :L], (0, whole(L) - L)), pad(scale[:, L], (0, whole(t) - t))
            words = some.get("mask", torch.ones(t, L, dtype=torch.bool))
            real = pad(words.float(), (0, whole(L) - L))
            for j in range(0, V, _CLIPS):
                clips = video["columns"][j : j + _CLIPS]
                dots = matmul(clips.flatten(0, 1), columns.T).view(len(clips), 2 * F, -1)
                block = out[:, i : i + t, j : j + len(clips)]
                _block(
                    *(array(x) for x in (dots, of_words, of_sentence, real)),
                    *(gram[j : j + len(clips)], frame_mask[j : j + len(clips)], mixing, sharpness, L, block.numpy()),
                )
        return out


def _columns(text: Mapping[str, Tensor], L: int) -> Tensor:
    """Return the captions' vectors for the GEMM: all words, caption by caption, then all sentences, then G of them.

    Zeros at the end let a vector that starts at the last word or sentence of all stay within the products.
    """
    query, mapped = text["query"], text["mapped"]
    T = len(query)
    more = max(0, whole(L) - L - 2 * T, whole(T) - T)
    return torch.cat([query[:, :L].flatten(0, 1), query[:, L], mapped, mapped.new_zeros(more, mapped.shape[1])])


def _mixing(weights: GlcclWeights, L: int) -> np.ndarray:
    """Return A1, A2, A5, A6, A3', A4', each filled with zeros to whole vectors. [6, L', L']"""
    w, more = weights, whole(L) - L
    maps = (w.video_word, w.sentence_frame, w.then_frames, w.then_words, w.over_words.T, w.over_frames.T)
    return array(pad(torch.stack(maps), (0, more, 0, more)))


@jit
def _block(dots, of_words, of_sentence, real, gram, frame_mask, mixing, sharpness, L, out):
    """Fill out [4, t, v] from dots [v, 2F, words | sentences | mapped sentences ...] of `_columns`."""
    (V, F), T = frame_mask.shape, real.shape[0]
    P = real.shape[1]  # L, filled up to whole vectors
    F4, rows = -(-F // 4) * 4, -(-L // 4) * 4
    words, pooled = np.zeros((F4, P), np.float32), np.zeros((F4, P), np.float32)  # W', B'
    mixed_words, mixed_pooled = np.zeros((F4, P), np.float32), np.zeros((F4, P), np.float32)  # (A3 W)', (A4 B)'
    e = np.zeros((P, P), np.float32)
    block, sentences = np.empty((F, LANES), np.float32), np.empty((F, len(of_sentence)), np.float32)
    vectors, sums = np.zeros((4, PAIRS, P), np.float32), np.zeros((3, P), np.float32)
    weight, numbers = np.empty((PAIRS, P), np.float32), np.empty((2, PAIRS), np.float32)
    answers, video_sentence = np.empty((4, PAIRS), np.float32), np.empty(len(of_sentence), np.float32)
    over_words, over_frames = mixing[4], mixing[5]
    for v in range(V):
        _pool_sentences(dots, v, T, T * L, of_sentence, gram, frame_mask, block, sentences, video_sentence)
        for t in range(T):
            first, own, pair = t * L, T * L + t, v * T + t
            k = pair % PAIRS
            for c in range(0, P, LANES):
                kept = load(real, (t, c))
                for f in range(F):
                    store(words, (f, c), load(dots, (v, F + f, first + c)) * kept)
                    store(block, (f, 0), load(dots, (v, f, first + c)) * load(of_words, (t, c)))
                exp_below_max(block, frame_mask, v, _ONE)
                factor = kept / sqrt(quadratic(gram, v, 0, block))
                by_sentence, by_words = splat(_ZERO), splat(_ZERO)
                for f in range(F):
                    unit = load(block, (f, 0)) * factor
                    store(pooled, (f, c), unit)
                    by_words = by_words + load(dots, (v, f, first + c)) * sentences[f, t]  # <w_i, g>
                    by_sentence = by_sentence + unit * dots[v, f, own]  # <s, f_j>
                store(vectors, (0, k, c), by_words)
                store(vectors, (1, k, c), by_sentence)
            for c in range(0, P, LANES):
                for f in range(F):
                    prefetch(dots, (v, f, first + L + c))  # the next caption's, which lies across 2F rows
            _mix(words, over_words, mixed_words, L)
            for c in range(0, P, LANES):
                for f in range(F):
                    prefetch(dots, (v, F + f, first + L + c))
            _mix(pooled, over_frames, mixed_pooled, L)
            _attend(words, pooled, mixed_words, mixed_pooled, real, t, k, sharpness, F, rows, e, sums, vectors)
            for c in range(0, P, LANES):
                absent = (splat(_ONE) - load(real, (t, c))) * FAR
                for n in range(4):
                    store(vectors, (n, k, c), load(vectors, (n, k, c)) - absent)
            out[0, t, v] = video_sentence[t]
            if k == PAIRS - 1 or pair == V * T - 1:
                for n in range(4):
                    isa(vectors, n, mixing, sharpness, L, weight, numbers, answers)
                for other in range(k + 1):
                    v1, t1 = divmod(pair - k + other, T)
                    out[1, t1, v1] = answers[0, other]
                    out[2, t1, v1] = answers[1, other]
                    out[3, t1, v1] = (answers[2, other] + answers[3, other]) / np.float32(2.0)


@jit
def _pool_sentences(dots, v, T, first, scale, gram, frame_mask, block, weights, seen):
    """Fill weights [F, T'] with the unit pooled vectors' weights of all sentences, and seen [T'] with VS.

    Their dots begin at column `first`, those of the mapped sentences T later.
    """
    for c in range(0, len(scale), LANES):
        for f in range(len(block)):
            store(block, (f, 0), load(dots, (v, f, first + c)) * load(scale, (c,)))
        exp_below_max(block, frame_mask, v, _ONE)
        factor = splat(_ONE) / sqrt(quadratic(gram, v, 0, block))
        result = splat(_ZERO)
        for f in range(len(block)):
            unit = load(block, (f, 0)) * factor
            store(weights, (f, c), unit)
            result = result + unit * load(dots, (v, f, first + T + c))
        store(seen, (c,), result)


@jit
def rows_of_product(left, right, f, c, n):
    """Return rows f ... f + 3 of left right, lanes c and following; left: [F, n or more], right: [n or more, P]."""
    row0, row1, row2, row3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
    for k in range(n):
        x = load(right, (k, c))
        row0 = row0 + left[f, k] * x
        row1 = row1 + left[f + 1, k] * x
        row2 = row2 + left[f + 2, k] * x
        row3 = row3 + left[f + 3, k] * x
    return row0, row1, row2, row3


@jit
def _mix(x, mixing, out, L):
    """Fill out [F, P] with x [F, P] times mixing: rows are frames, words mix."""
    for f in range(0, x.shape[0], 4):
        for c in range(0, x.shape[1], LANES):
            row0, row1, row2, row3 = rows_of_product(x, mixing, f, c, L)
            store(out, (f, c), row0)
            store(out, (f + 1, c), row1)
            store(out, (f + 2, c), row2)
            store(out, (f + 3, c), row3)


@jit
def _attend(words, pooled, mixed_words, mixed_pooled, real, t, k, sharpness, F, rows, e, sums, vectors):
    """Fill vectors[2, k] with r and vectors[3, k] with q: M attended to over the words and over the frame slots."""
    P = e.shape[1]
    top = splat(_multiply(words, pooled, F, rows, e))
    for c in range(0, P, LANES):
        _exponentials(e, c, top, sharpness, real, t, rows, sums)
    _over_words(mixed_words, pooled, e, sums, rows, k, vectors)
    _over_frames(words, mixed_pooled, e, real, t, F, rows, k, sums, vectors)
    least = splat(FAR)
    for c in range(0, P, LANES):
        least = minimum(least, minimum(load(sums, (0, c)), load(sums, (1, c))))
    if -largest(splat(_ZERO) - least) > FAINT:
        return
    _multiply(words, pooled, F, rows, e)
    for c in range(0, P, LANES):
        top = splat(-FAR)
        for i in range(rows):
            if real[t, i] > _ZERO:
                top = maximum(top, load(e, (i, c)))
        _exponentials(e, c, top, sharpness, real, t, rows, sums)
    _over_words(mixed_words, pooled, e, sums, rows, k, vectors)
    _multiply(words, pooled, F, rows, e)
    for i in range(rows):
        highest = -FAR
        for j in range(P):
            if real[t, j] > _ZERO:
                highest = max(highest, e[i, j])
        for c in range(0, P, LANES):
            x = below(load(e, (i, c)), splat(-highest * sharpness), sharpness)
            store(e, (i, c), x * (load(real, (t, c)) * real[t, i]))
    _over_frames(words, mixed_pooled, e, real, t, F, rows, k, sums, vectors)


@jit
def _multiply(words, pooled, F, rows, out):
    """Fill out [L', L'] with M, and return the largest of it."""
    top = splat(-FAR)
    for c in range(0, out.shape[1], LANES):
        for i in range(0, rows, 4):
            row0, row1, row2, row3 = product(words, pooled, i, c, F)
            store(out, (i, c), row0)
            store(out, (i + 1, c), row1)
            store(out, (i + 2, c), row2)
            store(out, (i + 3, c), row3)
            top = maximum(top, maximum(maximum(row0, row1), maximum(row2, row3)))
    return largest(top)


@jit
def _exponentials(e, c, top, sharpness, real, t, rows, sums):
    """Replace M in lanes c and following of e by exp((M - top) / temperature), 0 at slots that are not real.

    Those of sums[0] become the sums of e's columns, 1 where they are not real.
    """
    kept, shift = load(real, (t, c)), splat(_ZERO) - top * sharpness
    number = splat(_ONE) - kept
    for i in range(rows):
        if real[t, i] > _ZERO:
            x = below(load(e, (i, c)), shift, sharpness) * kept
            store(e, (i, c), x)
            number = number + x
        else:
            store(e, (i, c), splat(_ZERO))
    store(sums, (0, c), number)


@jit
def below(x, shift, sharpness):
    """Return exp(x / temperature + shift), at most 1: a slot that does not count may lie above the top."""
    return exp2(minimum(multiply_add(x, splat(sharpness), shift), splat(_ZERO)))


@jit
def _over_words(mixed_words, pooled, e, sums, rows, k, vectors):
    """Fill vectors[2, k] with r_j = sum_i e_ij (A3 M)_ij / sum_i e_ij.

    (A3 M)_ij = sum_f (A3 W)_if B_jf, so the sum over i goes first.
    """
    for c in range(0, e.shape[1], LANES):
        result = splat(_ZERO)
        for f in range(0, pooled.shape[0], 4):
            row0, row1, row2, row3 = rows_of_product(mixed_words, e, f, c, rows)
            result = result + (row0 * load(pooled, (f, c)) + row1 * load(pooled, (f + 1, c)))
            result = result + (row2 * load(pooled, (f + 2, c)) + row3 * load(pooled, (f + 3, c)))
        store(vectors, (2, k, c), result / load(sums, (0, c)))


@jit
def _over_frames(words, mixed_pooled, e, real, t, F, rows, k, sums, vectors):
    """Fill vectors[3, k] with q_i = sum_j e_ij (M A4')_ij / sum_j e_ij, sums[1] with what it is divided by."""
    for i in range(0, rows, 4):
        sum0, sum1, sum2, sum3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
        for c in range(0, e.shape[1], LANES):
            row0, row1, row2, row3 = product(words, mixed_pooled, i, c, F)
            sum0 = sum0 + row0 * load(e, (i, c))
            sum1 = sum1 + row1 * load(e, (i + 1, c))
            sum2 = sum2 + row2 * load(e, (i + 2, c))
            sum3 = sum3 + row3 * load(e, (i + 3, c))
        store_totals(vectors, (3, k, i), sum0, sum1, sum2, sum3)
        sum0, sum1, sum2, sum3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
        for c in range(0, e.shape[1], LANES):
            sum0, sum1 = sum0 + load(e, (i, c)), sum1 + load(e, (i + 1, c))
            sum2, sum3 = sum2 + load(e, (i + 2, c)), sum3 + load(e, (i + 3, c))
        store_totals(sums, (2, i), sum0, sum1, sum2, sum3)
    for c in range(0, e.shape[1], LANES):
        number = load(sums, (2, c)) + (splat(_ONE) - load(real, (t, c)))
        store(sums, (1, c), number)
        store(vectors, (3, k, c), load(vectors, (3, k, c)) / number)


@jit
def isa(vectors, n, mixing, sharpness, L, weight, numbers, answers):
    """Fill answers[n] with sum_j m_j sum_i softmax(m / temperature)_i A_ij of PAIRS pairs, A = mixing[n].

    vectors[n]: their m, -FAR where a slot does not count. Together, because each alone is a chain of steps that wait
    for one another, and A is read once.
    """
    P = weight.shape[1]
    for k in range(PAIRS):
        top = splat(-FAR)
        for c in range(0, P, LANES):
            top = maximum(top, load(vectors, (n, k, c)))
        highest = largest(top)
        for c in range(0, P, LANES):
            store(weight, (k, c), exp2((load(vectors, (n, k, c)) - highest) * sharpness))
    sum0, sum1, sum2, sum3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
    for c in range(0, P, LANES):
        sum0, sum1 = sum0 + load(weight, (0, c)), sum1 + load(weight, (1, c))
        sum2, sum3 = sum2 + load(weight, (2, c)), sum3 + load(weight, (3, c))
    store_totals(numbers, (0, 0), sum0, sum1, sum2, sum3)
    sum0, sum1, sum2, sum3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
    for c in range(0, P, LANES):
        row0, row1, row2, row3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
        for i in range(L):
            m = load(mixing, (n, i, c))
            row0, row1 = row0 + weight[0, i] * m, row1 + weight[1, i] * m
            row2, row3 = row2 + weight[2, i] * m, row3 + weight[3, i] * m
        sum0, sum1 = sum0 + row0 * _counted(vectors, n, 0, c), sum1 + row1 * _counted(vectors, n, 1, c)
        sum2, sum3 = sum2 + row2 * _counted(vectors, n, 2, c), sum3 + row3 * _counted(vectors, n, 3, c)
    store_totals(numbers, (1, 0), sum0, sum1, sum2, sum3)
    for k in range(PAIRS):
        answers[n, k] = numbers[1, k] / numbers[0, k]


@jit
def _counted(vectors, n, k, c):
    """Return m, 0 where it does not count."""
    m = load(vectors, (n, k, c))
    return where_greater(m, splat(_BELOW_ANY), m, splat(_ZERO))
