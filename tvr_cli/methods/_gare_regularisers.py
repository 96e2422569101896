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

STD_EPS = 1e-6  # added to the standard deviation over captions
LOG_EPS = 1e-8  # added inside the logarithm of the diversity term

# Numbers of V x V and V x D a block of captions may keep for the backward pass before it is recomputed instead:
# 2^25 floats = 134 MB, so a batch of 128 at D = 512 (10.5 M) is kept whole and one of 512 goes in blocks of 64.
_KEPT = 1 << 25


@dataclass(frozen=True)
class Increments:
    """What the regularisers need of Delta, whichever way it is held.

    radius: [T, V] lengths. mean, std: [V, D] over captions, std unbiased. of_texts: a slice of captions -> their
    Delta [t, V, D].
    """

    radius: Tensor
    mean: Tensor
    std: Tensor
    of_texts: Callable[[slice], Tensor]


def explicit(delta: Tensor) -> Increments:
    """delta: [T, V, D]."""
    return Increments(delta.norm(dim=-1), delta.mean(0), delta.std(0), lambda texts: delta[texts])


def folded(coefficients: Tensor, rows: Tensor) -> Increments:
    """From `Delta_ij = sum_k coefficients[j, k, i] rows[j, k]`: [V, n, T] and [V, n, D]. Nothing is T x V x D.

    Moments over captions are moments of the coefficients: mean = Q' E[c], variance_d = Q_d' Cov(c) Q_d.
    """
    captions = coefficients.shape[-1]
    mean = coefficients.mean(-1, keepdim=True)  # [V, n, 1]
    centred = coefficients - mean
    covariance = centred @ centred.mT / (captions - 1)  # [V, n, n]
    variance = ((covariance @ rows) * rows).sum(1)  # [V, D]
    varies = variance > 0  # one frame alone: no caption changes its weight, and sqrt has no slope at zero
    std = torch.where(varies, torch.where(varies, variance, 1).sqrt(), 0)
    radius = ((rows @ rows.mT @ coefficients) * coefficients).sum(1).clamp_min(0).sqrt().T
    return Increments(
        radius, (rows * mean).sum(1), std, lambda texts: torch.einsum("vkt,vkd->tvd", coefficients[..., texts], rows)
    )


def bottleneck(increments: Increments) -> Tensor:
    """Return [V]: KL of the Gaussian of Delta over captions to N(0, I), summed over the D features."""
    std = increments.std + STD_EPS
    return 0.5 * (std.square() + increments.mean.square() - 1 - 2 * std.log()).sum(-1)


def direction(increments: Increments, sharpness: float) -> Tensor:
    """Return [T]: ln mean_jk exp(-sharpness (1 - cos(Delta_j, Delta_k))) over all clip pairs, j = k included.

    Lower = the increments of a caption point in more different ways.
    """
    captions, clips = increments.radius.shape
    size = increments.mean.shape[-1]

    def block(texts: slice) -> Tensor:
        units = normalize(increments.of_texts(texts), dim=-1, eps=1e-12)  # [t, V, D]
        cosines = units @ units.mT  # [t, V, V]
        return ((-sharpness * (1 - cosines)).exp().mean((1, 2)) + LOG_EPS).log()

    step = max(1, _KEPT // (clips * (clips + size)))
    if step >= captions:
        return block(slice(None))
    parts = [slice(i, i + step) for i in range(0, captions, step)]
    return torch.cat([checkpoint(block, part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def spread(increments: Increments) -> Tensor:
    """Return minus the mean over captions of the unbiased variance of |Delta| over clips; ungated."""
    return -increments.radius.var(1).mean()


def gated(value: Tensor, lower: float) -> Tensor:
    """Return `value` if it is at least -lower, else zero: value and gradient vanish together."""
    return torch.where(value >= -lower, value, torch.zeros_like(value))
