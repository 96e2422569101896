"""Token selection of TS2-Net: of each frame the class token, and k soft mixtures of the patches that score highest.

The choice is a perturbed top-k: n times noise is added to the scores, and the k indices of the largest, in order of
place, are noted; a mixture is the mean of what was chosen. Its gradient is estimated from the same noise.

Letters: V clips, F frame slots, P patches, N = 1 + P tokens of a frame, D features, k kept patches, n rows of noise.
Source: TS2-Net (arXiv 2207.07852) and Cordonnier et al., "Differentiable Patch Selection" (CVPR 2021).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class TokenSelector(nn.Module):
    """Scores the tokens of each frame, and keeps 1 + k of them. Parameters carry the authors' names."""

    def __init__(self, dim: int, kept: int, noise_std: float):
        super().__init__()
        self.kept, self.noise_std = kept, noise_std
        self.score_predictor = _Predictor(dim)

    def forward(self, tokens: Tensor, noise: Tensor) -> Tensor:
        """Return [V, F, 1 + k, D] of tokens [V, F, N, D], the class token first; noise: [V, F, n, P], N(0, 1)."""
        patches = tokens[:, :, 1:]
        scores = self.score_predictor(tokens)[:, :, 1:]
        chosen = perturbed_top(scores, noise, self.kept, self.noise_std)  # [V, F, k, P]
        return torch.cat([tokens[:, :, :1], chosen.to(patches.dtype) @ patches], dim=2)


class _Predictor(nn.Module):
    """A score in (-1, 1) of each token [..., N, D] -> [..., N], by itself and beside its frame's class token."""

    def __init__(self, dim: int):
        super().__init__()
        half = dim // 2
        self.in_conv = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, half, bias=False), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(2 * half, half, bias=False), nn.GELU(), nn.Linear(half, 1, bias=False), nn.Tanh()
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        own = self.in_conv(tokens)  # [..., N, D / 2]
        whole = own[..., :1, :].expand_as(own)
        return self.out_conv(torch.cat([own, whole], dim=-1))[..., 0]


def perturbed_top(scores: Tensor, noise: Tensor, kept: int, std: float) -> Tensor:
    """Return the mean choice [..., k, P] of the k highest of scores [..., P]; each of its rows sums to one.

    noise: [..., n, P], N(0, 1), no gradient. Raises ValueError for fewer than k patches.
    """
    if scores.shape[-1] < kept:
        raise ValueError(f"expected at least {kept} patches a frame to keep {kept} of them, found {scores.shape[-1]}")
    return _PerturbedTop.apply(scores, noise, kept, std)


class _PerturbedTop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, noise: Tensor, kept: int, std: float) -> Tensor:
        perturbed = scores[..., None, :] + std * noise.to(scores)  # [..., n, P]
        chosen = perturbed.topk(kept, dim=-1).indices.sort(dim=-1).values.transpose(-1, -2)  # [..., k, n]
        rows = noise.shape[-2]
        mean = _spread(torch.ones_like(chosen, dtype=scores.dtype), chosen, scores.shape[-1]) / rows
        if ctx.needs_input_grad[0]:
            seen = noise.to(scores).transpose(-1, -2).expand(*chosen.shape[:-2], -1, rows)  # [..., P, n]
            ctx.save_for_backward(_spread(seen.gather(-2, chosen), chosen, scores.shape[-1]) / (rows * std))
        return mean

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (estimate,) = ctx.saved_tensors  # [..., k, P]: mean of onehot * noise over the rows, divided by std
        return (grads[0] * estimate).sum(-2), None, None, None


def _spread(values: Tensor, places: Tensor, width: int) -> Tensor:
    """Return [..., k, P]: values [..., k, n] added up where `places` says."""
    return values.new_zeros(*values.shape[:-1], width).scatter_add_(-1, places, values)
