"""What one caption or one clip alone decides of the GARE increment; `folded.py` and `increments.py` combine it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

if TYPE_CHECKING:
    from tvr_kernels.gare import GareWeights

LAYER_NORM_EPS = 1e-5


class Attention(NamedTuple):
    """The clip's part of the increment's attention.

    Logit of frame f for a caption t: `(shift_f - t . kappa_f) / sigma + offset_f`, with
    `sigma^2 = variance + var(t) - 2 t . gap / D + eps`.
    """

    kappa: Tensor  # [V, F, D], centred; W_q, W_k, the LayerNorm's gain and 1 / sqrt(D) folded in
    gap: Tensor  # [V, D], the centred mean frame
    shift: Tensor  # [V, F]
    offset: Tensor  # [V, F], -inf on frames that are not attended
    variance: Tensor  # [V], of the mean frame over its features


def attention_side(frames: Tensor, normed: Tensor, attend: Tensor, w: GareWeights) -> Attention:
    """frames: [V, F, D] and the same after LN1; attend: [V, F] bool. The key bias cancels in the softmax: left out."""
    size = frames.shape[-1]
    share = attend.to(frames.dtype) / attend.sum(1, keepdim=True)  # [V, F]
    gap = centre((share[..., None] * frames).sum(1))
    keys = normed @ w.key_weight.T  # [V, F, D]
    kappa = centre(w.norm1_weight * (keys @ w.query_weight)) / size**0.5
    offset = keys @ (w.query_weight @ w.norm1_bias + w.query_bias) / size**0.5
    return Attention(
        kappa=kappa,
        gap=gap,
        shift=(kappa @ gap[..., None])[..., 0],
        offset=offset.masked_fill(~attend, float("-inf")),
        variance=gap.square().mean(-1),
    )


def value_side(normed: Tensor, w: GareWeights) -> Tensor:
    """Return u [V, F, D]: centred values behind the output projection; LN2's input is their alpha-mean, centred."""
    return centre((normed @ w.value_weight.T + w.value_bias) @ w.out_weight.T + w.out_bias)


def norm1(frames: Tensor, w: GareWeights) -> Tensor:
    """LN1, which the frames share with the gap."""
    return layer_norm(frames, frames.shape[-1:], w.norm1_weight, w.norm1_bias, LAYER_NORM_EPS)


def shared_rows(w: GareWeights) -> tuple[Tensor, Tensor]:
    """Return r_0 [D], and the two rows of Q that no clip changes [2, D]."""
    residual_bias = centre(w.norm2_bias + w.linear_weight @ w.norm2_bias + w.linear_bias)
    rows = torch.stack([w.norm3_weight * residual_bias, w.norm3_bias]) @ w.mean_weight.T
    return residual_bias, torch.stack([rows[0], rows[1] + w.mean_bias])


def centre(x: Tensor) -> Tensor:
    """Subtract the mean over the last dimension."""
    return x - x.mean(-1, keepdim=True)


def alpha(
    on_kappa: Tensor, on_gap: Tensor, text_variance: Tensor, size: int, shift: Tensor, offset: Tensor, variance: Tensor
) -> Tensor:
    """Return the attention weights [V, F, T].

    on_kappa: [V, F, T] products -t . kappa; on_gap: [V, T] products t . gap; text_variance: [T]; size: D; the rest
    as in `Attention`.
    """
    # |C(v - t)|^2 / D; rounding may push it below zero where caption and mean frame agree.
    gap_variance = variance[:, None] + text_variance - on_gap * (2 / size)
    inverse = (gap_variance.clamp_min(0) + LAYER_NORM_EPS).rsqrt()  # [V, T]
    return torch.addcmul(offset[..., None], on_kappa + shift[..., None], inverse[:, None]).softmax(1)


def after_norm2(weights: Tensor, gram: Tensor) -> Tensor:
    """Return a = [alpha / sigma2; 1], [V, F + 1, T], from alpha [V, F, T] and u u' / D [V, F, F]."""
    return torch.cat(
        [weights * (form(gram, weights) + LAYER_NORM_EPS).rsqrt()[:, None], torch.ones_like(weights[:, :1])], 1
    )


def form(gram: Tensor, x: Tensor) -> Tensor:
    """Return x' G x over dim 1: G [V, n, n], x [V, n, T] -> [V, T]."""
    return (torch.bmm(gram, x) * x).sum(1)
