"""X-Pool without the pooled vector: two GEMM columns a frame and three F x F forms a pair.

Between the softmax weights w and the cosine there is nothing but linear maps and three scalar normalisers, each the
root of a quadratic form in w (vectors A, B, e, R, r as in `_sides.py`):
  sigma2^2 = w^T C w + eps                     C = A A^T / D
  u        = w / sigma2
  sigma3^2 = u^T G u + 2 <g, u> + gamma + eps  G = B B^T / D, g = B e / D, gamma = |e|^2 / D
  <t^, y>  = (sum_f u_f <t^, R_f> + <t^, r>) / sigma3 + <t^, b3>
  |y|^2    = (u^T N u + 2 <n, u> + nu) / sigma3^2 + 2 (<h, u> + eta) / sigma3 + |b3|^2
             N = R R^T, n = R r, nu = |r|^2, h = R b3, eta = <r, b3>
and score = <t^, y> / |y|. The softmax is not divided by its sum Z: with w = e / Z, u = e / sqrt(e^T C e + eps Z^2).
Work a pair: 4 F D + O(F^2) flops instead of 4 F D + 4 D^2 and five D-vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tvr_kernels._tiles import by_clips
from tvr_kernels.gemm import matmul

if TYPE_CHECKING:
    from tvr_kernels.xpool import XPoolWeights

_TEXT = ("query", "unit", "offset", "bias")
_VIDEO = ("key", "key_bias", "value", "forms", "constants")


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XPoolWeights) -> Tensor:
    """Return [T, V]; differentiable in the text, the frames and the weights (through both sides)."""
    F, size = video["key"].shape[1], video["key"].element_size()

    def tile(some_text: dict[str, Tensor], some_video: dict[str, Tensor]) -> Tensor:
        return _tile(some_text, some_video, weights.eps)

    parts = {k: text[k] for k in _TEXT}, {k: video[k] for k in _VIDEO}
    return by_clips(tile, *parts, pair_bytes=8 * F * size, saved_bytes=12 * F * size)


def pooled(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XPoolWeights) -> Tensor:
    """Return y [V, T, D], not normalised, F D multiply-adds a pair: for who needs the vector itself; one block."""
    e, to_u, inverse3, _ = _normalised(text["query"], video, weights.eps)
    shift = weights.linear_weight @ weights.norm2_bias + weights.norm2_bias + weights.linear_bias
    r = weights.norm3_weight * (shift - shift.mean())
    sums = torch.bmm((e * to_u[:, None]).mT, video["value"])  # sum_f u_f R_f, [V, T, D]
    return (sums + r) * inverse3[..., None] + weights.norm3_bias


def _tile(text: dict[str, Tensor], video: dict[str, Tensor], eps: float) -> Tensor:
    V, F, D = video["key"].shape
    e, to_u, inverse3, length2 = _normalised(text["query"], video, eps)
    along = matmul(video["value"].reshape(V * F, D), text["unit"].T).view(V, F, -1)
    along = (along * e).sum(1)  # [V, T]
    dot = (along * to_u + text["offset"]) * inverse3 + text["bias"]
    return (dot * length2.rsqrt()).T


def _normalised(query: Tensor, video: Mapping[str, Tensor], eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the softmax e [V, F, T], not divided by its sum, and [V, T] each: u / e, 1 / sigma3, |y|^2."""
    V, F, D = video["key"].shape
    logits = matmul(video["key"].reshape(V * F, D), query.T).view(V, F, -1)  # captions are the fast axis
    logits = logits + video["key_bias"][..., None]
    e = (logits - logits.detach().amax(1, keepdim=True)).exp_()

    applied = torch.bmm(video["forms"], e)  # [V, 3 F + 3, T]
    quadratic = (applied[:, : 3 * F].view(V, 3, F, -1) * e[:, None]).sum(2)
    g, n, h = applied[:, 3 * F :].unbind(1)
    gamma, nu, eta, beta = video["constants"][..., None].unbind(1)

    to_u = (quadratic[:, 0] + eps * e.sum(1).square()).rsqrt()  # u = e * to_u
    inverse3 = (to_u * (quadratic[:, 1] * to_u + 2 * g) + (gamma + eps)).rsqrt()
    length2 = inverse3 * (inverse3 * (to_u * (quadratic[:, 2] * to_u + 2 * n) + nu) + 2 * (to_u * h + eta)) + beta
    return e, to_u, inverse3, length2
