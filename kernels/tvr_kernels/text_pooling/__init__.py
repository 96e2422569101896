"""Text-guided pooling: each caption pools a clip's frames by its own softmax and is compared with the result.

`score(t, v) = cos(t, sum_f w_f z_f)` with `w = softmax_f(<t, z_f> / temperature)`: the parameter-free query-scoring of
CLIP-Hitchhiker (arXiv 2205.08508; there on unit vectors), and GLCCL's global interaction (GLIM). Folded: see
`folded.py`; nothing of size T x V x D exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from tvr_kernels import _dispatch
from tvr_kernels._checks import Shapes

__all__ = ["TextPoolingWeights", "score", "text_side", "video_side"]


class TextPoolingWeights(NamedTuple):
    """temperature: divides the frame logits; the dot products are of unnormalised vectors if those are given."""

    temperature: float


def text_side(text: Tensor) -> dict[str, Tensor]:
    """Return what a caption alone decides. text: [T, D], any length but zero; the logits use it as it is."""
    Shapes("text_pooling").check("text", text, "T D")
    return {"text": text, "inverse_norm": text.norm(dim=-1).reciprocal()}


def video_side(frames: Tensor, frame_mask: Tensor | None = None) -> dict[str, Tensor]:
    """Return what a clip alone decides: its frames, zero where missing, and their Gram matrix.

    frames: [V, F, D]   frame_mask: [V, F] bool, True = real; every clip needs one (ValueError).
    """
    shapes = Shapes("text_pooling")
    shapes.check("frames", frames, "V F D")
    if frame_mask is None:
        frame_mask = frames.new_ones(frames.shape[:2], dtype=torch.bool)
    shapes.mask("frame_mask", frame_mask, "V F", nonempty_rows=True)
    frames = frames.masked_fill(~frame_mask[..., None], 0.0)
    return {"frames": frames, "gram": frames @ frames.mT, "frame_mask": frame_mask}


def score(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: TextPoolingWeights,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return [T, V] cosines of captions with the clips that they pool.

    text, video: from `text_side` and `video_side`, same dtype and device (fp32 in, fp32 out; fp64 in, fp64 out).
    implementation: overrides TVR_KERNELS. Raises KernelUnavailable if it was named and cannot run.
    """
    shapes = Shapes("text_pooling")
    shapes.check("text", text["text"], "T D")
    shapes.check("frames", video["frames"], "V F D")
    return _dispatch.score("text_pooling", text, video, weights, implementation)
