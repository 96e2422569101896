"""The GARE increment of every pair as a vector: what training with dropout needs, at one D x D product a pair.

The dropout mask multiplies a D-vector of each pair between LN2 and LN3, so nothing behind it folds into Grams. What
lies before it does: `n_ij = sum_k a_k base_k` and `W_1 n_ij + c_1` combine F + 1 vectors of the clip with the weights
`a` of the pair. Exact; the direct form has five D x D products a pair. What autograd would keep of a large batch is
recomputed in blocks of clips, so that Delta and its gradient are the only tensors of its size.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear
from torch.utils.checkpoint import checkpoint

from tvr_kernels.gare import GareWeights
from tvr_kernels.gare._sides import LAYER_NORM_EPS, after_norm2, alpha, attention_side, norm1, value_side
from tvr_kernels.gemm import matmul

# Bytes that autograd may keep for one batch, and keeps of one number of Delta in fp32: six such tensors and the mask.
# 128 pairs at D = 512 (210 MB) are kept whole, 512 pairs (3.4 GB) run in blocks of 4 clips.
SAVED_BYTES = 2**28
_SAVED_OF_A_NUMBER = 25


def increments(
    text: Tensor, frames: Tensor, attend: Tensor, weights: GareWeights, keep: Tensor | None = None, drop: float = 0.0
) -> Tensor:
    """Return Delta [T, V, D], differentiable.

    text: [T, D]; frames: [V, F, D]; attend: [V, F] bool, the frames that the increment sees. keep: [T, V, D] bool,
    the dropout mask of the residual branch, or None; drop: its probability of a zero.
    """
    pairs, size = len(text) * len(frames), text.shape[-1]
    step = len(frames)
    if torch.is_grad_enabled() and pairs * size * _SAVED_OF_A_NUMBER > SAVED_BYTES:
        step = max(1, SAVED_BYTES // (8 * len(text) * size * _SAVED_OF_A_NUMBER))
    if step >= len(frames):
        return _block(text, frames, attend, weights, keep, drop)
    masks = [None] * len(frames) if keep is None else keep.split(step, 1)
    blocks = zip(frames.split(step), attend.split(step), masks, strict=False)
    return torch.cat([_recomputed(text, *block[:2], weights, block[2], drop) for block in blocks], 1)


def _recomputed(*inputs: Any) -> Tensor:
    return cast(Tensor, checkpoint(_block, *inputs, use_reentrant=False, preserve_rng_state=False))


def _block(text: Tensor, frames: Tensor, attend: Tensor, w: GareWeights, keep: Tensor | None, drop: float) -> Tensor:
    size = text.shape[-1]
    normed = norm1(frames, w)
    side = attention_side(frames, normed, attend, w)
    columns = torch.cat([-side.kappa, side.gap[:, None]], 1)  # [V, F + 1, D]
    products = matmul(columns.flatten(0, 1), text.T).unflatten(0, columns.shape[:2])  # [V, F + 1, T]
    variance = text.var(-1, correction=0)
    weight = alpha(products[:, :-1], products[:, -1], variance, size, side.shift, side.offset, side.variance)
    values = value_side(normed, w)
    a = after_norm2(weight, values @ values.mT / size).mT  # [V, T, F + 1]
    base = torch.cat([w.norm2_weight * values, w.norm2_bias.expand(len(frames), 1, size)], 1)  # [V, F + 1, D]
    branch = base @ w.linear_weight.T
    branch = torch.cat([branch[:, :-1], branch[:, -1:] + w.linear_bias], 1)
    n, residual = torch.bmm(a, base), torch.bmm(a, branch)  # [V, T, D]
    if keep is not None:
        residual = residual * keep.transpose(0, 1) / (1 - drop)
    z = layer_norm(n + residual, (size,), w.norm3_weight, w.norm3_bias, LAYER_NORM_EPS)
    return linear(z, w.mean_weight, w.mean_bias).transpose(0, 1)
