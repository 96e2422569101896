"""EagleNet's score as its equations say it: every node of every pair's graph is built. The oracle of the tests.

A pair's graph has F frame nodes u_f = v_f + position_f and 1 + S text nodes x_0 = t, x_s = t + sigma_s * R. Two layers
of (relational) graph attention give logits between frames and texts, whose softmax weighs the texts to T; X-Pool pools
the frames for T to y; the score is cos(T, y). Letters as in `weights`; P pairs, N = F + 1 + S nodes.
Source: EagleNet (arXiv 2603.25267) and the authors' code; the graph layers are RGAT (arXiv 1904.05811) and GAT
(arXiv 1710.10903).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tvr_kernels.eaglenet import noise
from tvr_kernels.eaglenet.weights import EPSILON, EagleNetWeights, GraphLayer, Linear, Norm, Options, Pooling

_PAIRS_AT_ONCE = 64


class Details(NamedTuple):
    """What the equations name on the way. text: a, video: b."""

    log_radius: Tensor  # [P, D], l_ab
    frame_text: Tensor  # [P, H, F, 1 + S], logits of the last layer after the leaky ReLU
    enriched: Tensor  # [P, D], T_ab
    pooled: Tensor  # [P, D], y_ab
    score: Tensor  # [P]


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: EagleNetWeights) -> Tensor:
    """Return [T, V] scores from text {"text", "key"} and video {"frames", "real", "key"}."""
    t, v = len(text["text"]), len(video["frames"])
    pairs = torch.cartesian_prod(torch.arange(t), torch.arange(v)).to(text["text"].device)  # [T * V, 2], text-major
    parts = [
        details(text, video, weights, chunk[:, 0], chunk[:, 1]).score
        for chunk in pairs.split(_PAIRS_AT_ONCE)
        if len(chunk)
    ]
    return torch.cat(parts).view(t, v) if parts else text["text"].new_zeros(t, v)


def details(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: EagleNetWeights,
    a: Tensor,
    b: Tensor,
    *,
    sigma: Tensor | None = None,
    node_keep: Tensor | None = None,
    linear_keep: Tensor | None = None,
) -> Details:
    """Return every named quantity of the pairs (a[p], b[p]).

    sigma: [P, S, D] instead of the noise of `weights`. node_keep: [P, N, D] multiplies the hidden nodes (frames, text,
    candidates) and linear_keep: [P, D] X-Pool's linear branch: dropout masks, already divided by the kept share.
    """
    t, frames = text["text"][a], video["frames"][b]  # [P, D], [P, F, D]
    real = video["real"][b] if weights.options.mask_padding else torch.ones_like(video["real"][b])
    if sigma is None:
        sigma = candidate_noise(text["key"][a], video["key"][b], weights, a, b)
    log_radius = radius(t, frames, real, weights.radius)
    texts = torch.cat([t[:, None], t[:, None] + sigma * log_radius.exp()[:, None]], 1)  # [P, 1 + S, D]
    nodes = frames if weights.frame_positions is None else frames + weights.frame_positions
    nodes = torch.cat([nodes, texts], 1)  # [P, N, D]
    relations = relation_masks(real, texts.shape[1], relational=weights.hidden.out is not None)
    hidden = graph_layer(nodes, weights.hidden, relations, weights.options).relu()
    if node_keep is not None:
        hidden = hidden * node_keep
    frame_text = frame_text_logits(hidden, frames.shape[1], weights.last, weights.options)
    enriched = aggregate(frame_text, texts, real)
    pooled = pool(enriched, frames, real, weights.pool, weights.options.pool_heads, linear_keep)
    cosine = (F.normalize(enriched, dim=-1) * F.normalize(pooled, dim=-1)).sum(-1)
    return Details(log_radius, frame_text, enriched, pooled, cosine)


def radius(t: Tensor, frames: Tensor, real: Tensor, weights: Linear) -> Tensor:
    """Return l = W_S cos(t, v_f) + b_S, [P, D]; the cosine with a missing or zero frame is 0."""
    cosines = torch.einsum("pd,pfd->pf", unit_or_zero(t), unit_or_zero(frames))
    return F.linear(cosines.masked_fill(~real, 0.0), *weights)


def unit_or_zero(x: Tensor) -> Tensor:
    """Divide by the norm over the last dimension; a zero vector stays zero, with a zero gradient.

    Deviation: the authors divide without a guard and, if a frame of the batch has norm 0, use un-normalised frames for
    the whole batch, so that one clip would change the scores of another.
    """
    norm = x.norm(dim=-1, keepdim=True)
    return torch.where(norm > 0, x / torch.where(norm > 0, norm, 1.0), 0.0)


def candidate_noise(text_key: Tensor, video_key: Tensor, weights: EagleNetWeights, a: Tensor, b: Tensor) -> Tensor:
    """Return sigma [P, S, D] of the pairs (a, b) with these keys [P]: injected, or drawn by `noise` and scaled."""
    if weights.sigma is not None:
        return weights.sigma[:, a, b].transpose(0, 1)
    options, like = weights.options, weights.radius.weight
    shape = (options.candidates, like.shape[0])
    if options.prior == "uniform":
        return noise.uniform(text_key, video_key, *shape, draw=weights.draw, dtype=like.dtype)
    return options.prior_std * noise.normal(text_key, video_key, *shape, draw=weights.draw, dtype=like.dtype)


def relation_masks(real: Tensor, texts: int, *, relational: bool) -> list[Tensor]:
    """Return [P, N, N] bool masks, row = receiver, column = sender, self-loops included.

    RGAT: text-text, frame-frame, exactly one of both a frame. GAT: everything with everything.
    """
    is_frame = torch.cat([torch.ones_like(real), real.new_zeros(len(real), texts)], 1)
    sends = torch.cat([real, real.new_ones(len(real), texts)], 1)[:, None]  # a missing frame sends nothing
    receiver, sender = is_frame[:, :, None], is_frame[:, None]
    if not relational:
        return [torch.ones_like(receiver & sender) & sends]
    return [~receiver & ~sender, receiver & sender & sends, (receiver ^ sender) & sends]


def graph_layer(nodes: Tensor, layer: GraphLayer, masks: list[Tensor], options: Options) -> Tensor:
    """Return [P, N, H * k]: per head, attention over each relation's neighbours, plus `out` of the node itself."""
    out: Tensor | float = 0.0
    for relation, mask in zip(layer.relations, masks, strict=True):
        values = heads_first(F.linear(nodes, relation.value), options.heads)  # [P, H, N, k]
        logits = (values @ relation.receiver)[..., :, None] + (values @ relation.sender)[..., None, :]
        logits = F.leaky_relu(logits, options.slope).masked_fill(~mask[:, None], -torch.inf)
        attention = logits.softmax(-1).masked_fill(~mask[:, None], 0.0)  # a row without neighbours gets nothing
        out = out + attention @ values
    assert isinstance(out, Tensor)
    if layer.out is not None:
        out = out + F.linear(nodes, layer.out)[:, None]
    return out.transpose(1, 2).flatten(2)


