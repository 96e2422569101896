"""NegNCE: InfoNCE with a second term that pushes down the negatives which beat a positive.

Source: arXiv 2309.11082 and the authors' port at e7b7dc7 (spec section 5).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tvr_cli.nn.losses import false_negatives, negatives

PROBABILITY_FLOOR = 1e-6  # probabilities are clamped to [floor, 1 - floor]; outside, the gradient is zero


class NegNCE(NamedTuple):
    """Per direction the positives' and the hard negatives' terms, unweighted, and their sum; then the mean of both."""

    positive_t2v: Tensor
    positive_v2t: Tensor
    negative_t2v: Tensor
    negative_v2t: Tensor
    t2v: Tensor
    v2t: Tensor
    total: Tensor


def neg_nce(
    scores: Tensor, scale: float = 100.0, *, positives: Tensor | None = None, negative_weight: float = 0.5
) -> NegNCE:
    """Return mean -log P_ii + negative_weight * mean over H of -log(1 - P_ij), averaged over both directions.

    scores: [B, B] cosines; scale: fixed, on the logits of the softmax P. H: `hard_negatives(scores)`. positives:
    [B, B] bool or None = the diagonal, exactly the authors' loss; other positives leave both H and the denominators.
    """
    logits = scale * scores
    hard = hard_negatives(scores, positives)
    if positives is not None:
        logits = logits.masked_fill(false_negatives(positives), float("-inf"))
    positive_t2v, negative_t2v = _direction(logits, hard)
    positive_v2t, negative_v2t = _direction(logits.T, hard.T)
    t2v = positive_t2v + negative_weight * negative_t2v
    v2t = positive_v2t + negative_weight * negative_v2t
    return NegNCE(positive_t2v, positive_v2t, negative_t2v, negative_v2t, t2v, v2t, (t2v + v2t) / 2)


def hard_negatives(scores: Tensor, positives: Tensor | None = None) -> Tensor:
    """Return [B, B] bool: negatives that score above the positive of their row or of their column."""
    own = scores.detach().diagonal()
    beats = (scores > own[:, None]) | (scores > own[None, :])
    return beats & negatives(positives if positives is not None else torch.zeros_like(beats))


def _direction(logits: Tensor, hard: Tensor) -> tuple[Tensor, Tensor]:
    probability = logits.softmax(1).clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    positive = -probability.diagonal().log().mean()
    count = hard.sum().clamp_min(1)  # without any hard negative the term is absent
    negative = -(torch.log1p(-probability) * hard).sum() / count
    return positive, negative
