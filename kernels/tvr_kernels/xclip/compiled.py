"""X-CLIP behind its GEMMs, compiled by numba: a pair's table in the first-level cache, words along the lanes.

The formulas are those of `folded.py`. The attentions over words and over frames share one exponential, exp((M - max
M) / temperature), as in GLCCL's compiled form, and as there a pair of which it loses a row or a column is done again
with a maximum each. SF has captions along the lanes instead. Slots that a mask leaves out, and those that fill a vector
up, have zeros in M and in the exponential.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from tvr_kernels.compiled import array, supported, whole
from tvr_kernels.gemm import matmul
from tvr_kernels.glccl.compiled import FAINT, FAR, PAIRS, below, isa, rows_of_product
from tvr_kernels.vectors import (
    LANES,
    LOG2_E,
    exp2,
    jit,
    largest,
    load,
    maximum,
    minimum,
    prefetch,
    splat,
    store,
    store_totals,
)
from tvr_kernels.xclip import XClipWeights

# One block's table takes 6.5 MB at L = 32, F = 12.
_TEXTS, _CLIPS = 32, 128
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XClipWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    tensors = {**text, **{f"video {k}": x for k, x in video.items()}}
    maps = {k: x for k, x in weights._asdict().items() if isinstance(x, Tensor)}
    return supported({**tensors, **maps}, video["frames"].shape[1])


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XClipWeights) -> Tensor:
    """Return [T, V] fp32; see the package for the inputs."""
    return similarities(text, video, weights).mean(0)


def similarities(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XClipWeights) -> Tensor:
    """Return VS, VW, SF, FW [4, T, V] fp32."""
    with torch.no_grad():
        (T, L, _), (V, F, _) = text["words"].shape, video["frames"].shape
        out = torch.empty(4, T, V)
        shown = array(pad(video.get("mask", torch.ones(V, F, dtype=torch.bool)).float(), (0, whole(F) - F)))
        words = _filled(weights.video_word, weights.then_words, weights.over_words.T)
        frames = _filled(weights.sentence_frame, weights.then_frames, weights.over_frames)
        sharpness = LOG2_E / np.float32(weights.isa_temperature)
        for i in range(0, T, _TEXTS):
            some = {k: x[i : i + _TEXTS] for k, x in text.items()}
            t = len(some["words"])
            real = array(pad(some.get("mask", torch.ones(t, L, dtype=torch.bool)).float(), (0, whole(L) - L)))
            of_frames, of_video = _columns(some["local"], some["sentence"]), _columns(some["words"], some["mapped"])
            for j in range(0, V, _CLIPS):
                clips = slice(j, min(V, j + _CLIPS))
                dots = matmul(video["frames"][clips].flatten(0, 1), of_frames.T).view(clips.stop - j, F, -1)
                seen = matmul(video["video"][clips], of_video.T)
                block = out[:, i : i + t, clips].numpy()
                _block(array(dots), array(seen), real, shown[clips], words, frames, sharpness, L, block)
        return out


def _columns(words: Tensor, sentences: Tensor) -> Tensor:
    """Return captions' vectors for a GEMM: words [T, L, D], caption by caption, then sentences [T, D].

    Zeros at the end let a vector that starts at the last word or sentence of all stay within the products.
    """
    (T, L, D) = words.shape
    more = max(whole(L) - L - T, whole(T) - T, 0)
    return torch.cat([words.flatten(0, 1), sentences, sentences.new_zeros(more, D)])


def _filled(*maps: Tensor) -> np.ndarray:
    """Return square matrices of one size, filled with zeros to whole vectors. [n, P, P]"""
    more = whole(len(maps[0])) - len(maps[0])
    return array(pad(torch.stack(maps), (0, more, 0, more)))


@jit
def _block(dots, seen, real, shown, word_maps, frame_maps, sharpness, L, out):
    """Fill out [4, t, v] from dots [v, F, local words | sentences ...] and seen [v, words | mapped sentences ...].

    word_maps: A1, A6, A3'   frame_maps: A2, A5, A4
    """
    (V, F), T, P, Q = dots.shape[:2], real.shape[0], real.shape[1], shown.shape[1]
    F4 = -(-F // 4) * 4
    table, e = np.zeros((F4, P), np.float32), np.zeros((F4, P), np.float32)  # M', frames x words
    of_words, of_frames = np.zeros((2, PAIRS, P), np.float32), np.zeros((1, PAIRS, Q), np.float32)
    sums, left = np.zeros((2, P), np.float32), np.zeros((3, Q), np.float32)
    word_weight, frame_weight = np.empty((PAIRS, P), np.float32), np.empty((PAIRS, Q), np.float32)
    numbers, answers = np.empty((2, PAIRS), np.float32), np.empty((2, PAIRS), np.float32)
    over_frames = np.empty((1, PAIRS), np.float32)
    of_r = frame_maps[1:2]
    lanes = np.zeros((2, Q, LANES), np.float32)
    sentence_frame = np.empty(-(-T // LANES) * LANES, np.float32)
    mix_words, mix_frames = word_maps[2], frame_maps[2]
    for v in range(V):
        _sentence_frame(dots, v, T * L, shown, frame_maps[0], sharpness, lanes, sentence_frame)
        for t in range(T):
            first, pair = t * L, v * T + t
            k = pair % PAIRS
            top = splat(-FAR)
            for c in range(0, P, LANES):
                kept = load(real, (t, c))
                store(of_words, (0, k, c), load(seen, (v, first + c)) - (_ONE - kept) * FAR)
                for f in range(F):
                    x = load(dots, (v, f, first + c)) * (kept * shown[v, f])
                    store(table, (f, c), x)
                    top = maximum(top, x)
            for c in range(0, P, LANES):
                for f in range(F):
                    prefetch(dots, (v, f, first + L + c))  # the next caption's, which lies across F rows
            _attend(table, mix_words, mix_frames, real, t, shown, v, largest(top), sharpness, L, F, e, sums, left)
            for c in range(0, P, LANES):
                store(of_words, (1, k, c), load(sums, (1, c)) - (_ONE - load(real, (t, c))) * FAR)
            for c in range(0, Q, LANES):
                store(of_frames, (0, k, c), load(left, (1, c)) - (_ONE - load(shown, (v, c))) * FAR)
            out[0, t, v], out[2, t, v] = seen[v, T * L + t], sentence_frame[t]
            if k == PAIRS - 1 or pair == V * T - 1:
                isa(of_words, 0, word_maps, sharpness, L, word_weight, numbers, answers)
                isa(of_words, 1, word_maps, sharpness, L, word_weight, numbers, answers)
                isa(of_frames, 0, of_r, sharpness, F, frame_weight, numbers, over_frames)
                for other in range(k + 1):
                    v1, t1 = divmod(pair - k + other, T)
                    out[1, t1, v1] = answers[0, other]
                    out[3, t1, v1] = (over_frames[0, other] + answers[1, other]) / np.float32(2.0)


@jit
def _sentence_frame(dots, v, first, shown, mixing, sharpness, lanes, out):
    """Fill out [T'] with SF of all sentences, whose dots begin at column `first`. lanes: room for 2 [Q, LANES]."""
    F = dots.shape[1]
    for c in range(0, len(out), LANES):
        top, number, result = splat(-FAR), splat(_ZERO), splat(_ZERO)
        for f in range(F):
            x = load(dots, (v, f, first + c)) * shown[v, f]
            store(lanes, (0, f, 0), x)
            top = maximum(top, x - (_ONE - shown[v, f]) * FAR)
        for f in range(F):
            # at most 1: a frame that does not count may lie above the top
            x = exp2(minimum((load(lanes, (0, f, 0)) - top) * sharpness, splat(_ZERO))) * shown[v, f]
            store(lanes, (1, f, 0), x)
            number = number + x
        for f in range(F):
            mixed = splat(_ZERO)
            for g in range(F):
                mixed = mixed + mixing[f, g] * load(lanes, (0, g, 0))
            result = result + mixed * load(lanes, (1, f, 0))
        store(out, (c,), result / number)


@jit
def _attend(table, mix_words, mix_frames, real, t, shown, v, highest, sharpness, L, F, e, sums, left):
    """Fill sums[1] with q and left[1] with r: M attended to over the frames and over the words."""
    P, least = table.shape[1], splat(FAR)
    for c in range(0, P, LANES):
        _exponentials(table, c, splat(highest), sharpness, real, t, shown, v, F, e, sums)
        _over_frames(table, mix_frames, e, sums, c, F)
        least = minimum(least, load(sums, (0, c)))
    _over_words(table, mix_words, e, shown, v, L, left)
    for c in range(0, left.shape[1], LANES):
        least = minimum(least, load(left, (0, c)))
    if -largest(splat(_ZERO) - least) > FAINT:
        return
    for c in range(0, P, LANES):
        top = splat(-FAR)
        for f in range(F):
            top = maximum(top, load(table, (f, c)) - (_ONE - shown[v, f]) * FAR)
        _exponentials(table, c, top, sharpness, real, t, shown, v, F, e, sums)
        _over_frames(table, mix_frames, e, sums, c, F)
    for f in range(F):
        top = splat(-FAR)
        for c in range(0, P, LANES):
            top = maximum(top, load(table, (f, c)) - (splat(_ONE) - load(real, (t, c))) * FAR)
        shift = splat(-largest(top) * sharpness)
        for c in range(0, P, LANES):
            store(e, (f, c), below(load(table, (f, c)), shift, sharpness) * (load(real, (t, c)) * shown[v, f]))
    _over_words(table, mix_words, e, shown, v, L, left)


@jit
def _exponentials(table, c, top, sharpness, real, t, shown, v, F, e, sums):
    """Fill lanes c and following of e with exp((M - top) / temperature), 0 at slots that do not count.

    Those of sums[0] become the sums of e's columns, 1 at words that do not count.
    """
    kept, shift = load(real, (t, c)), splat(_ZERO) - top * sharpness
    number = splat(_ONE) - kept
    for f in range(F):
        x = below(load(table, (f, c)), shift, sharpness) * (kept * shown[v, f])
        store(e, (f, c), x)
        number = number + x
    store(sums, (0, c), number)


@jit
def _over_frames(table, mixing, e, sums, c, F):
    """Fill lanes c and following of sums[1] with q_l = sum_f e_fl (A4 M')_fl / sum_f e_fl."""
    result = splat(_ZERO)
    for f in range(0, table.shape[0], 4):
        row0, row1, row2, row3 = rows_of_product(mixing, table, f, c, F)
        result = result + (row0 * load(e, (f, c)) + row1 * load(e, (f + 1, c)))
        result = result + (row2 * load(e, (f + 2, c)) + row3 * load(e, (f + 3, c)))
    store(sums, (1, c), result / load(sums, (0, c)))


@jit
def _over_words(table, mixing, e, shown, v, L, left):
    """Fill left[1] with r_f = sum_l e_fl (M' A3')_fl / sum_l e_fl, and left[0] with what it is divided by."""
    for f in range(0, table.shape[0], 4):
        sum0, sum1, sum2, sum3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
        for c in range(0, table.shape[1], LANES):
            row0, row1, row2, row3 = rows_of_product(table, mixing, f, c, L)
            sum0, sum1 = sum0 + row0 * load(e, (f, c)), sum1 + row1 * load(e, (f + 1, c))
            sum2, sum3 = sum2 + row2 * load(e, (f + 2, c)), sum3 + row3 * load(e, (f + 3, c))
        store_totals(left, (1, f), sum0, sum1, sum2, sum3)
        sum0, sum1, sum2, sum3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
        for c in range(0, table.shape[1], LANES):
            sum0, sum1 = sum0 + load(e, (f, c)), sum1 + load(e, (f + 1, c))
            sum2, sum3 = sum2 + load(e, (f + 2, c)), sum3 + load(e, (f + 3, c))
        store_totals(left, (2, f), sum0, sum1, sum2, sum3)
    for c in range(0, left.shape[1], LANES):
        number = load(left, (2, c)) + (splat(_ONE) - load(shown, (v, c)))
        store(left, (0, c), number)
        store(left, (1, c), load(left, (1, c)) / number)
