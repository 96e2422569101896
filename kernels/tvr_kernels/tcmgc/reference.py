"""TC-MGC as its equations, with every text-conditioned vector: T x V x (L + 1) x D numbers. The test oracle."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, normalize

from tvr_kernels.tcmgc import LAYER_NORM_EPS, TcmgcWeights, fuse
from tvr_kernels.tcmgc.ranks import Dots, reorganise

_PAIR_TENSOR_BYTES = 2**27  # text-conditioned vectors of one block of captions: 128 MB


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TcmgcWeights) -> Tensor:
    """Return [T, V]; see the package for the inputs."""
    return fuse(similarities(text, video, weights) * weights.scale, weights.fusion)


def similarities(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TcmgcWeights) -> Tensor:
    """Return VS, VW, SF, FW [4, T, V], a block of captions at a time."""
    query = text["query"]
    step = max(1, _PAIR_TENSOR_BYTES // (len(video["forms"]) * query[0].numel() * query.element_size()))
    blocks = [{k: x[i : i + step] for k, x in text.items()} for i in range(0, len(query), step)]
    return torch.cat([_block(block, video, weights) for block in blocks], 1)


def condition(
    query: Tensor, kappa: Tensor, weights: TcmgcWeights, mask: Tensor | None = None, multiplier: Tensor | None = None
) -> Tensor:
    """Return LVA's vectors y [T, Q, V, D], not normalised.

    query: [T, Q, D] text vectors after LN1; kappa: [V, F, D] frames after LN1; mask: [V, F] bool, True = real;
    multiplier: [T, Q, V, D] dropout's 0 or 1 / (1 - rate) on the linear branch, or None.
    """
    w, size = weights, query.shape[-1]
    q, k = (x.unflatten(-1, (w.heads, size // w.heads)) for x in (query, kappa))
    logits = torch.einsum("tqhd,vfhd->tqvhf", q, k) / (size // w.heads) ** 0.5
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None], float("-inf"))
    o = torch.einsum("tqvhf,vfhd->tqvhd", logits.softmax(-1), k).flatten(-2)
    u = layer_norm(o, (size,), w.norm2_weight, w.norm2_bias, LAYER_NORM_EPS)
    branch = linear(u, w.linear_weight, w.linear_bias)
    if multiplier is not None:
        branch = branch * multiplier
    return layer_norm(u + branch, (size,), w.norm3_weight, w.norm3_bias, LAYER_NORM_EPS)


def compare(y: Tensor, text: Mapping[str, Tensor], weights: TcmgcWeights) -> Tensor:
    """Return VS, VW, SF, FW [4, T, V] from LVA's vectors y [T, L + 1, V, D]: the words', then the sentence's."""
    pooled = normalize(y, dim=-1)
    by_words, by_sentence = pooled[:, :-1], pooled[:, -1]  # [T, L, V, D], [T, V, D]
    words, sentence = text["unit"][:, :-1], text["unit"][:, -1]
    dots = Dots(
        video_sentence=torch.einsum("td,tvd->tv", text["mapped"], by_sentence),
        video_word=torch.einsum("tid,tvd->tvi", words, by_sentence),
        sentence_frame=torch.einsum("td,tjvd->tvj", sentence, by_words),
        frame_word=torch.einsum("tid,tjvd->tvij", words @ weights.local_map, by_words),
    )
    real = text.get("mask")
    return reorganise(dots, weights, None if real is None else real[:, None])


def frames_of(video: Mapping[str, Tensor], heads: int) -> Tensor:
    """Return kappa [V, F, D], the frames after LN1, from the clip's columns."""
    slots = video["forms"].shape[-1]
    return video["columns"][:, :slots].unflatten(1, (heads, slots // heads)).sum(1)


def _block(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TcmgcWeights) -> Tensor:
    y = condition(text["query"], frames_of(video, weights.heads), weights, video.get("mask"))
    return compare(y, text, weights)
