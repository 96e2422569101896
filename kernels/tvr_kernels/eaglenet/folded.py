"""EagleNet's score, folded exactly: 12 times less arithmetic a pair than `reference`, and no pair's graph is stored.

With y_s = sigma_s * R, so that candidate s is t + y_s (letters as in `weights`):
 (a) the last layer is read as logits only: its D x D blocks times its attention vectors are 2H vectors of length D;
 (b) the first layer's logits are likewise dot products of a node with folded vectors;
 (c) attention weights sum to one, so what a frame or the text itself sends is computed once a clip and once a caption
     (`graph_side`, `text_message`); frame-frame attention never sees the text;
 (d) per pair the one dense product is [W_text-text; W_frame-text; W_out; logit vectors] y_s;
 (e) T = t + sum_s w_s y_s;
 (f) X-Pool and the cosine are dot products of T with per-clip vectors, divided by three normalisers that are quadratic
     forms in the F attention weights (`pool_side`, `pooled_cosine`).
Pair tensors are clip-major here, [V, T, ...], so that all captions of a block share one product with a clip's vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tvr_kernels.eaglenet import noise
from tvr_kernels.eaglenet.pooled import attention, pooled_cosine
from tvr_kernels.eaglenet.reference import unit_or_zero
from tvr_kernels.eaglenet.weights import EagleNetWeights, GraphLayer, Options
from tvr_kernels.gemm import matmul

# Pair tensors of one block. A pair takes 0.4 MB at S = 20, D = 512, so 40 pairs on a CPU (they stay in its caches) and
# 640 on a GPU (enough rows for its matrix units).
_BLOCK_BYTES = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}


class Fold(NamedTuple):
    """Products of weights with weights. M = 2D + k + 4H for RGAT, D + 2H for GAT.

    message: [M, D], rows: the values of the relations that texts take part in, `out`, then per relation the receiver
    and the sender logit vectors. receiver, sender: [H, D], the last layer's logits of a hidden frame and text.
    """

    message: Tensor
    receiver: Tensor
    sender: Tensor


class Enriched(NamedTuple):
    """frame_text: [V, T, H, F, 1 + S] logits of the last layer. text: [V, T, D], T_ab."""

    frame_text: Tensor
    text: Tensor


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: EagleNetWeights) -> Tensor:
    """Return [T, V] scores from the tensors of `text_side` and `video_side`."""
    return _by_blocks(text, video, weights, pooled_cosine)


def frame_attention(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: EagleNetWeights) -> Tensor:
    """Return [T, V, F], X-Pool's softmax over frames given the enriched text, averaged over its heads."""
    return _by_blocks(text, video, weights, attention)


def _by_blocks(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: EagleNetWeights,
    finish: Callable[[Tensor, Mapping[str, Tensor], EagleNetWeights], Tensor],
) -> Tensor:
    """Return `finish(enriched [V', T', D], clips, weights)` [V', T', ...] of all blocks as [T, V, ...]."""
    fold = fold_weights(weights)
    texts, videos = len(text["text"]), len(video["frames"])
    rows, columns = _block(texts, videos, weights, video["frames"])
    out = []
    for v in range(0, videos, columns):
        some_video = {name: x[v : v + columns] for name, x in video.items()}
        parts = []
        for t in range(0, texts, rows):
            some_text = {name: x[t : t + rows] for name, x in text.items()}
            sigma = draw_noise(some_text, some_video, weights, slice(t, t + rows), slice(v, v + columns))
            enriched = enrich(some_text, some_video, weights, fold, sigma).text
            parts.append(finish(enriched, some_video, weights).transpose(0, 1))
        out.append(torch.cat(parts))
    return torch.cat(out, 1)


def fold_weights(weights: EagleNetWeights) -> Fold:
    """Multiply out what no item decides."""
    heads, out = weights.options.heads, weights.hidden.out
    # RGAT: texts never use the frame-frame relation, and frames never the text-text one
    relations = weights.hidden.relations if out is None else weights.hidden.relations[::2]
    rows = [relation.value for relation in relations]
    if out is not None:
        rows.append(out)
    for relation in relations:
        rows += [_logit_rows(relation.value, vector, heads) for vector in (relation.receiver, relation.sender)]
    last = weights.last.relations[-1]
    return Fold(
        torch.cat(rows), _logit_rows(last.value, last.receiver, heads), _logit_rows(last.value, last.sender, heads)
    )


