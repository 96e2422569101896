"""The GARE score as its equations, with every pair tensor: T x V x D numbers. The test oracle of the other forms."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from tvr_kernels.gare import GareWeights
from tvr_kernels.gare._sides import LAYER_NORM_EPS


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GareWeights) -> Tensor:
    """Return [T, V]; see the package for the inputs."""
    t, frames = text["text"], video["columns"][:, : video["mask"].shape[1]]  # [T, D], [V, F, D]
    moved = t[:, None] + increment(t, frames, video["attend"], weights)  # [T, V, D]
    pooled = pool(t, frames, video["mask"], weights.temperature)  # [T, V, D]
    return (moved * pooled).sum(-1) / (moved.norm(dim=-1) * pooled.norm(dim=-1))


def increment(
    text: Tensor, frames: Tensor, attend: Tensor, weights: GareWeights, keep: Tensor | None = None, drop: float = 0.0
) -> Tensor:
    """Return Delta [T, V, D]. keep: [T, V, D] bool, the dropout mask behind the residual's linear map, or None."""
    w, size = weights, text.shape[-1]

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return layer_norm(x, (size,), weight, bias, LAYER_NORM_EPS)

    share = attend.to(frames.dtype) / attend.sum(1, keepdim=True)
    gap = torch.einsum("vf,vfd->vd", share, frames) - text[:, None]  # [T, V, D]
    query = linear(norm(gap, w.norm1_weight, w.norm1_bias), w.query_weight, w.query_bias)
    alpha = attention(query, norm(frames, w.norm1_weight, w.norm1_bias), attend, w)  # [T, V, F]
    value = linear(norm(frames, w.norm1_weight, w.norm1_bias), w.value_weight, w.value_bias)
    mixed = linear(torch.einsum("tvf,vfd->tvd", alpha, value), w.out_weight, w.out_bias)
    n = norm(mixed, w.norm2_weight, w.norm2_bias)
    branch = linear(n, w.linear_weight, w.linear_bias)
    if keep is not None:
        branch = branch * keep / (1 - drop)
    return linear(norm(n + branch, w.norm3_weight, w.norm3_bias), w.mean_weight, w.mean_bias)


def attention(query: Tensor, x: Tensor, attend: Tensor, weights: GareWeights) -> Tensor:
    """Return alpha [T, V, F] from queries [T, V, D] and normalised frames [V, F, D]."""
    key = linear(x, weights.key_weight, weights.key_bias)
    logits = torch.einsum("tvd,vfd->tvf", query, key) / query.shape[-1] ** 0.5
    return logits.masked_fill(~attend, float("-inf")).softmax(-1)


def pool(text: Tensor, frames: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Return p [T, V, D], weights masked after their softmax and not renormalised."""
    weight = (torch.einsum("td,vfd->tvf", text, frames) / temperature).softmax(-1) * mask
    return torch.einsum("tvf,vfd->tvd", weight, frames)
