"""TC-MGC's similarities with dropout on LVA's linear branch: a D-vector a pair, but no D x D product a pair.

A fresh mask for every (text vector, clip, dimension) breaks the factorisation of `folded.py`; what remains is that
LN2's output and its linear image are both sums over frames, so P is applied to F frames a clip instead of L + 1
vectors a pair: 2 F D multiply-adds a vector instead of F D + D^2. Blocks of captions are recomputed in the backward
pass; the masks are asked for again then, and must come out the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from tvr_kernels._blocks import by_blocks
from tvr_kernels.tcmgc import LAYER_NORM_EPS, TcmgcWeights
from tvr_kernels.tcmgc.reference import compare

Keep = Callable[[int], Tensor]


def similarities(
    text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TcmgcWeights, keep: Keep, rate: float
) -> Tensor:
    """Return VS, VW, SF, FW [4, T, V] of a training batch.

    keep: caption row -> bool [L + 1, V, D], True = kept, for the words, then the sentence; a pure function. rate: the
    probability of False; kept entries are divided by 1 - rate.
    """
    T, rows, size = text["query"].shape
    every_clip = len(video["forms"])

    def block(some_text: Mapping[str, Tensor], some_video: Mapping[str, Tensor]) -> Tensor:
        kept = torch.stack([keep(int(row)) for row in some_text["row"]])  # [t, L + 1, V, D]
        y = condition(some_text["query"], some_video, weights, kept, rate)
        return compare(y, some_text, weights)

    return by_blocks(
        block,
        {**text, "row": torch.arange(T)},
        video,
        saved_bytes=10 * rows * size * text["query"].element_size(),
        tile=(1, every_clip),
    )


def condition(query: Tensor, video: Mapping[str, Tensor], weights: TcmgcWeights, kept: Tensor, rate: float) -> Tensor:
    """Return LVA's vectors y [t, L + 1, V, D], not normalised."""
    w, size = weights, query.shape[-1]
    slots = video["forms"].shape[-1]
    kappa = video["columns"][:, :slots]  # [V, N, D]
    logits = torch.einsum("tqd,vnd->tqvn", query, kappa) / (size // w.heads) ** 0.5
    logits = logits.unflatten(-1, (w.heads, -1))
    if "mask" in video:
        logits = logits.masked_fill(~video["mask"][:, None], float("-inf"))
    attention = logits.softmax(-1).flatten(-2)  # [t, q, V, N]

    variance = torch.einsum("tqvn,vnm,tqvm->tqv", attention, video["forms"][:, :slots], attention)
    share = attention * (variance + LAYER_NORM_EPS).rsqrt()[..., None]
    scaled = w.norm2_weight * (kappa - kappa.mean(-1, keepdim=True))
    both = torch.einsum("tqvn,vnd->tqvd", share, torch.cat([scaled, scaled @ w.linear_weight.T], -1))
    u, branch = both.split(size, -1)
    branch = branch + (w.linear_weight @ w.norm2_bias + w.linear_bias)
    y = u + w.norm2_bias + branch * kept / (1 - rate)
    return layer_norm(y, (size,), w.norm3_weight, w.norm3_bias, LAYER_NORM_EPS)
