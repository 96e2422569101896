"""EagleNet around its one large GEMM, compiled by numba: the noise before it, the graph behind it.

The formulas are those of `noise.py` (to the bit) and `folded.py`; letters as there. A pair's candidates, its attention
and its hidden nodes are made in the cache, and a node is given up once its logits are known; what remains of a pair is
the enriched text. X-Pool and the cosine are `pooled.pooled_cosine` on many pairs at a time.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from tvr_kernels.compiled import array, supported
from tvr_kernels.eaglenet import folded
from tvr_kernels.eaglenet.folded import Fold, fold_weights, log_radius
from tvr_kernels.eaglenet.pooled import pooled_cosine
from tvr_kernels.eaglenet.weights import EagleNetWeights
from tvr_kernels.gemm import matmul
from tvr_kernels.vectors import LANES, exp, jit, largest, load, maximum, splat, store, total

# Pairs of one GEMM: their candidates and messages take 5 MB at S = 20, D = 512. Pairs of one X-Pool: 2 MB of texts.
_PAIRS, _TEXTS, _CLIPS = 40, 120, 8
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_NEVER = np.float32(-1e30)  # added to a logit


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: EagleNetWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    if not 0.0 <= weights.options.slope <= 1.0:
        return False, "its leaky ReLU has a slope of 0 to 1"
    if weights.hidden.out is None:
        return False, "it scores the relational graph (RGAT)"
    if (size := text["text"].shape[1] // weights.options.heads) % LANES:
        return False, f"a head has {size} features, it takes multiples of {LANES}"
    own = {"weights": weights.radius.weight, "hidden": weights.hidden.out}
    return supported({**text, **{f"video {k}": x for k, x in video.items()}, **own}, video["frames"].shape[1])


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: EagleNetWeights) -> Tensor:
    """Return [T, V] fp32 scores from the tensors of `text_side` and `video_side`."""
    with torch.no_grad():
        fold = fold_weights(weights)
        texts, clips = len(text["text"]), len(video["frames"])
        out = torch.empty(texts, clips)
        for v in range(0, clips, _CLIPS):
            some_video = {k: x[v : v + _CLIPS] for k, x in video.items()}
            columns = slice(v, v + _CLIPS)
            for t in range(0, texts, _TEXTS):
                some_text, rows = {k: x[t : t + _TEXTS] for k, x in text.items()}, slice(t, t + _TEXTS)
                enriched = _enrich(some_text, some_video, weights, fold, rows, columns)
                out[rows, columns] = pooled_cosine(enriched, some_video, weights).T
        return out


def draw_noise(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: EagleNetWeights,
    rows: slice,
    columns: slice,
    radius: Tensor | None = None,
) -> Tensor:
    """Return scaled noise [V, T, S, D] of a block, times radius [V, T, D] if given.

    rows, columns: the block in `weights.sigma`.
    """
    options, dim = weights.options, len(weights.radius.weight)
    if weights.sigma is not None or options.prior != "uniform":
        sigma = folded.draw_noise(text, video, weights, rows, columns)
        return sigma if radius is None else sigma.mul_(radius[:, :, None])
    if radius is None:
        radius = torch.ones(len(video["key"]), len(text["key"]), dim)
    out = torch.empty(*radius.shape[:2], options.candidates, dim)
    first = options.candidates * weights.draw & 0xFFFFFFFF
    _draw(*_halves(text["key"]), *_halves(video["key"]), np.uint32(first), array(radius), out.numpy())
    return out


def _enrich(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: EagleNetWeights,
    fold: Fold,
    rows: slice,
    columns: slice,
) -> Tensor:
    """Return the enriched texts [V, T, D] of a block of pairs."""
    T, (V, F, D), options = len(text["text"]), video["frames"].shape, weights.options
    real = video["real"] if options.mask_padding else torch.ones_like(video["real"])
    share = real / real.sum(-1, keepdim=True)
    bias = torch.full((V, -(-F // LANES) * LANES), float(_NEVER))
    bias[:, :F] = bias[:, :F].masked_fill(real, 0.0)
    clip = [array(x) for x in (bias, share, video["values"], video["base"])]
    logits = [array(video[k].mT) for k in ("receiver", "sender")]  # [V, H, F]
    last = array(torch.stack([fold.receiver, fold.sender]))  # [2, H, D]
    radius = log_radius(text["text"], video["frames"], video["real"], weights).exp_()  # [V, T, D]
    enriched = torch.empty(V, T, D)
    step = max(1, _PAIRS // V)
    for t in range(0, T, step):
        some = {k: x[t : t + step] for k, x in text.items()}
        part = slice(rows.start + t, rows.start + t + len(some["text"]))
        moved = draw_noise(some, video, weights, part, columns, radius[:, t : t + step])  # y
        sent = matmul(moved.flatten(0, 2), fold.message.T).unflatten(0, moved.shape[:3])
        own = array(some["text"]), array(some["message"])
        _graph(*own, array(moved), array(sent), *clip, *logits, last, np.float32(options.slope), t, enriched.numpy())
    return enriched


def _halves(key: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the low and the high 32 bits of int64 keys."""
    words = np.ascontiguousarray(key.numpy()).view(np.uint64)
    return words.astype(np.uint32), (words >> np.uint64(32)).astype(np.uint32)


