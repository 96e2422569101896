"""A batch whose pairs lie in several processes, as a loss sees it: `types.BatchShare`, and what losses do with one.

Rows of a table of scores are a process' own captions, its columns the clips of all. A loss is then a sum over
processes: each returns its term, and what all of them compute alike counts 1 / world in every term.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tvr_cli.types import Batch, BatchShare


@dataclass(frozen=True)
class Whole:
    """A batch of `size` pairs that one process holds; implements `types.BatchShare`."""

    size: int
    first = 0
    world = 1

    def own(self, x: Tensor) -> Tensor:
        return x

    def gather(self, x: Tensor) -> Tensor:
        return x

    def sum(self, x: Tensor) -> Tensor:
        return x

    def max(self, x: Tensor) -> Tensor:
        return x.detach()


def positives(batch: Batch, share: BatchShare) -> Tensor:
    """Return [b, B] bool: True where own caption i describes clip j of the whole batch; as `Batch.positives`.

    batch: the b own pairs.
    """
    if batch.video_id is None:
        pairs = torch.arange(share.size, device=batch.text.pooled.device)
        return share.own(pairs)[:, None] == pairs[None, :]
    return batch.video_id[:, None] == share.gather(batch.video_id)[None, :]


def logsumexp_over_captions(logits: Tensor, share: BatchShare) -> Tensor:
    """Return the logsumexp of every column [B] over the captions of all processes. logits: [b, B], b may be 0.

    The most of a column is finite: the pair on the diagonal is never masked.
    """
    if share.world == 1:
        return logits.logsumexp(0)
    lowest = logits.new_full((1, share.size), float("-inf"))
    most = share.max(torch.cat([logits.detach(), lowest]).amax(0))
    return share.sum((logits - most).exp().sum(0)).log() + most
