"""GLCCL behind its GEMM, compiled by numba: a pair at a time in the first-level cache, words along the lanes.

The formulas are those of `folded.py`, with three savings. Both attentions over M share one exponential, exp((M - max
M) / temperature): a row and a column of it differ from their own only by a factor, unless one of them lies so far below
the pair's maximum that it vanishes; such pairs are done again with a maximum a row and a column. A3 M = (A3 W) B' and
M A4' = W (A4 B)' with M = W B', W [L, F] the dots through Lambda and B [L, F] the unit pooled vectors' weights: F is
smaller than L. And nothing of a pair leaves the cache but its four numbers. Slots that a mask leaves out, and those
that fill a vector up, have zeros in W, B and the exponential.
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
from tvr_kernels.vectors import LANES, exp, jit, largest, load, maximum, minimum, prefetch, splat, sqrt, store, total

# One block's dots with the frames and through Lambda take 6.7 MB at L = 32, F = 12; smaller ones slow the GEMM down.
_TEXTS, _CLIPS = 32, 64
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_FAR = np.float32(1e30)  # above any cosine
_FAINT = np.float32(1e-25)  # a sum of exponentials below it has lost terms that its own row would have kept


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
        inverse, pooling = np.float32(1.0 / weights.isa_temperature), 1.0 / weights.temperature
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
                    *(gram[j : j + len(clips)], frame_mask[j : j + len(clips)], mixing, inverse, L, block.numpy()),
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
def _block(dots, of_words, of_sentence, real, gram, frame_mask, mixing, inverse, L, out):
    """Fill out [4, t, v] from dots [v, 2F, words | sentences | mapped sentences ...] of `_columns`."""
    (V, F), T = frame_mask.shape, real.shape[0]
    P = real.shape[1]  # L, filled up to whole vectors
    F4, rows = -(-F // 4) * 4, -(-L // 4) * 4
    words, pooled = np.zeros((F4, P), np.float32), np.zeros((F4, P), np.float32)  # W', B'
    mixed_words, mixed_pooled = np.zeros((F4, P), np.float32), np.zeros((F4, P), np.float32)  # (A3 W)', (A4 B)'
    matrix, e = np.zeros((P, P), np.float32), np.zeros((P, P), np.float32)
    block, sentences = np.empty((F, LANES), np.float32), np.empty((F, len(of_sentence)), np.float32)
    vectors, sums = np.zeros((4, P), np.float32), np.zeros((2, P), np.float32)
    weight, answers = np.empty((4, P), np.float32), np.empty(4, np.float32)
    video_sentence = np.empty(len(of_sentence), np.float32)
    for v in range(V):
        _pool_sentences(dots, v, T, T * L, of_sentence, gram, frame_mask, block, sentences, video_sentence)
        for t in range(T):
            first, own = t * L, T * L + t
            for c in range(0, P, LANES):
                kept = load(real, (t, c))
                for f in range(F):
                    prefetch(dots, (v, f, first + L + c))  # the next caption's, which lies across 2F rows
                    prefetch(dots, (v, F + f, first + L + c))
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
                store(vectors, (0, c), by_words * kept)
                store(vectors, (1, c), by_sentence)
            _mix(mixing, 4, words, mixed_words, L)
            _mix(mixing, 5, pooled, mixed_pooled, L)
            _attend(words, pooled, mixed_words, mixed_pooled, real, t, inverse, F, rows, matrix, e, sums, vectors)
            _isa(vectors, mixing, real, t, inverse, weight, L, answers)
            out[0, t, v] = video_sentence[t]
            out[1, t, v] = answers[0]
            out[2, t, v] = answers[1]
            out[3, t, v] = (answers[2] + answers[3]) / np.float32(2.0)


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
def _mix(mixing, which, x, out, L):
    """Fill out [F, P] with x [F, P] times mixing[which]: rows are frames, words mix."""
    for f in range(0, x.shape[0], 4):
        for c in range(0, x.shape[1], LANES):
            row0, row1, row2, row3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
            for k in range(L):
                m = load(mixing, (which, k, c))
                row0 = row0 + x[f, k] * m
                row1 = row1 + x[f + 1, k] * m
                row2 = row2 + x[f + 2, k] * m
                row3 = row3 + x[f + 3, k] * m
            store(out, (f, c), row0)
            store(out, (f + 1, c), row1)
            store(out, (f + 2, c), row2)
            store(out, (f + 3, c), row3)


@jit
def _attend(words, pooled, mixed_words, mixed_pooled, real, t, inverse, F, rows, matrix, e, sums, vectors):
    """Fill vectors[2] with r and vectors[3] with q: M attended to over the words and over the frame slots."""
    P = matrix.shape[1]
    top = splat(np.float32(-np.inf))
    for c in range(0, P, LANES):
        for i in range(0, rows, 4):
            row0, row1, row2, row3 = product(words, pooled, i, c, F)
            store(matrix, (i, c), row0)
            store(matrix, (i + 1, c), row1)
            store(matrix, (i + 2, c), row2)
            store(matrix, (i + 3, c), row3)
            top = maximum(top, maximum(maximum(row0, row1), maximum(row2, row3)))
    highest = largest(top)
    for c in range(0, P, LANES):
        kept = load(real, (t, c))
        for i in range(rows):
            store(e, (i, c), _below(load(matrix, (i, c)), highest, inverse) * (kept * real[t, i]))
    if _sum_both(e, real, t, rows, sums):
        _over_words(mixed_words, pooled, e, sums, F, rows, vectors)
        _over_frames(words, mixed_pooled, e, sums, F, rows, vectors)
        return
    for c in range(0, P, LANES):
        top = splat(np.float32(-np.inf))
        for i in range(rows):
            if real[t, i] > _ZERO:
                top = maximum(top, load(matrix, (i, c)))
        for i in range(rows):
            store(e, (i, c), _below(load(matrix, (i, c)), top, inverse) * (load(real, (t, c)) * real[t, i]))
    _sum_both(e, real, t, rows, sums)
    _over_words(mixed_words, pooled, e, sums, F, rows, vectors)
    for i in range(rows):
        highest = np.float32(-np.inf)
        for j in range(P):
            if real[t, j] > _ZERO:
                highest = max(highest, matrix[i, j])
        for c in range(0, P, LANES):
            store(e, (i, c), _below(load(matrix, (i, c)), highest, inverse) * (load(real, (t, c)) * real[t, i]))
    _sum_both(e, real, t, rows, sums)
    _over_frames(words, mixed_pooled, e, sums, F, rows, vectors)


@jit
def _below(x, top, inverse):
    """Return exp((x - top) / temperature), at most 1: a slot that does not count may lie above the top."""
    return exp(minimum((x - top) * inverse, splat(_ZERO)))


@jit
def _sum_both(e, real, t, rows, sums):
    """Fill sums with those over the columns and over the rows of e, 1 at slots that are not real.

    Returns whether none of them is faint.
    """
    P = e.shape[1]
    for c in range(0, P, LANES):
        column = splat(_ONE) - load(real, (t, c))
        for i in range(rows):
            column = column + load(e, (i, c))
        store(sums, (0, c), column)
    bright = True
    for i in range(P):
        row = _ONE - real[t, i]
        if i < rows:
            for c in range(0, P, LANES):
                row += total(load(e, (i, c)))
        sums[1, i] = row
        bright = bright and row > _FAINT and sums[0, i] > _FAINT
    return bright


@jit
def _over_words(mixed_words, pooled, e, sums, F, rows, vectors):
    """Fill vectors[2] with r_j = sum_i e_ij (A3 M)_ij / sum_i e_ij."""
    for c in range(0, e.shape[1], LANES):
        result = splat(_ZERO)
        for i in range(0, rows, 4):
            row0, row1, row2, row3 = product(mixed_words, pooled, i, c, F)
            result = result + (row0 * load(e, (i, c)) + row1 * load(e, (i + 1, c)))
            result = result + (row2 * load(e, (i + 2, c)) + row3 * load(e, (i + 3, c)))
        store(vectors, (2, c), result / load(sums, (0, c)))


@jit
def _over_frames(words, mixed_pooled, e, sums, F, rows, vectors):
    """Fill vectors[3] with q_i = sum_j e_ij (M A4')_ij / sum_j e_ij."""
    for i in range(0, rows, 4):
        sum0, sum1, sum2, sum3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
        for c in range(0, e.shape[1], LANES):
            row0, row1, row2, row3 = product(words, mixed_pooled, i, c, F)
            sum0 = sum0 + row0 * load(e, (i, c))
            sum1 = sum1 + row1 * load(e, (i + 1, c))
            sum2 = sum2 + row2 * load(e, (i + 2, c))
            sum3 = sum3 + row3 * load(e, (i + 3, c))
        vectors[3, i] = total(sum0) / sums[1, i]
        vectors[3, i + 1] = total(sum1) / sums[1, i + 1]
        vectors[3, i + 2] = total(sum2) / sums[1, i + 2]
        vectors[3, i + 3] = total(sum3) / sums[1, i + 3]


@jit
def _isa(vectors, mixing, real, t, inverse, weight, L, answers):
    """Fill answers[n] with sum_j m_j sum_i softmax(m / temperature)_i A_ij, m = vectors[n], A = mixing[n], n < 4.

    All four at a time, because each alone is a chain of steps that wait for one another.
    """
    P = vectors.shape[1]
    for n in range(4):
        top, number = splat(-_FAR), splat(_ZERO)
        for c in range(0, P, LANES):
            top = maximum(top, load(vectors, (n, c)) - (_ONE - load(real, (t, c))) * _FAR)
        highest = largest(top)
        for c in range(0, P, LANES):
            x = _below(load(vectors, (n, c)), highest, inverse) * load(real, (t, c))
            number = number + x
            store(weight, (n, c), x)
        answers[n] = _ONE / total(number)
    sum0, sum1, sum2, sum3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
    for c in range(0, P, LANES):
        row0, row1, row2, row3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
        for i in range(L):
            row0 = row0 + weight[0, i] * load(mixing, (0, i, c))
            row1 = row1 + weight[1, i] * load(mixing, (1, i, c))
            row2 = row2 + weight[2, i] * load(mixing, (2, i, c))
            row3 = row3 + weight[3, i] * load(mixing, (3, i, c))
        kept = load(real, (t, c))
        sum0 = sum0 + row0 * (load(vectors, (0, c)) * kept)
        sum1 = sum1 + row1 * (load(vectors, (1, c)) * kept)
        sum2 = sum2 + row2 * (load(vectors, (2, c)) * kept)
        sum3 = sum3 + row3 * (load(vectors, (3, c)) * kept)
    answers[0] *= total(sum0)
    answers[1] *= total(sum1)
    answers[2] *= total(sum2)
    answers[3] *= total(sum3)
