"""TC-MGC: four similarities from text-conditioned video vectors, reorganised by rank, fused by their own weights.

The language-video attention block (LVA) turns a text vector q and a clip's frames z_f into
    kappa_f = LN1(z_f),  a = softmax_f(<LN1(q), kappa_f> / sqrt(D)),  o = sum_f a_f kappa_f,
    u = LN2(o),  y = LN3(u + dropout(u P + b)),
once for the sentence (v, the video vector) and once for each of L words (f_j). With unit vectors and
`isa(c; A) = sum_j alpha_j c_j, alpha = softmax(lambda * (softmax(lambda * c) A))`, c sorted in descending order:
    VS  <s G, v>
    VW  isa over the k best words of <w_i, v>
    SF  isa over the k best of <s, f_j> and the softmax mean of the others
    FW  isa over both axes of R: of M_ij = <w_i Lambda, f_j> the k best of each column, then the k best of each row
and the score is their sum weighted by a softmax over the four (`fuse`).

Source: TC-MGC (arXiv 2504.04707), the authors' code at c1575747 with its three missing attributes supplied. As
theirs, missing frames and pad words take part, unless masks are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from tvr_kernels import _dispatch
from tvr_kernels._checks import Shapes

__all__ = ["TcmgcWeights", "fuse", "score", "similarities", "text_side", "video_side"]

LAYER_NORM_EPS = 1e-5


class TcmgcWeights(NamedTuple):
    """Parameters of LVA (linear as [out, in]), the two maps, six rank mixings, the fusion, and three constants."""

    norm1_weight: Tensor  # [D], one LayerNorm for text and frames
    norm1_bias: Tensor
    norm2_weight: Tensor
    norm2_bias: Tensor
    norm3_weight: Tensor
    norm3_bias: Tensor
    linear_weight: Tensor  # [D, D]
    linear_bias: Tensor
    global_map: Tensor  # [D, D], G: sentence -> video
    local_map: Tensor  # [D, D], Lambda: word -> frame
    video_word: Tensor  # [k, k]
    sentence_frame: Tensor  # [k + 1, k + 1]
    over_words: Tensor  # [k, k]: columns of R
    over_frames: Tensor  # [k, k]: rows of R
    then_frames: Tensor  # [k, k]: on what over_words left
    then_words: Tensor  # [k, k]: on what over_frames left
    fusion: Tensor  # [4, 4], on similarities times scale
    scale: Tensor  # [], exp(logit_scale)
    sharpness: float = 100.0  # lambda
    heads: int = 1


def text_side(sentence: Tensor, words: Tensor, weights: TcmgcWeights, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Return what a caption alone decides.

    sentence: [T, D]   words: [T, L, D], neither normalised   mask: [T, L] bool, True = a real token, or None = all L
    slots count. Gives `query` [T, L + 1, D] LN1 of the words, then of the sentence; `unit` [T, L + 1, D] these as unit
    vectors; `mapped` [T, D] the unit sentence times G; their dots with the two vectors that every pair adds to y (the
    shift and LN3's bias): `shared` [T, L + 1, 4] (as they are, then through Lambda), `mapped_shared` [T, 2]; and `mask`
    if given.
    """
    shapes = Shapes("tcmgc")
    shapes.check("words", words, "T L D")
    shapes.check("sentence", sentence, "T D")
    if mask is not None:
        shapes.mask("mask", mask, "T L", nonempty_rows=True)
        words = words.masked_fill(~mask[..., None], 1.0)  # an absent word may be zero, and zero has no direction
    stacked = torch.cat([words, sentence[:, None]], 1)
    unit = stacked / stacked.norm(dim=-1, keepdim=True)
    mapped = unit[:, -1] @ weights.global_map
    constant = torch.stack([weights.norm3_weight * shift(weights), weights.norm3_bias])  # [2, D]
    side = {
        "query": norm1(stacked, weights),
        "unit": unit,
        "mapped": mapped,
        "shared": unit @ torch.cat([constant, constant @ weights.local_map.T]).T,
        "mapped_shared": mapped @ constant.T,
    }
    return side if mask is None else {**side, "mask": mask}