def text_message(text: Tensor, fold: Fold) -> Tensor:
    """Return what the caption itself sends and receives with: [T, M]."""
    return matmul(text, fold.message.T)


def graph_side(frames: Tensor, real: Tensor, weights: EagleNetWeights) -> dict[str, Tensor]:
    """Return a clip's part of the graph: `values` [V, F, D], `receiver` and `sender` [V, F, H] towards texts.

    For RGAT also `base` [V, F, D]: what the frames send each other, and `out` of each frame.
    """
    options, hidden = weights.options, weights.hidden
    nodes = frames if weights.frame_positions is None else frames + weights.frame_positions
    to_text = hidden.relations[-1]
    values = _apply(nodes, to_text.value)
    by_head = values.unflatten(-1, (options.heads, -1))  # [V, F, H, k]
    side = {"values": values, "receiver": by_head @ to_text.receiver, "sender": by_head @ to_text.sender}
    if hidden.out is not None:
        side["base"] = _among_frames(nodes, real, hidden, options)
    return side


def enrich(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: EagleNetWeights,
    fold: Fold,
    sigma: Tensor,
    node_keep: Tensor | None = None,
) -> Enriched:
    """Return the enriched text of every pair of a block.

    text: {"text", "message"}; video: {"frames", "real"} and `graph_side`. sigma: [V, T, S, D], overwritten when no
    gradient is wanted. node_keep: [V, T, N, D], multiplies the hidden nodes (frames, text, candidates).
    """
    moved = _perturbations(text["text"], video, weights, sigma)  # y, [V, T, S, D]
    texts, frames = _hidden_nodes(text, video, weights, fold, moved)
    if node_keep is not None:
        slots = frames.shape[2]
        frames, texts = frames * node_keep[:, :, :slots], texts * node_keep[:, :, slots:]
    receiver = _apply(frames, fold.receiver).movedim(-1, 2)  # [V, T, H, F]
    sender = _apply(texts, fold.sender).movedim(-1, 2)  # [V, T, H, 1 + S]
    frame_text = F.leaky_relu(receiver[..., :, None] + sender[..., None, :], weights.options.slope)
    logits = _mean_over_frames(frame_text.mean(2), video["real"], weights.options)  # [V, T, 1 + S]
    share = logits.softmax(-1)[..., 1:]
    combined = torch.bmm(share.flatten(0, 1)[:, None], moved.flatten(0, 1)).view(*share.shape[:2], moved.shape[-1])
    return Enriched(frame_text, text["text"] + combined)


def log_radius(text: Tensor, frames: Tensor, real: Tensor, weights: EagleNetWeights) -> Tensor:
    """Return l_ab of every pair, [V, T, D]."""
    unit_text, unit_frames = unit_or_zero(text), unit_or_zero(frames)
    cosines = matmul(unit_frames.flatten(0, 1), unit_text.T).unflatten(0, frames.shape[:2]).mT  # [V, T, F]
    if weights.options.mask_padding:
        cosines = cosines.masked_fill(~real[:, None], 0.0)
    return torch.addmm(weights.radius.bias, cosines.flatten(0, 1), weights.radius.weight.T).unflatten(
        0, cosines.shape[:2]
    )


def draw_noise(
    text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: EagleNetWeights, rows: slice, columns: slice
) -> Tensor:
    """Return scaled noise [V, T, S, D] of a block, in memory that the caller owns."""
    if weights.sigma is not None:
        return weights.sigma[:, rows, columns].permute(2, 1, 0, 3).clone()
    options, like = weights.options, weights.radius.weight
    draw = noise.uniform if options.prior == "uniform" else noise.normal
    shape = (options.candidates, like.shape[0])
    sigma = draw(text["key"], video["key"][:, None], *shape, draw=weights.draw, dtype=like.dtype)
    return sigma if options.prior == "uniform" else sigma.mul_(options.prior_std)