def frame_text_logits(hidden: Tensor, frames: int, layer: GraphLayer, options: Options) -> Tensor:
    """Return [P, H, F, 1 + S]: the last layer's logits, receiver frame, sender text (its output is not used)."""
    relation = layer.relations[-1]
    values = heads_first(F.linear(hidden, relation.value), options.heads)  # [P, H, N, D]
    receiver = values[:, :, :frames] @ relation.receiver
    sender = values[:, :, frames:] @ relation.sender
    return F.leaky_relu(receiver[..., :, None] + sender[..., None, :], options.slope)


def aggregate(frame_text: Tensor, texts: Tensor, real: Tensor) -> Tensor:
    """Return T = sum_j w_j x_j, [P, D], w the softmax of the logits' mean over heads and frames."""
    share = real.to(frame_text.dtype) / real.sum(-1, keepdim=True)  # [P, F]
    weights = torch.einsum("pfj,pf->pj", frame_text.mean(1), share).softmax(-1)
    return torch.einsum("pj,pjd->pd", weights, texts)


def pool(
    query: Tensor, frames: Tensor, real: Tensor, weights: Pooling, heads: int, linear_keep: Tensor | None = None
) -> Tensor:
    """Return y [P, D], the frames pooled by X-Pool for each pair's own query [P, D]."""
    attention = pool_attention(query, frames, real, weights, heads)
    values = heads_first(F.linear(norm(frames, weights.norm1), *weights.value), heads)  # [P, h, F, D / h]
    pooled = torch.einsum("phf,phfc->phc", attention, values).flatten(1)
    out = norm(F.linear(pooled, *weights.out), weights.norm2)
    branch = F.linear(out, *weights.linear)
    return norm(out + (branch if linear_keep is None else branch * linear_keep), weights.norm3)


def pool_attention(query: Tensor, frames: Tensor, real: Tensor, weights: Pooling, heads: int) -> Tensor:
    """Return p [P, h, F], X-Pool's softmax over frames."""
    q = F.linear(norm(query, weights.norm1), *weights.query).unflatten(-1, (heads, -1))  # [P, h, D / h]
    keys = heads_first(F.linear(norm(frames, weights.norm1), *weights.key), heads)
    logits = torch.einsum("phc,phfc->phf", q, keys) / keys.shape[-1] ** 0.5
    return logits.masked_fill(~real[:, None], -torch.inf).softmax(-1)


def norm(x: Tensor, weights: Norm) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], *weights, EPSILON)


def heads_first(x: Tensor, heads: int) -> Tensor:
    """[P, N, H * k] -> [P, H, N, k]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
