"""X-Pool as the equations say, with the pooled vector of every pair. The test oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, normalize

if TYPE_CHECKING:
    from tvr_kernels.xpool import XPoolWeights


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XPoolWeights) -> Tensor:
    """Return [T, V]; holds several tensors of T x V x D."""
    t, z, w = text["text"], video["frames"], weights
    D = (t.shape[-1],)
    q = linear(layer_norm(t, D, w.norm1_weight, w.norm1_bias, w.eps), w.query_weight, w.query_bias)
    normed = layer_norm(z, D, w.norm1_weight, w.norm1_bias, w.eps)
    k = linear(normed, w.key_weight, w.key_bias)
    v = linear(normed, w.value_weight, w.value_bias)
    logits = torch.einsum("td,vfd->tvf", q, k) * D[0] ** -0.5
    attention = torch.softmax(logits.masked_fill(~video["frame_mask"], -torch.inf), dim=-1)
    attended = linear(torch.einsum("tvf,vfd->tvd", attention, v), w.out_weight, w.out_bias)
    n = layer_norm(attended, D, w.norm2_weight, w.norm2_bias, w.eps)
    y = layer_norm(n + linear(n, w.linear_weight, w.linear_bias), D, w.norm3_weight, w.norm3_bias, w.eps)
    return torch.einsum("td,tvd->tv", normalize(t, dim=-1), normalize(y, dim=-1))
