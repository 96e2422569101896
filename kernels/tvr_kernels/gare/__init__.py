"""GARE: the cosine of a caption, moved by a pair-specific increment, with the frames it pools.

For caption `t` and frames `v_f` of a clip the increment is `Delta = W_m LN3(n + W_1 n + c_1) + b_m` with
`n = LN2(W_o sum_f alpha_f h_f + b_o)` and `alpha = softmax_f(q . k_f / sqrt(D))`, where the query comes from the gap
`mean frame - t`; the score is `cos(t + Delta, p)`, `p = sum_f w_f v_f`, `w = softmax_f(t . v_f / temperature)`.
The caption reaches Delta only through the F weights alpha, and everything after them is linear up to two scalar
normalisers, each a quadratic form in alpha: `folded.py` therefore never forms Delta.

Source: GARE (arXiv 2505.12499), the authors' code at e42b0e2; evaluation and training without dropout. Training with
dropout needs a D-vector a pair: `increments.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from tvr_kernels import _dispatch
from tvr_kernels._checks import Shapes
from tvr_kernels.gare._sides import attention_side, centre, norm1, shared_rows, value_side


class GareWeights(NamedTuple):
    """Parameters of the increment, matrices as [out, in], all of size D; temperature of the frame pooling."""

    norm1_weight: Tensor  # the LayerNorm of both the gap and the frames
    norm1_bias: Tensor
    query_weight: Tensor
    query_bias: Tensor
    key_weight: Tensor
    key_bias: Tensor  # inert: it adds the same constant to the logit of every frame
    value_weight: Tensor
    value_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor
    norm2_weight: Tensor
    norm2_bias: Tensor
    linear_weight: Tensor
    linear_bias: Tensor
    norm3_weight: Tensor
    norm3_bias: Tensor
    mean_weight: Tensor
    mean_bias: Tensor
    temperature: float


def text_side(text: Tensor, weights: GareWeights) -> dict[str, Tensor]:
    """Return what one caption alone decides.

    text: [T, D], not normalised. Gives `text` [T, D], `variance` [T] over its features, `square` [T] squared length,
    `on_shared` [T, 2] products with the two rows of Q that all clips share.
    """
    Shapes("gare").check("text", text, "T D")
    shared = shared_rows(weights)[1]
    return {
        "text": text,
        "variance": text.var(-1, correction=0),
        "square": text.square().sum(-1),
        "on_shared": text @ shared.T,
    }


def video_side(
    frames: Tensor, mask: Tensor, weights: GareWeights, *, attend: Tensor | None = None
) -> dict[str, Tensor]:
    """Return what one clip alone decides: GEMM columns, Grams and constants, 3FD + O(F^2) numbers.

    frames: [V, F, D] after the temporal transformer, not normalised. mask: [V, F] bool, True = real, for the pooling.
    attend: [V, F] bool, the frames that the mean and the increment see; None = all F slots, as the authors have it.
    Every tensor has V rows: `columns` [V, 3F + 1, D] (frames | Q | -kappa | centred mean), the Grams `normal2` [F, F],
    `normal3` [F + 1, F + 1], `qq` [F + 2, F + 2], `qv` [F + 2, F], `vv` [F, F], the logit terms `shift`, `offset` [F],
    `variance` [], and the two masks.
    """
    shapes = Shapes("gare")
    shapes.check("frames", frames, "V F D")
    shapes.mask("mask", mask, "V F", nonempty_rows=True)
    if attend is None:
        attend = torch.ones_like(mask)
    shapes.mask("attend", attend, "V F", nonempty_rows=True)
    w, size = weights, frames.shape[-1]
    normed = norm1(frames, w)
    attention = attention_side(frames, normed, attend, w)
    values = value_side(normed, w)  # u_f, [V, F, D]
    residual_bias, shared = shared_rows(w)
    scaled = w.norm2_weight * values
    residual = torch.cat([centre(scaled + scaled @ w.linear_weight.T), residual_bias.expand(len(frames), 1, size)], 1)
    q = (w.norm3_weight * residual[:, :-1]) @ w.mean_weight.T  # [V, F, D]
    q_all = torch.cat([q, shared.expand(len(frames), 2, size)], 1)  # [V, F + 2, D]
    return {
        "columns": torch.cat([frames, q, -attention.kappa, attention.gap[:, None]], 1),
        "normal2": values @ values.mT / size,
        "normal3": residual @ residual.mT / size,
        "qq": q_all @ q_all.mT,
        "qv": q_all @ frames.mT,
        "vv": frames @ frames.mT,
        "shift": attention.shift,
        "offset": attention.offset,
        "variance": attention.variance,
        "mask": mask,
        "attend": attend,
    }


def score(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: GareWeights,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return [T, V] cosines `cos(t + Delta, p)` in the dtype of the sides, from `text_side` and `video_side`.

    A clip whose pooled frames vanish, or a caption that Delta cancels, gives NaN, as in the authors' code.
    """
    return _dispatch.score("gare", text, video, weights, implementation)