@jit
def _draw(text_low, text_high, video_low, video_high, first, radius, out):
    """Fill out [V, T, S, D] with Philox-4x32-10's uniform numbers times radius [V, T, D]; see `noise.py`."""
    V, T, S, D = out.shape
    m0, m1, half = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57), np.uint64(32)
    w0, w1, drop = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85), np.uint32(8)
    blocks = -(-D // 4)
    words, unit = np.empty((4, blocks), np.uint32), np.float32(2.0**-24)
    for v in range(V):
        for t in range(T):
            for s in range(S):
                for block in range(blocks):
                    c0, c1, c2, c3 = np.uint32(block), np.uint32(first + np.uint32(s)), video_low[v], video_high[v]
                    k0, k1 = text_low[t], text_high[t]
                    for _ in range(10):
                        p0, p1 = np.uint64(c0) * m0, np.uint64(c2) * m1
                        c0, c2 = np.uint32(p1 >> half) ^ c1 ^ k0, np.uint32(p0 >> half) ^ c3 ^ k1
                        c1, c3 = np.uint32(p1), np.uint32(p0)
                        k0, k1 = np.uint32(k0 + w0), np.uint32(k1 + w1)
                    words[0, block], words[1, block], words[2, block], words[3, block] = c0, c1, c2, c3
                for block in range(D // 4):
                    for lane in range(4):
                        u = np.float32(np.int32(words[lane, block] >> drop)) * unit
                        out[v, t, s, 4 * block + lane] = u * radius[v, t, 4 * block + lane]
                for d in range(D - D % 4, D):
                    out[v, t, s, d] = np.float32(np.int32(words[d % 4, d // 4] >> drop)) * unit * radius[v, t, d]


@jit
def _graph(text, message, moved, sent, bias, share, values, base, receiver, sender, last, slope, first, out):
    """Fill out [V, first : first + T, D] with the enriched texts of a block.

    text [T, D], message [T, M], moved [V, T, S, D], sent [V, T, S, M]; of the clips bias [V, F'], share [V, F], values
    and base [V, F, D], receiver and sender [V, H, F]; last [2, H, D], the last layer's logits of a frame and a text.
    """
    (V, T, S, D), F, H = moved.shape, share.shape[1], receiver.shape[1]
    k, J = D // H, -(-(1 + S) // LANES) * LANES
    rows, frame_rows = -(-(1 + S) // 4) * 4, -(-F // 4) * 4
    # Logits of text nodes, J slots a row: text-text receiver and sender, frame-text receiver and sender, of H heads
    logits, no_text = np.zeros((4 * H, J), np.float32), np.full((1, J), _NEVER, np.float32)
    no_text[0, : 1 + S] = _ZERO
    frame_logits = np.zeros((H, bias.shape[1]), np.float32)  # what frames send
    among, to_frames = np.zeros((rows, J), np.float32), np.zeros((frame_rows, J), np.float32)
    from_frames = np.zeros((rows, bias.shape[1]), np.float32)
    texts, frames = np.zeros((rows, D), np.float32), np.zeros((frame_rows, D), np.float32)
    text_logit, frame_logit = np.zeros((H, rows), np.float32), np.zeros((H, frame_rows), np.float32)
    weight = np.zeros((1, J), np.float32)
    for v in range(V):
        for h in range(H):
            for f in range(F):
                frame_logits[h, f] = sender[v, h, f]
        for t in range(T):
            for x in range(4 * H):
                own = message[t, 2 * D + k + x]
                logits[x, 0] = own
                for s in range(S):
                    logits[x, 1 + s] = own + sent[v, t, s, 2 * D + k + x]
            for h in range(H):
                for i in range(1 + S):
                    _softmax_row(logits[h, i], logits, H + h, no_text, 0, slope, among, i)
                    _softmax_row(logits[2 * H + h, i], frame_logits, h, bias, v, slope, from_frames, i)
                for f in range(F):
                    _softmax_row(receiver[v, h, f], logits, 3 * H + h, no_text, 0, slope, to_frames, f)
                for c in range(0, k, LANES):
                    d = h * k + c
                    own = load(message, (t, d)) + load(message, (t, 2 * D + c))
                    for i in range(0, rows, 4):
                        _text_nodes(own, among, from_frames, values, sent, v, t, i, d, 2 * D + c, texts)
                    own = load(message, (t, D + d))
                    for f in range(0, frame_rows, 4):
                        _frame_nodes(own, to_frames, base, sent, v, t, f, d, D + d, frames)
            _dots(texts, last, 1, text_logit)
            _dots(frames, last, 0, frame_logit)
            _mean_logits(frame_logit, text_logit, share, v, slope, 1 + S, logits)
            _softmax_row(_ZERO, logits, 0, no_text, 0, _ONE, weight, 0)
            for d in range(0, D, LANES):
                result = load(text, (t, d))
                for s in range(S):
                    result = result + weight[0, 1 + s] * load(moved, (v, t, s, d))
                store(out, (v, first + t, d), result)


@jit
def _softmax_row(receiver, senders, row, bias, which, slope, out, i):
    """Fill out[i] with the softmax of leaky(receiver + senders[row]) + bias[which] over whole vectors."""
    top = splat(_NEVER)
    for c in range(0, out.shape[1], LANES):
        x = load(senders, (row, c)) + receiver
        x = maximum(x, x * slope) + load(bias, (which, c))
        top = maximum(top, x)
        store(out, (i, c), x)
    highest, number = largest(top), splat(_ZERO)
    for c in range(0, out.shape[1], LANES):
        e = exp(load(out, (i, c)) - highest)
        number = number + e
        store(out, (i, c), e)
    share = _ONE / total(number)
    for c in range(0, out.shape[1], LANES):
        store(out, (i, c), load(out, (i, c)) * share)


@jit
def _text_nodes(own, among, from_frames, values, sent, v, t, i, d, out_column, texts):
    """Fill texts[i : i + 4, d : d + LANES] with hidden text nodes; sent holds the text-text messages at column d."""
    row0, row1, row2, row3 = own, own, own, own
    for f in range(values.shape[1]):
        x = load(values, (v, f, d))
        row0 = row0 + from_frames[i, f] * x
        row1 = row1 + from_frames[i + 1, f] * x
        row2 = row2 + from_frames[i + 2, f] * x
        row3 = row3 + from_frames[i + 3, f] * x
    S = sent.shape[2]
    for s in range(S):
        x = load(sent, (v, t, s, d))
        row0 = row0 + among[i, 1 + s] * x
        row1 = row1 + among[i + 1, 1 + s] * x
        row2 = row2 + among[i + 2, 1 + s] * x
        row3 = row3 + among[i + 3, 1 + s] * x
    if i > 0:
        row0 = row0 + load(sent, (v, t, min(i, S) - 1, out_column))
    row1 = row1 + load(sent, (v, t, min(i + 1, S) - 1, out_column))
    row2 = row2 + load(sent, (v, t, min(i + 2, S) - 1, out_column))
    row3 = row3 + load(sent, (v, t, min(i + 3, S) - 1, out_column))
    store(texts, (i, d), maximum(row0, splat(_ZERO)))
    store(texts, (i + 1, d), maximum(row1, splat(_ZERO)))
    store(texts, (i + 2, d), maximum(row2, splat(_ZERO)))
    store(texts, (i + 3, d), maximum(row3, splat(_ZERO)))


@jit
def _frame_nodes(own, to_frames, base, sent, v, t, f, d, column, frames):
    """Fill frames[f : f + 4, d : d + LANES] with hidden frame nodes; sent holds the texts' messages at `column`."""
    last = base.shape[1] - 1  # rows beyond it repeat it and are not read
    row0, row1 = own + load(base, (v, f, d)), own + load(base, (v, min(f + 1, last), d))
    row2, row3 = own + load(base, (v, min(f + 2, last), d)), own + load(base, (v, min(f + 3, last), d))
    for s in range(sent.shape[2]):
        x = load(sent, (v, t, s, column))
        row0 = row0 + to_frames[f, 1 + s] * x
        row1 = row1 + to_frames[f + 1, 1 + s] * x
        row2 = row2 + to_frames[f + 2, 1 + s] * x
        row3 = row3 + to_frames[f + 3, 1 + s] * x
    store(frames, (f, d), maximum(row0, splat(_ZERO)))
    store(frames, (f + 1, d), maximum(row1, splat(_ZERO)))
    store(frames, (f + 2, d), maximum(row2, splat(_ZERO)))
    store(frames, (f + 3, d), maximum(row3, splat(_ZERO)))


@jit
def _dots(nodes, last, which, out):
    """Fill out [H, rows] with the products of nodes [rows, D] and last[which] [H, D]."""
    for i in range(0, nodes.shape[0], 4):
        for h in range(out.shape[0]):
            row0, row1, row2, row3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
            for d in range(0, nodes.shape[1], LANES):
                x = load(last, (which, h, d))
                row0 = row0 + load(nodes, (i, d)) * x
                row1 = row1 + load(nodes, (i + 1, d)) * x
                row2 = row2 + load(nodes, (i + 2, d)) * x
                row3 = row3 + load(nodes, (i + 3, d)) * x
            out[h, i], out[h, i + 1] = total(row0), total(row1)
            out[h, i + 2], out[h, i + 3] = total(row2), total(row3)


@jit
def _mean_logits(frame_logit, text_logit, share, v, slope, texts, logits):
    """Fill logits[0, :texts] with the leaky sums' mean over heads and, by share[v], over frames."""
    H, scale = frame_logit.shape[0], _ONE / np.float32(frame_logit.shape[0])
    for j in range(texts):
        mean = _ZERO
        for h in range(H):
            for f in range(share.shape[1]):
                x = frame_logit[h, f] + text_logit[h, j]
                mean += max(x, x * slope) * share[v, f]
        logits[0, j] = mean * scale
