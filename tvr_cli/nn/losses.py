"""Losses that two or more methods share. All of them take [B, B] score matrices, rows captions, columns clips.

`positives` [B, B] bool says which cells match (`Batch.positives`). The papers know the diagonal only; where a batch
holds several captions of one video, the cells off the diagonal that match as well are neither pulled nor pushed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class InfoNCE(NamedTuple):
    """The two directions and their mean; scalars."""

    t2v: Tensor
    v2t: Tensor
    total: Tensor


def info_nce(logits: Tensor, positives: Tensor | None = None) -> InfoNCE:
    """Return -mean_i log softmax(logits)_ii over rows (t2v), over columns (v2t), and the mean of the two.

    logits: [B, B], already multiplied by the scale. positives: [B, B] bool or None = the diagonal, exactly the papers'
    loss; other positives leave the denominators of their row and column.
    Source: CLIP (arXiv 2103.00020), as CLIP4Clip and its descendants use it.
    """
    if positives is not None:
        logits = logits.masked_fill(false_negatives(positives), float("-inf"))
    t2v = (logits.logsumexp(1) - logits.diagonal()).mean()
    v2t = (logits.logsumexp(0) - logits.diagonal()).mean()
    return InfoNCE(t2v, v2t, (t2v + v2t) / 2)


def false_negatives(positives: Tensor) -> Tensor:
    """Return [B, B] bool: cells that match although they are not on the diagonal."""
    return positives & ~diagonal(positives)


def negatives(positives: Tensor) -> Tensor:
    """Return [B, B] bool: cells that do not match. With the diagonal alone: all other cells."""
    return ~(positives | diagonal(positives))


def diagonal(like: Tensor) -> Tensor:
    """Return the [B, B] bool diagonal on the device of `like` [B, B]."""
    return torch.eye(len(like), dtype=torch.bool, device=like.device)