def video_side(frames: Tensor, weights: TcmgcWeights, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Return what a clip alone decides; N = heads x F, a frame's share of one head counting as a frame of its own.

    frames: [V, F, D] after the temporal transformer, not normalised   mask: [V, F] bool, True = real, or None = all F
    slots count. Gives `columns` [V, 3N, D] (kappa | U | U Lambda'), where U_f = g3 * centred (I + P) (g2 * centred
    kappa_f) is the frame as it arrives in y; `forms` [V, 3N + 3, N] (the Grams of centred kappa, of U before g3, both
    over D, and of U; then the products of U before g3 with the shift, over D, and of U with the shift and with LN3's
    bias); and `mask` if given.
    """
    shapes = Shapes("tcmgc")
    shapes.check("frames", frames, "V F D")
    w, size = weights, frames.shape[-1]
    kappa = _by_head(norm1(frames, w), w.heads)  # [V, N, D]
    centred = _centre(kappa)
    scaled = w.norm2_weight * centred
    arriving = _centre(scaled + scaled @ w.linear_weight.T)  # [V, N, D]
    u, constant = w.norm3_weight * arriving, shift(w)
    vectors = [arriving @ constant / size, u @ (w.norm3_weight * constant), u @ w.norm3_bias]
    grams = [centred @ centred.mT / size, arriving @ arriving.mT / size, u @ u.mT]
    side = {
        "columns": torch.cat([kappa, u, u @ w.local_map.T], 1),
        "forms": torch.cat([*grams, torch.stack(vectors, 1)], 1),
    }
    return side if mask is None else {**side, "mask": shapes.mask("mask", mask, "V F", nonempty_rows=True)}


def similarities(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: TcmgcWeights,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return VS, VW, SF, FW [4, T, V], not multiplied by the scale; without dropout; differentiable in everything.

    text, video: from `text_side` and `video_side`, same dtype and device (fp32 in, fp32 out; fp64 in, fp64 out).
    implementation: overrides TVR_KERNELS. Raises KernelUnavailable if it was named and cannot run. With dropout a pair
    needs D-vectors: `dropout.py`.
    """
    return _dispatch.run("similarities", "tcmgc", text, video, weights, implementation)


def score(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: TcmgcWeights,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return [T, V], the four similarities times the scale, fused; see `similarities`."""
    return _dispatch.score("tcmgc", text, video, weights, implementation)


def fuse(scaled: Tensor, fusion: Tensor) -> Tensor:
    """Return [T, V]: each cell's x, its similarities [4, T, V] times the scale, weighted by softmax(x W) (LSA)."""
    weight = torch.einsum("mtv,mn->ntv", scaled, fusion).softmax(0)
    return (weight * scaled).sum(0)


def norm1(x: Tensor, weights: TcmgcWeights) -> Tensor:
    """Return LN1 of text vectors or frames."""
    return layer_norm(x, x.shape[-1:], weights.norm1_weight, weights.norm1_bias, LAYER_NORM_EPS)


def shift(weights: TcmgcWeights) -> Tensor:
    """Return the centred part of y's pre-norm that no frame decides: (I + P) LN2's bias + b. [D]"""
    w = weights
    return _centre(w.norm2_bias + w.linear_weight @ w.norm2_bias + w.linear_bias)


def _by_head(kappa: Tensor, heads: int) -> Tensor:
    """Return [V, heads F, D]: copy h of the frames keeps the dimensions of head h, the rest is zero."""
    if heads == 1:
        return kappa
    size = kappa.shape[-1]
    head = torch.arange(size, device=kappa.device) // (size // heads)
    keep = (head == torch.arange(heads, device=kappa.device)[:, None]).to(kappa.dtype)  # [H, D]
    return (kappa[:, None] * keep[:, None]).flatten(1, 2)


def _centre(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)
