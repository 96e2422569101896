"""EagleNet: a caption enriched by a graph over its stochastic neighbours and a clip's frames, scored by X-Pool.

For every pair: S candidates t + sigma_s * exp(W_S c + b_S) around the caption t (c: its cosines with the frames, sigma:
counter-based noise of caption key and clip key), a two-layer graph of frames and candidates whose frame-text logits
weigh the candidates to T, X-Pool pooling of the frames for T, and the cosine of both. `reference.py` writes this down;
`folded.py` is the same in 25 instead of 302 MFLOP a pair (F = 12, S = 20, D = 512).

Source: EagleNet (arXiv 2603.25267), the authors' code at 193feac; evaluation without dropout.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tvr_kernels import _dispatch
from tvr_kernels._checks import Shapes
from tvr_kernels.eaglenet.folded import fold_weights, frame_attention, graph_side, text_message
from tvr_kernels.eaglenet.pooled import pool_side
from tvr_kernels.eaglenet.weights import (
    EagleNetWeights,
    GraphLayer,
    Linear,
    Norm,
    Options,
    Pooling,
    Relation,
)

__all__ = [
    "EagleNetWeights",
    "GraphLayer",
    "Linear",
    "Norm",
    "Options",
    "Pooling",
    "Relation",
    "frame_attention",
    "score",
    "text_side",
    "video_side",
]


def text_side(text: Tensor, key: Tensor, weights: EagleNetWeights) -> dict[str, Tensor]:
    """Return what one caption alone decides: `text` [T, D], `key` [T], `message` [T, M] (see `folded.Fold`).

    text: [T, D], not normalised. key: [T] int64, the caption keys that seed the noise.
    """
    Shapes("eaglenet").check("text", text, "T D")
    return {"text": text, "key": key, "message": text_message(text, fold_weights(weights))}


def video_side(frames: Tensor, real: Tensor, key: Tensor, weights: EagleNetWeights) -> dict[str, Tensor]:
    """Return what one clip alone decides: `frames`, `real`, `key`, and `graph_side` and `pool_side` of the folded form.

    frames: [V, F, D], not normalised. real: [V, F] bool, True = a real frame; looked at with `mask_padding` only. key:
    [V] int64, the clip keys that the noise counts by. F must be the number of frames that `weights.radius` is made for.
    """
    shapes = Shapes("eaglenet")
    shapes.check("radius", weights.radius.weight, "D F")
    shapes.check("frames", frames, "V F D")
    shapes.mask("real", real, "V F", nonempty_rows=weights.options.mask_padding)
    pooled = pool_side(frames, weights.pool, weights.options.pool_heads)
    return {"frames": frames, "real": real, "key": key, **graph_side(frames, real, weights), **pooled}


def score(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: EagleNetWeights,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return [T, V] cosines of enriched captions with the clips they pool, in the dtype of the sides; no gradient.

    text, video: from `text_side` and `video_side`. implementation: overrides TVR_KERNELS. The value of a pair does not
    depend on the other pairs. `weights.sigma` replaces the noise, `weights.draw` selects another repetition of it.
    Raises KernelUnavailable if the implementation was named and cannot run.
    """
    with torch.no_grad():
        return _dispatch.score("eaglenet", text, video, weights, implementation)
