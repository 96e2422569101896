"""TC-MGC behind its GEMMs, compiled by numba: words along the lanes for a pair, captions along them for its ranks.

The formulas are those of `folded.py` and `ranks.py`. A pair's frame weights and its L x L cosines are made in the
first-level cache, and the k best of each column are kept. These, and the cosines with the sentence, are then laid out
with captions along the lanes, so that the k best of L numbers and the small attentions over ranks take no shuffles.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from tvr_kernels.compiled import (
    array,
    column_sum,
    exp_below_max,
    linear,
    multiply,
    product,
    quadratic,
    supported,
    whole,
)
from tvr_kernels.gemm import matmul
from tvr_kernels.tcmgc import LAYER_NORM_EPS, TcmgcWeights, fuse
from tvr_kernels.tcmgc.folded import _constants
from tvr_kernels.vectors import LANES, exp, jit, load, maximum, minimum, splat, sqrt, store

# One block's products take 4.9 MB at L = 32, F = 12; smaller ones slow the GEMMs down.
_TEXTS, _CLIPS = 32, 32
_ZERO, _ONE, _TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)
_EPS = np.float32(LAYER_NORM_EPS)
_LOW = np.float32(-1e30)  # below any cosine


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TcmgcWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    if weights.heads != 1:
        return False, f"it scores one head, found {weights.heads}"
    if "mask" in text:
        return False, "it takes all word slots, and some are masked"
    if len(weights.video_word) > text["unit"].shape[1] - 1:
        return False, "it keeps no more ranks than there are words"
    tensors = {**text, **{f"video {k}": x for k, x in video.items()}}
    maps = {k: x for k, x in weights._asdict().items() if isinstance(x, Tensor)}
    return supported({**tensors, **maps}, video["forms"].shape[-1])


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TcmgcWeights) -> Tensor:
    """Return [T, V] fp32; see the package for the inputs."""
    with torch.no_grad():
        return fuse(similarities(text, video, weights) * weights.scale, weights.fusion)


def similarities(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TcmgcWeights) -> Tensor:
    """Return VS, VW, SF, FW [4, T, V] fp32."""
    with torch.no_grad():
        (T, slots, D), (V, _, F) = text["unit"].shape, video["forms"].shape
        L, out = slots - 1, torch.empty(4, T, V)
        forms, mask = array(video["forms"]), array(video.get("mask", torch.ones(V, F, dtype=torch.bool)))
        # Rows of kappa meet other vectors than the rest: split once, not in every block.
        kappas, arriving = (x.contiguous() for x in video["columns"].split([F, 2 * F], 1))
        maps, constants, inverse = _maps(weights), array(_constants(weights)), np.float32(D**-0.5)
        for i in range(0, T, _TEXTS):
            some = {k: x[i : i + _TEXTS] for k, x in text.items()}
            query, unit = _columns(some["query"], None, L), _columns(some["unit"], some["mapped"], L)
            shared = [array(x) for x in _shared(some, L)]
            for j in range(0, V, _CLIPS):
                clips = slice(j, min(V, j + _CLIPS))
                logits = matmul(kappas[clips].flatten(0, 1), query.T).view(clips.stop - j, F, -1)
                dots = matmul(arriving[clips].flatten(0, 1), unit.T).view(clips.stop - j, 2 * F, -1)
                block = out[:, i : i + _TEXTS, clips].numpy()
                own = array(logits), array(dots), forms[clips], mask[clips]
                _block(*own, *shared, constants, maps, inverse, np.float32(weights.sharpness), L, block)
        return out


def _columns(vectors: Tensor, mapped: Tensor | None, L: int) -> Tensor:
    """Return captions' vectors [T, L + 1, D] for a GEMM: words, caption by caption, sentences, then `mapped` [T, D].

    Zeros at the end let a vector that starts at the last word or sentence of all stay within the products.
    """
    T, parts = len(vectors), [vectors[:, :L].flatten(0, 1), vectors[:, L]] + ([] if mapped is None else [mapped])
    more = max(0, whole(L) - L, whole(T) - T)
    return torch.cat([*parts, vectors.new_zeros(more, vectors.shape[2])])


def _shared(text: Mapping[str, Tensor], L: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return dots with the shared vectors: of words [T, 4, L'], of sentences [T, 2], of mapped sentences [2, T']."""
    words = pad(text["shared"][:, :L].mT, (0, whole(L) - L))
    mapped = text["mapped_shared"].T
    return words, text["shared"][:, L, :2], pad(mapped, (0, whole(mapped.shape[1]) - mapped.shape[1]))


def _maps(weights: TcmgcWeights) -> np.ndarray:
    """Return the mixing matrices, filled with zeros to the size of the largest. [6, k + 1, k + 1]"""
    w = weights
    maps = (w.video_word, w.sentence_frame, w.over_words, w.over_frames, w.then_frames, w.then_words)
    size = max(len(m) for m in maps)
    return array(torch.stack([pad(m, (0, size - len(m), 0, size - len(m))) for m in maps]))


