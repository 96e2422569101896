"""TC-MGC's similarities with dropout on LVA's linear branch: a D-vector a pair, but no D x D product a pair.

A fresh mask for every (text vector, clip, dimension) breaks the factorisation of `folded.py`; what remains is that
LN2's output and its linear image are both sums over frames, so P is applied to F frames a clip instead of L + 1
vectors a pair: 2 F D multiply-adds a vector instead of F D + D^2. Captions go one by one, and are recomputed in the
backward pass where a batch is large; their masks are asked for again then, and must come out the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, normalize
from torch.utils.checkpoint import checkpoint

from tvr_kernels._tiles import SAVED_BYTES
from tvr_kernels.gemm import matmul
from tvr_kernels.tcmgc import LAYER_NORM_EPS, TcmgcWeights
from tvr_kernels.tcmgc.folded import frame_attention
from tvr_kernels.tcmgc.ranks import Dots, reorganise

Keep = Callable[[int], Tensor]


def similarities(
    text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TcmgcWeights, keep: Keep, rate: float
) -> Tensor:
    """Return VS, VW, SF, FW [4, T, V] of a training batch.

    keep: caption row -> bool [V, L + 1, D], True = kept, for the words, then the sentence; a pure function. rate: the
    probability of False; kept entries are divided by 1 - rate.
    """
    T, slots, size = text["query"].shape
    frames = project(video, weights, rate)
    mapped_words = text["unit"][:, :-1] @ weights.local_map
    large = T * len(frames) * slots * size * 10 * frames.element_size() > SAVED_BYTES

    def caption(row: int) -> Tensor:
        y = condition(text["query"][row], video, weights, keep(row), frames, rate)
        real = None if "mask" not in text else text["mask"][row]
        return _compare(y, text["unit"][row], mapped_words[row], text["mapped"][row], weights, real)

    if large and torch.is_grad_enabled():
        rows = [checkpoint(caption, row, use_reentrant=False, preserve_rng_state=False) for row in range(T)]
    else:
        rows = [caption(row) for row in range(T)]
    return torch.stack(rows, 1) if rows else frames.new_empty(4, 0, len(frames))


def project(video: Mapping[str, Tensor], weights: TcmgcWeights, rate: float) -> Tensor:
    """Return what a frame adds to LN2's output and to the linear branch, the latter over 1 - rate: [V, N, 2D]."""
    kappa = video["columns"][:, : video["forms"].shape[-1]]
    scaled = weights.norm2_weight * (kappa - kappa.mean(-1, keepdim=True))
    return torch.cat([scaled, scaled @ weights.linear_weight.T / (1 - rate)], -1)


def condition(
    query: Tensor, video: Mapping[str, Tensor], weights: TcmgcWeights, kept: Tensor, frames: Tensor, rate: float
) -> Tensor:
    """Return LVA's vectors y [V, L + 1, D] of one caption, not normalised.

    query: [L + 1, D] after LN1. kept: [V, L + 1, D] bool. frames: what `project` made of the clips with the same rate.
    """
    w, size = weights, query.shape[-1]
    slots = video["forms"].shape[-1]
    logits = matmul(video["columns"][:, :slots].flatten(0, 1), query.T) / (size // w.heads) ** 0.5
    attention = frame_attention(logits.unflatten(0, (-1, slots)), video.get("mask"), w.heads)  # [V, N, L + 1]
    variance = (torch.bmm(video["forms"][:, :slots], attention) * attention).sum(1, keepdim=True)
    share = attention * (variance + LAYER_NORM_EPS).rsqrt()
    u, branch = torch.bmm(share.mT, frames).split(size, -1)  # [V, L + 1, D] each
    constant = (w.linear_weight @ w.norm2_bias + w.linear_bias) / (1 - rate)
    y = u + w.norm2_bias + (branch + constant) * kept
    return layer_norm(y, (size,), w.norm3_weight, w.norm3_bias, LAYER_NORM_EPS)


def _compare(
    y: Tensor, unit: Tensor, mapped_words: Tensor, mapped: Tensor, weights: TcmgcWeights, real: Tensor | None
) -> Tensor:
    """Return VS, VW, SF, FW [4, V] of one caption. unit: [L + 1, D]; mapped_words: [L, D]; mapped: [D]."""
    pooled = normalize(y, dim=-1)
    clips, slots, _ = y.shape
    by_words = matmul(pooled.flatten(0, 1), torch.cat([mapped_words, unit[-1:]]).T).view(clips, slots, slots)
    by_sentence = matmul(pooled[:, -1], torch.cat([unit[:-1], mapped[None]]).T)  # [V, L + 1]
    dots = Dots(
        video_sentence=by_sentence[:, -1],
        video_word=by_sentence[:, :-1],
        sentence_frame=by_words[:, :-1, -1],
        frame_word=by_words[:, :-1, :-1].mT,
    )
    return reorganise(dots, weights, None if real is None else real[None])
