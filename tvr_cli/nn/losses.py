"""Losses that two or more methods share. All of them take [B, B] score matrices, rows captions, columns clips.

With `share` a matrix has the rows of one process' own b captions, [b, B]; None = all captions are here, b = B.
`positives` [b, B] bool says which cells match (`Batch.positives`). The papers know the diagonal only; where a batch
holds several captions of one video, the cells off the diagonal that match as well are neither pulled nor pushed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tvr_cli.nn.shares import Whole, logsumexp_over_captions
from tvr_cli.types import BatchShare


class InfoNCE(NamedTuple):
    """The two directions and their mean; scalars."""

    t2v: Tensor
    v2t: Tensor
    total: Tensor


def info_nce(logits: Tensor, positives: Tensor | None = None, share: BatchShare | None = None) -> InfoNCE:
    """Return -mean_i log softmax(logits)_ii over rows (t2v), over columns (v2t), and the mean of the two.

    logits: [B, B], already multiplied by the scale. positives: [B, B] bool or None = the diagonal, exactly the papers'
    loss; other positives leave the denominators of their row and column. share: where other processes have the other
    captions: logits and positives are then [b, B], and what is returned is this process' term of the sum over all.
    Source: CLIP (arXiv 2103.00020), as CLIP4Clip and its descendants use it.
    """
    share = Whole(len(logits)) if share is None else share
    if positives is not None:
        logits = logits.masked_fill(false_negatives(positives, share), float("-inf"))
    t2v = (logits.logsumexp(1) - logits.diagonal(share.first)).sum() / share.size
    v2t = (share.own(logsumexp_over_captions(logits, share)) - logits.diagonal(share.first)).sum() / share.size
    return InfoNCE(t2v, v2t, (t2v + v2t) / 2)


def false_negatives(positives: Tensor, share: BatchShare | None = None) -> Tensor:
    """Return [b, B] bool: cells that match although they are not on the diagonal. positives: [b, B] bool."""
    return positives & ~diagonal(positives, share)


def negatives(positives: Tensor, share: BatchShare | None = None) -> Tensor:
    """Return [b, B] bool: cells that do not match. With the diagonal alone: all other cells."""
    return ~(positives | diagonal(positives, share))


def diagonal(like: Tensor, share: BatchShare | None = None) -> Tensor:
    """Return the [b, B] bool cells of own pairs on the device of `like` [b, B]: the diagonal, of a whole batch."""
    pairs = torch.arange(like.shape[1], device=like.device)
    first = 0 if share is None else share.first
    return pairs[first : first + len(like), None] == pairs[None, :]