@jit
def _block(logits, dots, forms, mask, of_words, of_sentence, of_mapped, constants, maps, inverse, sharpness, L, out):
    """Fill out [4, t, v] from logits [v, F, ...] and dots [v, 2F, ...], whose columns are those of `_columns`."""
    (V, F), T, P, ranks = mask.shape, of_sentence.shape[0], of_words.shape[2], maps.shape[1] - 1
    Q = of_mapped.shape[1]
    block, sentences = np.empty((F, LANES), np.float32), np.empty((F + 2, Q), np.float32)
    local, share = np.zeros((F + 2, P + 4), np.float32), np.zeros((F + 2, P), np.float32)
    columns, cosines = np.empty((ranks, P), np.float32), np.empty((2, P), np.float32)
    laid_out = np.zeros((ranks + 2, L, Q), np.float32)  # the same of all captions: the rows of `columns`, then both
    ranked, video_sentence = np.zeros((ranks, ranks, LANES), np.float32), np.empty(Q, np.float32)
    work = np.empty((5, ranks + 1, LANES), np.float32)
    answers = np.empty((3, Q), np.float32)
    for v in range(V):
        for c in range(0, Q, LANES):
            _attention(logits, v, T * L + c, mask, inverse, block)
            _coordinates(block, forms, v, constants, sentences, c)
            seen = load(sentences, (F, c)) * load(of_mapped, (0, c))
            seen = seen + load(sentences, (F + 1, c)) * load(of_mapped, (1, c))
            for f in range(F):
                seen = seen + load(sentences, (f, c)) * load(dots, (v, f, T * L + T + c))
            store(video_sentence, (c,), seen)
        for t in range(T):
            first, own = t * L, T * L + t
            for c in range(0, P, LANES):
                _attention(logits, v, first + c, mask, inverse, block)
                _coordinates(block, forms, v, constants, share, c)
                by_words = sentences[F, t] * load(of_words, (t, 0, c)) + sentences[F + 1, t] * load(of_words, (t, 1, c))
                by_sentence = of_sentence[t, 0] * load(share, (F, c)) + of_sentence[t, 1] * load(share, (F + 1, c))
                for f in range(F):
                    by_words = by_words + sentences[f, t] * load(dots, (v, f, first + c))  # <w_i, v>
                    by_sentence = by_sentence + dots[v, f, own] * load(share, (f, c))  # <s, f_j>
                    store(local, (f, c), load(dots, (v, F + f, first + c)))
                store(local, (F, c), load(of_words, (t, 2, c)))
                store(local, (F + 1, c), load(of_words, (t, 3, c)))
                store(cosines, (0, c), by_words)
                store(cosines, (1, c), by_sentence)
            _best_of_columns(local, share, L, columns)
            for i in range(L):
                for k in range(ranks):
                    laid_out[k, i, t] = columns[k, i]
                laid_out[ranks, i, t] = cosines[0, i]
                laid_out[ranks + 1, i, t] = cosines[1, i]
        for c in range(0, Q, LANES):
            _reorganise(laid_out, c, maps, sharpness, ranked, work, answers)
        for t in range(T):
            out[0, t, v] = video_sentence[t]
            out[1, t, v], out[2, t, v], out[3, t, v] = answers[0, t], answers[1, t], answers[2, t]


@jit
def _attention(logits, v, first, mask, inverse, block):
    """Fill block [F, LANES] with the softmax over frames of `logits` times `inverse`."""
    for f in range(block.shape[0]):
        store(block, (f, 0), load(logits, (v, f, first)))
    exp_below_max(block, mask, v, inverse)
    multiply(block, splat(_ONE) / column_sum(block))


@jit
def _coordinates(attention, forms, v, constants, out, c):
    """Fill lanes c and following of out [F + 2, P] with y / |y| as in `folded._coordinates`."""
    F = attention.shape[0]
    inverse2 = splat(_ONE) / sqrt(quadratic(forms, v, 0, attention) + _EPS)
    form = inverse2 * quadratic(forms, v, F, attention) + _TWO * linear(forms, v, 3 * F, attention)
    inverse3 = splat(_ONE) / sqrt(inverse2 * form + (constants[0] + _EPS))
    form = inverse2 * quadratic(forms, v, 2 * F, attention) + _TWO * linear(forms, v, 3 * F + 1, attention)
    centred = inverse2 * form + constants[1]
    bias = inverse2 * linear(forms, v, 3 * F + 2, attention) + constants[2]
    inverse = splat(_ONE) / sqrt(inverse3 * (inverse3 * centred + _TWO * bias) + constants[3])
    on_shift = inverse3 * inverse
    factor = on_shift * inverse2
    for f in range(F):
        store(out, (f, c), load(attention, (f, 0)) * factor)
    store(out, (F, c), on_shift)
    store(out, (F + 1, c), inverse)


