"""X-Pool: a caption attends to a clip's frames, and the attended, projected, normalised result is compared with it.

Per pair: q = W_q LN1(t) + b_q; w = softmax_f(<q, k_f> / sqrt(D)) with k_f = W_k LN1(z_f) + b_k; n = LN2(W_o sum_f w_f
(W_v LN1(z_f) + b_v) + b_o); y = LN3(n + W_l n + b_l); score = cos(t, y). One head, no dropout, as X-Pool (Gorti et al.,
CVPR 2022, arXiv 2203.15086) in evaluation. `folded.py` scores it with two GEMM columns a frame and three F x F forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from tvr_kernels import _dispatch
from tvr_kernels._checks import Shapes
from tvr_kernels.xpool import _sides, folded

__all__ = ["XPoolWeights", "pooled", "score", "text_side", "video_side"]


class XPoolWeights(NamedTuple):
    """Parameters of the block: matrices [D, D] as in y = W x + b, vectors [D]; `eps` of all three LayerNorms."""

    norm1_weight: Tensor
    norm1_bias: Tensor
    query_weight: Tensor
    query_bias: Tensor
    key_weight: Tensor
    key_bias: Tensor
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
    eps: float = 1e-5


def text_side(text: Tensor, weights: XPoolWeights) -> dict[str, Tensor]:
    """Return what a caption alone decides: LN1 of it, its unit vector, and that vector's products with the constants.

    text: [T, D], any length but zero.
    """
    _check_weights("text", text, "T D", weights)
    return _sides.text_side(text, weights)


def video_side(frames: Tensor, weights: XPoolWeights, frame_mask: Tensor | None = None) -> dict[str, Tensor]:
    """Return what a clip alone decides: keys and outputs folded through the matrices, and their Gram matrices.

    frames: [V, F, D]   frame_mask: [V, F] bool, True = real (X-Pool itself has none); every clip needs a real frame.
    """
    shapes = _check_weights("frames", frames, "V F D", weights)
    if frame_mask is None:
        frame_mask = frames.new_ones(frames.shape[:2], dtype=torch.bool)
    shapes.mask("frame_mask", frame_mask, "V F", nonempty_rows=True)
    return _sides.video_side(frames, weights, frame_mask)


def score(
    text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XPoolWeights, *, implementation: str | None = None
) -> Tensor:
    """Return [T, V] cosines of captions with the clips that they pool.

    text, video: from `text_side` and `video_side` with the same weights (fp32 in, fp32 out; fp64 in, fp64 out).
    implementation: overrides TVR_KERNELS. Raises KernelUnavailable if it was named and cannot run.
    """
    shapes = Shapes("xpool")
    shapes.check("query", text["query"], "T D")
    shapes.check("key", video["key"], "V F D")
    return _dispatch.score("xpool", text, video, weights, implementation)


def pooled(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XPoolWeights) -> Tensor:
    """Return what each caption pools of each clip, y [V, T, D], not normalised; in plain torch, for blocks of pairs.

    text, video: as for `score`, which needs no such vector. Differentiable.
    """
    shapes = Shapes("xpool")
    shapes.check("query", text["query"], "T D")
    shapes.check("key", video["key"], "V F D")
    return folded.pooled(text, video, weights)


def _check_weights(name: str, tensor: Tensor, pattern: str, weights: XPoolWeights) -> Shapes:
    shapes = Shapes("xpool")
    shapes.check(name, tensor, pattern)
    for field, value in zip(weights._fields, weights, strict=True):
        if isinstance(value, Tensor):
            matrix = field.endswith("_weight") and not field.startswith("norm")
            shapes.check(field, value, "D D" if matrix else "D")
    return shapes