def _perturbations(text: Tensor, video: Mapping[str, Tensor], weights: EagleNetWeights, sigma: Tensor) -> Tensor:
    radius = log_radius(text, video["frames"], video["real"], weights).exp()[:, :, None]
    return sigma * radius if torch.is_grad_enabled() else sigma.mul_(radius)


def _hidden_nodes(
    text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: EagleNetWeights, fold: Fold, moved: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the first layer's output after its ReLU: texts [V, T, 1 + S, D] and frames [V, T, F, D]."""
    sent = matmul(moved.flatten(0, 2), fold.message.T).unflatten(0, moved.shape[:3])  # (d), [V, T, S, M]
    run = _gat_nodes if weights.hidden.out is None else _rgat_nodes
    return run(text["message"], video, weights.options, sent, moved.shape[-1])


def _rgat_nodes(
    message: Tensor, video: Mapping[str, Tensor], options: Options, sent: Tensor, dim: int
) -> tuple[Tensor, Tensor]:
    heads, k = options.heads, dim // options.heads
    parts = [dim, dim, k, 4 * heads]
    own_tt, own_ft, own_out, own_logits = message.split(parts, -1)
    sent_tt, sent_ft, sent_out, sent_logits = sent.split(parts, -1)
    tt_receiver, tt_sender, ft_receiver, ft_sender = _text_logits(own_logits, sent_logits).split(heads, 2)
    among = _attention(tt_receiver, tt_sender, options)  # [V, T, H, 1 + S, 1 + S]
    from_frames = _attention(ft_receiver, _per_clip(video["sender"]), options, video["real"])  # [V, T, H, 1 + S, F]
    to_frames = _attention(_per_clip(video["receiver"]), ft_sender, options)  # [V, T, H, F, 1 + S]
    texts, frames = [], []
    for q in range(heads):
        head = slice(q * k, (q + 1) * k)
        base = _times_clip(from_frames[:, :, q], video["values"][..., head])
        texts.append(_plus_product(base, among[:, :, q, :, 1:], sent_tt[..., head]))
        frames.append(_product(to_frames[:, :, q, :, 1:], sent_ft[..., head]))
    # (c): weights sum to one, so the caption's own share is the same in every row
    own = own_tt + own_out.repeat(1, heads)  # [T, D]
    out = F.pad(sent_out, (0, 0, 1, 0)).repeat(1, 1, 1, heads)  # every head gets the same vector
    to_frame = video["base"][:, None] + own_ft[:, None]
    return torch.cat(texts, -1).add_(own[:, None]).add_(out).relu_(), torch.cat(frames, -1).add_(to_frame).relu_()


def _gat_nodes(
    message: Tensor, video: Mapping[str, Tensor], options: Options, sent: Tensor, dim: int
) -> tuple[Tensor, Tensor]:
    heads, k, slots = options.heads, dim // options.heads, video["values"].shape[1]
    own, own_logits = message.split([dim, 2 * heads], -1)
    sent, sent_logits = sent.split([dim, 2 * heads], -1)
    text_receiver, text_sender = _text_logits(own_logits, sent_logits).split(heads, 2)
    shape = (*text_receiver.shape[:3], slots)
    receiver = torch.cat([_per_clip(video["receiver"]).expand(shape), text_receiver], -1)  # [V, T, H, N]
    sender = torch.cat([_per_clip(video["sender"]).expand(shape), text_sender], -1)
    real = F.pad(video["real"], (0, text_sender.shape[-1]), value=True)
    attention = _attention(receiver, sender, options, real)  # [V, T, H, N, N]
    nodes = []
    for q in range(heads):
        head, rows = slice(q * k, (q + 1) * k), attention[:, :, q]
        base = _times_clip(rows[..., :slots], video["values"][..., head])
        base = base + rows[..., slots:].sum(-1, keepdim=True) * own[:, None, head]
        nodes.append(_plus_product(base, rows[..., slots + 1 :], sent[..., head]))
    joined = torch.cat(nodes, -1).relu_()
    return joined[:, :, slots:], joined[:, :, :slots]


def _among_frames(nodes: Tensor, real: Tensor, layer: GraphLayer, options: Options) -> Tensor:
    """Return frame-frame attention plus `out`, [V, F, D]."""
    assert layer.out is not None
    relation = layer.relations[1]
    values = _apply(nodes, relation.value).unflatten(-1, (options.heads, -1))  # [V, F, H, k]
    receiver, sender = ((values @ vector).movedim(-1, 1) for vector in (relation.receiver, relation.sender))
    attention = _attention(receiver[:, None], sender[:, None], options, real)[:, 0]  # [V, H, F, F]
    mixed = attention @ values.transpose(1, 2) + _apply(nodes, layer.out)[:, None]  # [V, H, F, k]
    return mixed.transpose(1, 2).flatten(2)


def _text_logits(own: Tensor, sent: Tensor) -> Tensor:
    """Logit scalars of the text nodes: own [T, X] and sent [V, T, S, X] give [V, T, X, 1 + S]."""
    return (F.pad(sent, (0, 0, 1, 0)) + own[:, None]).movedim(-1, 2)


def _attention(receiver: Tensor, sender: Tensor, options: Options, real: Tensor | None = None) -> Tensor:
    """Softmax over senders of the leaky sum: receiver [.., H, I], sender [.., H, J] -> [V, T, H, I, J].

    real: [V, J] bool, senders that exist; looked at with `mask_padding` only.
    """
    logits = F.leaky_relu(receiver[..., :, None] + sender[..., None, :], options.slope)
    if options.mask_padding and real is not None:
        logits = logits.masked_fill(~real[:, None, None, None], -torch.inf)
    return logits.softmax(-1)


def _mean_over_frames(logits: Tensor, real: Tensor, options: Options) -> Tensor:
    """[V, T, F, J] -> [V, T, J]."""
    if not options.mask_padding:
        return logits.mean(2)
    share = real.to(logits.dtype) / real.sum(-1, keepdim=True)
    return torch.einsum("vtfj,vf->vtj", logits, share)


def _per_clip(x: Tensor) -> Tensor:
    """[V, F, H] -> [V, 1, H, F]."""
    return x.movedim(-1, 1)[:, None]


def _times_clip(weights: Tensor, values: Tensor) -> Tensor:
    """[V, T, I, F] @ [V, F, k] -> [V, T, I, k], one product a clip."""
    return torch.bmm(weights.flatten(1, 2), values).unflatten(1, weights.shape[1:3])


def _product(weights: Tensor, values: Tensor) -> Tensor:
    """[V, T, I, S] @ [V, T, S, k]."""
    return torch.bmm(weights.flatten(0, 1), values.flatten(0, 1)).unflatten(0, weights.shape[:2])


def _plus_product(base: Tensor, weights: Tensor, values: Tensor) -> Tensor:
    """base [V, T, I, k] + `_product`."""
    return torch.baddbmm(base.flatten(0, 1), weights.flatten(0, 1), values.flatten(0, 1)).unflatten(0, base.shape[:2])


def _apply(x: Tensor, matrix: Tensor) -> Tensor:
    """x [..., D], matrix [O, D] -> [..., O]."""
    return matmul(x.flatten(0, -2), matrix.T).unflatten(0, x.shape[:-1])


def _logit_rows(value: Tensor, vector: Tensor, heads: int) -> Tensor:
    """Return W_q^T a for every head q: [H, D]."""
    return torch.einsum("hkd,k->hd", value.unflatten(0, (heads, -1)), vector)


def _block(texts: int, videos: int, weights: EagleNetWeights, frames: Tensor) -> tuple[int, int]:
    """Return (captions, clips) of a block: as many captions a clip as fit, then as many clips."""
    slots, dim = frames.shape[1:]
    options = weights.options
    # y, its messages, the hidden nodes about three times over
    numbers = options.candidates * (4 * dim + dim // options.heads) + 3 * (options.candidates + slots) * dim
    budget = _BLOCK_BYTES.get(frames.device.type, _BLOCK_BYTES["cpu"])
    pairs = max(1, budget // (numbers * frames.element_size()))
    rows = max(1, min(texts, pairs))
    return rows, max(1, min(videos, pairs // rows))
