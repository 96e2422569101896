"""A rank's share of a batch, for a loss that is computed row by row of the scores: `Method.loss_rows`.

Every rank computes a term of the loss, and the sum over ranks is the loss. What it takes from other ranks is gathered
or summed, and the way back is a sum over ranks too: each of them has the gradient of its own term alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tvr_cli.engine.training.ranks import Ranks
from tvr_cli.types import LossOutput


@dataclass(frozen=True)
class Share:
    """The share of one of `ranks`, which have `counts` pairs of a batch; implements `types.BatchShare`."""

    ranks: Ranks
    counts: Sequence[int]

    @property
    def size(self) -> int:
        return sum(self.counts)

    @property
    def first(self) -> int:
        return sum(self.counts[: self.ranks.rank])

    @property
    def world(self) -> int:
        return self.ranks.world

    def own(self, x: Tensor) -> Tensor:
        return x[self.first : self.first + self.counts[self.ranks.rank]]

    def gather(self, x: Tensor) -> Tensor:
        return _Gather.apply(x, self)

    def sum(self, x: Tensor) -> Tensor:
        return _Sum.apply(x, self.ranks)

    def max(self, x: Tensor) -> Tensor:
        return self.ranks.max(x)

    def together(self, term: LossOutput) -> LossOutput:
        """Return the loss and its parts, detached, from this rank's terms of them; in double precision."""
        values = torch.stack([x.detach().double() for x in (term.total, *term.parts.values())])
        total, *parts = self.ranks.sum(values)
        return LossOutput(total, dict(zip(term.parts, parts, strict=True)))


class _Gather(torch.autograd.Function):
    """Rows of all ranks from own ones; back: own rows of the summed gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Share) -> Tensor:
        ctx.share = share
        return share.ranks.join(x.detach(), share.counts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.share.own(ctx.share.ranks.sum(gradient)), None


class _Sum(torch.autograd.Function):
    """The sum over ranks; back: the sum of their gradients, for each rank has used it for its own term."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.sum(gradient), None