@jit
def _best_of_columns(local, share, L, best):
    """Fill best [k, P] with the k largest of each column of M = local' share, M [L, P], in descending order."""
    rows, ranks = share.shape[0], best.shape[0]
    for c in range(0, best.shape[1], LANES):
        for k in range(ranks):
            store(best, (k, c), splat(_LOW))
        for i in range(0, L, 4):
            row0, row1, row2, row3 = product(local, share, i, c, rows)
            _insert(row0, best, c)
            if i + 1 < L:
                _insert(row1, best, c)
            if i + 2 < L:
                _insert(row2, best, c)
            if i + 3 < L:
                _insert(row3, best, c)


@jit
def _insert(x, best, c):
    """Insert a vector into the descending lists best [k, c : c + LANES]."""
    for k in range(best.shape[0]):
        kept = load(best, (k, c))
        store(best, (k, c), maximum(kept, x))
        x = minimum(kept, x)


@jit
def _reorganise(laid_out, c, maps, sharpness, ranked, work, answers):
    """Fill lanes c and following of answers [3, Q] with VW, SF and FW of LANES captions; see `ranks.reorganise`."""
    ranks, L = laid_out.shape[0] - 2, laid_out.shape[1]
    best, first, second = work[0], work[1], work[2]
    for n in range(ranks):
        for k in range(ranks):
            store(ranked, (n, k, 0), splat(_LOW))
        for i in range(L):
            x = load(laid_out, (n, i, c))
            for k in range(ranks):
                kept = load(ranked, (n, k, 0))
                store(ranked, (n, k, 0), maximum(kept, x))
                x = minimum(kept, x)
    _best_and_rest(laid_out, ranks, c, best)
    store(answers, (0, c), _isa(best, maps, 0, ranks, sharpness, first, second))
    _best_and_rest(laid_out, ranks + 1, c, best)
    store(answers, (1, c), _isa(best, maps, 1, ranks + 1, sharpness, first, second))
    left, again = work[3], work[4]
    for n in range(ranks):
        for k in range(ranks):
            store(best, (k, 0), load(ranked, (k, n, 0)))  # a row of R': over the words' ranks
        store(left, (n, 0), _isa(best, maps, 2, ranks, sharpness, first, second))
        for k in range(ranks):
            store(best, (k, 0), load(ranked, (n, k, 0)))
        store(again, (n, 0), _isa(best, maps, 3, ranks, sharpness, first, second))
    both = _isa(left, maps, 4, ranks, sharpness, first, second) + _isa(again, maps, 5, ranks, sharpness, first, second)
    store(answers, (2, c), both / _TWO)


@jit
def _best_and_rest(laid_out, n, c, best):
    """Fill best [k + 1, LANES] with the k largest of laid_out[n] and the softmax mean of the others, 0 if none."""
    ranks, L = best.shape[0] - 1, laid_out.shape[1]
    number, mean = splat(_ZERO), splat(_ZERO)
    for k in range(ranks):
        store(best, (k, 0), splat(_LOW))
    for i in range(L):
        x = load(laid_out, (n, i, c))
        for k in range(ranks):
            kept = load(best, (k, 0))
            store(best, (k, 0), maximum(kept, x))
            x = minimum(kept, x)
        if i >= ranks:  # what fell out: every slot after the first k pushes one number off the end
            e = exp(x)
            number, mean = number + e, mean + e * x
    store(best, (ranks, 0), mean / number if ranks < L else splat(_ZERO))


@jit
def _isa(c, maps, which, n, sharpness, first, second):
    """Return sum_j alpha_j c_j of `ranks.isa` for c [n or more, LANES] and A = maps[which, :n, :n]."""
    _softmax(c, n, sharpness, first)
    for j in range(n):
        mixed = splat(_ZERO)
        for i in range(n):
            mixed = mixed + maps[which, i, j] * load(first, (i, 0))
        store(second, (j, 0), mixed)
    _softmax(second, n, sharpness, second)
    result = splat(_ZERO)
    for j in range(n):
        result = result + load(second, (j, 0)) * load(c, (j, 0))
    return result


@jit
def _softmax(x, n, sharpness, out):
    """Fill out [n, LANES] with the softmax over rows of sharpness * x; may be done in place."""
    top, number = load(x, (0, 0)), splat(_ZERO)
    for i in range(1, n):
        top = maximum(top, load(x, (i, 0)))
    for i in range(n):
        e = exp((load(x, (i, 0)) - top) * sharpness)
        number = number + e
        store(out, (i, 0), e)
    for i in range(n):
        store(out, (i, 0), load(out, (i, 0)) / number)
