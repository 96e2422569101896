"""GLCCL: four consistent similarities of a caption and a clip, all of them through text-guided pooling (GLIM).

Every text vector q (the sentence, each of L words) pools the frames by its own softmax, `softmax_f(<q, z_f> / 5)`. The
pooled vectors are compared with the sentence and the words:
    VS  <s G, g>                      pooled by the sentence, seen by the sentence
    VW  isa(<w_i, g>; A1)             pooled by the sentence, seen by each word
    SF  isa(<s, f_j>; A2)             pooled by each word, seen by the sentence
    FW  isa over both axes of M_ij = <w_i Lambda, f_j>      pooled by each word, seen by each word
where all vectors are unit vectors and `isa(m; A) = softmax(m / 0.01)' A m` (X-CLIP's attention over similarity).
Pooled vectors are never formed in `folded.py`: a dot with one is a weighted sum of dots with frames, its length a
quadratic form in the F weights.

Source: GLCCL (arXiv 2605.17959), the authors' code at abe7659. As theirs, missing frames and pad words take part,
unless masks are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from tvr_kernels import _dispatch
from tvr_kernels._checks import Shapes

__all__ = ["GlcclWeights", "score", "similarities", "text_side", "video_side"]


class GlcclWeights(NamedTuple):
    """The head's eight matrices, in the order of the paper's branches, and its two constants."""

    global_map: Tensor  # [D, D], G: sentence -> video
    local_map: Tensor  # [D, D], Lambda: word -> frame
    video_word: Tensor  # [L, L], A1
    sentence_frame: Tensor  # [L, L], A2
    over_words: Tensor  # [L, L], A3: columns of M
    over_frames: Tensor  # [L, L], A4: rows of M
    then_frames: Tensor  # [L, L], A5: on what A3 left
    then_words: Tensor  # [L, L], A6: on what A4 left
    temperature: float = 5.0  # of GLIM, on raw dot products
    isa_temperature: float = 0.01


def text_side(sentence: Tensor, words: Tensor, weights: GlcclWeights, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Return what a caption alone decides.

    sentence: [T, D]   words: [T, L, D], neither normalised   mask: [T, L] bool, True = a real token, or None = all L
    slots count. Gives `query` [T, L + 1, D] unit vectors (the words, then the sentence), `norm` [T, L + 1] their
    lengths, `mapped` [T, D] the unit sentence times G, and `mask` if given.
    """
    shapes = Shapes("glccl")
    shapes.check("words", words, "T L D")
    shapes.check("sentence", sentence, "T D")
    if mask is not None:
        shapes.mask("mask", mask, "T L", nonempty_rows=True)
        words = words.masked_fill(~mask[..., None], 1.0)  # an absent word may be zero, and zero has no direction
    query = torch.cat([words, sentence[:, None]], 1)
    norm = query.norm(dim=-1)
    query = query / norm[..., None]
    side = {"query": query, "norm": norm, "mapped": query[:, -1] @ weights.global_map}
    return side if mask is None else {**side, "mask": mask}


def video_side(frames: Tensor, weights: GlcclWeights, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Return what a clip alone decides.

    frames: [V, F, D] after the temporal transformer, not normalised   mask: [V, F] bool, True = real, or None = all F
    slots count. Gives `columns` [V, 2F, D] (the frames, then the frames times Lambda'), `gram` [V, F, F], and `mask` if
    given.
    """
    shapes = Shapes("glccl")
    shapes.check("frames", frames, "V F D")
    side = {"columns": torch.cat([frames, frames @ weights.local_map.T], 1), "gram": frames @ frames.mT}
    if mask is not None:
        side["mask"] = shapes.mask("mask", mask, "V F", nonempty_rows=True)
    return side


def similarities(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: GlcclWeights,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return VS, VW, SF, FW [4, T, V], not multiplied by the logit scale; differentiable in everything.

    text, video: from `text_side` and `video_side`, same dtype and device (fp32 in, fp32 out; fp64 in, fp64 out).
    implementation: overrides TVR_KERNELS. Raises KernelUnavailable if it was named and cannot run.
    """
    return _dispatch.run("similarities", "glccl", text, video, weights, implementation)


def score(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: GlcclWeights,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return [T, V], the mean of the four similarities; see `similarities`."""
    return _dispatch.score("glccl", text, video, weights, implementation)
