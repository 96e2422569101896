"""EagleNet's pairs in training: scores of a batch with dropout and gradients, in bounded memory.

The folded graph of `tvr_kernels.eaglenet` serves here too: dropout acts after the first layer's ReLU and leaves the
algebra exact. X-Pool's dropout is drawn per pair, so its block runs unfolded. Where the batch does not fit, blocks of
captions are recomputed in the backward pass; every draw is named after its caption, so a block draws the same again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tvr_kernels.eaglenet import EagleNetWeights, reference
from tvr_kernels.eaglenet.folded import enrich, fold_weights, graph_side, log_radius, text_message

from tvr_cli.nn.losses import diagonal, false_negatives
from tvr_cli.nn.xpool import XPool
from tvr_cli.types import BatchShare, Draws

SAVED_BYTES = 512 * 2**20  # pair tensors that one block may keep for its backward pass


class Dropout(NamedTuple):
    """Probabilities of dropping: `nodes` of the first graph layer, `linear` branch of X-Pool."""

    nodes: float
    linear: float


class Pairs(NamedTuple):
    """A batch's pairs, captions first. scores: [A, B]. enriched: T_ab and pooled: y_ab, [A, B, D], not normalised."""

    scores: Tensor
    enriched: Tensor
    pooled: Tensor


