"""A rank's share of a batch, for a loss that is computed row by row of the scores: `Method.loss_rows`.

Every rank computes a term of the loss, and the sum over ranks is the loss. What it takes from other ranks is gathered
or summed, and the way back is a sum over ranks too: each of them has the gradient of its own term alone. So the ways
back have to be the same on all ranks, also on one that has no pairs and whose term therefore needs nothing: whatever
was gathered or summed has a gradient, and a term hangs on all of it. Torch then goes back in the reverse order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    _found: list[Tensor] = field(default_factory=list)

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
        if not x.is_floating_point():
            return self.ranks.join(x, self.counts)
        return self._keep(_Gather.apply(_with_gradient(x), self))

    def sum(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return self.ranks.sum(x)
        return self._keep(_Sum.apply(_with_gradient(x), self.ranks))

    def max(self, x: Tensor) -> Tensor:
        return self.ranks.max(x)

    def tied(self, term: LossOutput) -> LossOutput:
        """Return this rank's term so that its gradient goes through all that was gathered and summed for it."""
        return LossOutput(_Tie.apply(term.total, *self._found), term.parts)

    def together(self, term: LossOutput) -> LossOutput:
        """Return the loss and its parts, detached, from this rank's terms of them; in double precision."""
        values = torch.stack([x.detach().double() for x in (term.total, *term.parts.values())])
        total, *parts = self.ranks.sum(values)
        return LossOutput(total, dict(zip(term.parts, parts, strict=True)))

    def _keep(self, found: Tensor) -> Tensor:
        self._found.append(found)
        return found


def _with_gradient(x: Tensor) -> Tensor:
    return x if x.requires_grad else x.detach().requires_grad_()


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


class _Tie(torch.autograd.Function):
    """The first of some tensors; back: nothing for the others, which reach theirs as zeros."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, *found: Tensor) -> Tensor:
        ctx.others = len(found)
        return total.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, *(None for _ in range(ctx.others))
