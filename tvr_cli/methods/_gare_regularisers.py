"""GARE's three regularisers of the increments Delta_ij, from explicit increments or from their folded form.

All three look at one batch: T captions against V clips, Delta [T, V, D]. Source: the authors' code at e42b0e2, which
decides where the paper says otherwise (the "trust region" rewards spread, it bounds nothing).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from tvr_cli.nn.shares import Whole
from tvr_cli.types import BatchShare

STD_EPS = 1e-6  # added to the standard deviation over captions
LOG_EPS = 1e-8  # added inside the logarithm of the diversity term

# Numbers of V x V and V x D that a block of captions holds at a time: 2^20 floats = 4 MB, so that a block's handful of
# such tensors stays in the cache. With 128 pairs at D = 512 that is 12 captions; larger blocks are slower.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Increments:
    """What the regularisers need of Delta, whichever way it is held; moments are of the captions of all processes.

    radius: [T, V] lengths. mean, std: [V, D] over captions, std unbiased. held: Delta itself or what it is made of;
    captions: its dimension of T; expand: a part of `held` -> the Delta [t, V, D] of its captions.
    """

    radius: Tensor
    mean: Tensor
    std: Tensor
    held: Tensor
    captions: int
    expand: Callable[[Tensor], Tensor]


def explicit(delta: Tensor, share: BatchShare | None = None) -> Increments:
    """delta: [T, V, D]. share: where other processes have other captions."""
    radius = delta.norm(dim=-1)
    if share is None or share.world == 1:
        mean, std = delta.mean(0), delta.std(0)
    else:
        mean = share.sum(delta.sum(0)) / share.size
        # The sum of squares around the mean has no slope towards it, so it is a constant there.
        squares = share.sum((delta - mean.detach()).square().sum(0))
        std = _root(squares / (share.size - 1))
    return Increments(radius, mean, std, delta, 0, lambda part: part)


def folded(coefficients: Tensor, rows: Tensor, share: BatchShare | None = None) -> Increments:
    """From `Delta_ij = sum_k coefficients[j, k, i] rows[j, k]`: [V, n, T] and [V, n, D]. Nothing is T x V x D.

    Moments over captions are moments of the coefficients: mean = Q' E[c], variance_d = Q_d' Cov(c) Q_d. share: where
    other processes have other captions.
    """
    share = Whole(coefficients.shape[-1]) if share is None else share
    mean = share.sum(coefficients.sum(-1, keepdim=True)) / share.size  # [V, n, 1]
    centred = coefficients - mean
    covariance = share.sum(centred @ centred.mT) / (share.size - 1)  # [V, n, n]
    std = _root(((covariance @ rows) * rows).sum(1))  # [V, D]
    radius = ((rows @ rows.mT @ coefficients) * coefficients).sum(1).clamp_min(0).sqrt().T

    def expand(part: Tensor) -> Tensor:
        return (part.mT @ rows).transpose(0, 1)

    return Increments(radius, (rows * mean).sum(1), std, coefficients, 2, expand)


def bottleneck(increments: Increments) -> Tensor:
    """Return [V]: KL of the Gaussian of Delta over captions to N(0, I), summed over the D features."""
    std = increments.std + STD_EPS
    return 0.5 * (std.square() + increments.mean.square() - 1 - 2 * std.log()).sum(-1)


def direction(increments: Increments, sharpness: float) -> Tensor:
    """Return [T]: ln mean_jk exp(-sharpness (1 - cos(Delta_j, Delta_k))) over all clip pairs, j = k included.

    Lower = the increments of a caption point in more different ways.
    """
    clips, size = increments.mean.shape

    def block(part: Tensor) -> Tensor:
        units = normalize(increments.expand(part), dim=-1, eps=1e-12)  # [t, V, D]
        cosines = units @ units.mT  # [t, V, V]
        return ((-sharpness * (1 - cosines)).exp().mean((1, 2)) + LOG_EPS).log()

    parts = increments.held.split(max(1, _BLOCK // (clips * (clips + size))), increments.captions)
    if len(parts) == 1:
        return block(increments.held)
    return torch.cat([checkpoint(block, part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def spread(increments: Increments) -> Tensor:
    """Return minus the sum over captions of the unbiased variance of |Delta| over clips; ungated."""
    return -increments.radius.var(1).sum()


def gated(value: Tensor, lower: float) -> Tensor:
    """Return `value` if it is at least -lower, else zero: value and gradient vanish together."""
    return torch.where(value >= -lower, value, torch.zeros_like(value))


def _root(variance: Tensor) -> Tensor:
    varies = variance > 0  # one frame alone: no caption changes its weight, and sqrt has no slope at zero
    return torch.where(varies, torch.where(varies, variance, 1).sqrt(), 0)