def score_pairs(
    text: Tensor,
    frames: Tensor,
    real: Tensor,
    weights: EagleNetWeights,
    pool: XPool,
    dropout: Dropout,
    draws: Draws,
    *,
    first: int = 0,
    saved_bytes: int = SAVED_BYTES,
) -> Pairs:
    """Return the pairs of captions [A, D] and clips [B, F, D], real [B, F] bool; differentiable.

    Draws, per caption a: `sigma.a` [S, B, D], `gnn_dropout_keep.0.a` [B, F + 1 + S, D], `pool_dropout_keep.a` [B, D].
    first: number of the first caption, where the captions are part of a batch.
    """
    fold = fold_weights(weights)
    clip = {"frames": frames, "real": real, **graph_side(frames, real, weights)}
    attend = real if weights.options.mask_padding else None

    def block(start: int, some_text: Tensor, message: Tensor) -> Pairs:
        rows = range(start, start + len(some_text))
        sigma = _sigma(draws, rows, frames, weights)
        keep = _node_keep(draws, rows, frames, weights, dropout.nodes)
        enriched = enrich({"text": some_text, "message": message}, clip, weights, fold, sigma, keep).text.transpose(
            0, 1
        )
        linear_keep = _linear_keep(draws, rows, frames, dropout.linear)
        pooled = pool(enriched, frames, attend, linear_keep)
        scores = (F.normalize(enriched, dim=-1) * F.normalize(pooled, dim=-1)).sum(-1)
        return Pairs(scores, enriched, pooled)

    message = text_message(text, fold)
    at_once = max(1, saved_bytes // (len(frames) * _pair_bytes(frames, weights)))
    if at_once >= len(text):
        return block(first, text, message)
    blocks = [
        checkpoint(
            block,
            first + start,
            text[start : start + at_once],
            message[start : start + at_once],
            use_reentrant=False,
            preserve_rng_state=False,  # all randomness is in `draws`
        )
        for start in range(0, len(text), at_once)
    ]
    return Pairs(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def support_text(mean_pooled: Tensor, text: Tensor, radius: Tensor) -> Tensor:
    """Return u = unit(unit(m - t) * R + t): m the mean pooled direction of a clip, R = exp(l); [..., D] all."""
    return F.normalize(F.normalize(mean_pooled - text, dim=-1) * radius + text, dim=-1)


def support_scores(
    text: Tensor, frames: Tensor, real: Tensor, pooled: Tensor, weights: EagleNetWeights, share: BatchShare
) -> tuple[Tensor, Tensor]:
    """Return s' [A, B] = u_ab . unit(y_ab), and the matching u_ii [A, D], of a batch whose pairs match by position.

    text: [A, D], captions of `share`, and pooled: [A, B, D]; frames: [B, F, D], of all clips. The clip's mean direction
    is taken over all captions of the batch and not normalised again.
    """
    mean_pooled = share.sum(F.normalize(pooled, dim=-1).sum(0)) / share.size  # m, [B, D]

    def rows(some_text: Tensor, some_pooled: Tensor) -> Tensor:
        radius = log_radius(some_text, frames, real, weights).exp().transpose(0, 1)  # [A', B, D]
        support = support_text(mean_pooled, some_text[:, None], radius)
        return (support * F.normalize(some_pooled, dim=-1)).sum(-1)

    at_once = max(1, SAVED_BYTES // (8 * pooled.shape[1:].numel() * pooled.element_size()))
    if at_once >= len(text):
        scores = rows(text, pooled)
    else:
        chunks = zip(text.split(at_once), pooled.split(at_once), strict=True)
        scores = torch.cat(
            [checkpoint(rows, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
        )
    seen = real if weights.options.mask_padding else torch.ones_like(real)
    matching_radius = reference.radius(text, share.own(frames), share.own(seen), weights.radius).exp()
    return scores, support_text(share.own(mean_pooled), text, matching_radius)


def sigmoid_loss(
    scores: Tensor, temp_prior: Tensor, bias: Tensor, positives: Tensor | None, share: BatchShare | None = None
) -> Tensor:
    """Return -(1/n) sum_ij log sigmoid(z_ij (exp(temp_prior) s_ij + bias)), z = +1 on the diagonal, else -1.

    positives: [n, n] bool; cells off the diagonal that match as well are left out. None = the authors' diagonal.
    share: where other processes have other captions, scores and positives have the rows of the own ones.
    Deviation: log sigmoid in its stable form; the authors take the logarithm of a sigmoid, -inf below -88.8 in fp32.
    Source: SigLIP (arXiv 2303.15343).
    """
    signs = 2.0 * diagonal(scores, share).to(scores.dtype) - 1.0
    terms = F.logsigmoid(signs * (temp_prior.exp() * scores + bias))
    if positives is not None:
        terms = terms.masked_fill(false_negatives(positives, share), 0.0)
    return -terms.sum() / scores.shape[1]


def _sigma(draws: Draws, rows: range, frames: Tensor, weights: EagleNetWeights) -> Tensor:
    """Candidate noise of a block, [B, A', S, D]."""
    options = weights.options
    draw = draws.uniform if options.prior == "uniform" else draws.normal
    shape = (options.candidates, len(frames), frames.shape[-1])
    drawn = [draw(f"sigma.{a}", shape) for a in rows]
    sigma = _stack(drawn, shape, frames).permute(2, 0, 1, 3).to(frames)
    return sigma if options.prior == "uniform" else sigma * options.prior_std


def _node_keep(draws: Draws, rows: range, frames: Tensor, weights: EagleNetWeights, drop: float) -> Tensor | None:
    """Dropout mask of a block's hidden nodes, [B, A', F + 1 + S, D], divided by the kept share."""
    if not drop:
        return None
    shape = (len(frames), frames.shape[1] + 1 + weights.options.candidates, frames.shape[-1])
    keep = [draws.keep(f"gnn_dropout_keep.0.{a}", shape, drop) for a in rows]
    return _stack(keep, shape, frames, 1).to(frames) / (1 - drop)


def _linear_keep(draws: Draws, rows: range, frames: Tensor, drop: float) -> Tensor | None:
    """Dropout mask of a block's linear branch, [A', B, D], divided by the kept share."""
    if not drop:
        return None
    shape = (len(frames), frames.shape[-1])
    keep = [draws.keep(f"pool_dropout_keep.{a}", shape, drop) for a in rows]
    return _stack(keep, shape, frames).to(frames) / (1 - drop)


def _stack(drawn: list[Tensor], shape: tuple[int, ...], like: Tensor, dim: int = 0) -> Tensor:
    """Stack the draws of a block's captions along `dim`; a process may have none of a batch's."""
    return torch.stack(drawn, dim) if drawn else like.new_empty((*shape[:dim], 0, *shape[dim:]))


def _pair_bytes(frames: Tensor, weights: EagleNetWeights) -> int:
    """What autograd keeps of one pair: candidates and their messages, hidden nodes with masks, X-Pool's vectors."""
    slots, dim = frames.shape[1:]
    candidates = weights.options.candidates
    numbers = candidates * 5 * dim + (slots + 1 + candidates) * 4 * dim + 12 * dim
    return numbers * frames.element_size()
