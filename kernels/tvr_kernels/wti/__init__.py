"""WTI: weighted token interaction, DMAE's word branch without its neighbours (DRL).

For the words w_l of a caption and the frames z_f of a clip, all unit vectors, with their masks m and n:
  C_lf = m_l n_f <w_l, z_f>                       multiplicative masks: a masked entry is 0, and 0 can win a maximum
  S    = 1/2 (sum_l a_l max_f C_lf + sum_f b_f max_l C_lf)
The weights a and b are masked softmaxes of learned logits, or masked means (token interaction, TI). No line of it is
written here: the reference, the folded form and the kernel are those of `tvr_kernels.dmae` with one branch.

Source: arXiv 2203.07111 and the authors' code at 475f96c, spec section 3.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tvr_kernels import _dispatch, dmae
from tvr_kernels.dmae import DmaeOptions

__all__ = ["DmaeOptions", "options", "score", "text_side", "video_side"]


def options(*, mask_padding: bool = False) -> DmaeOptions:
    """Return what `score` and the sides take: words only, no neighbours."""
    return DmaeOptions(words=True, neighbours=False, mask_padding=mask_padding, sentence=False)


def text_side(words: Tensor, mask: Tensor, weights: DmaeOptions, logits: Tensor | None = None) -> dict[str, Tensor]:
    """Return what one caption alone decides; see `dmae.text_side`.

    words: [T, L, D] unit vectors (any at pads); mask: [T, L] bool, True = real; logits: [T, L] of a, or None.
    """
    return dmae.text_side(None, words, mask.long(), weights, logits)


def video_side(frames: Tensor, mask: Tensor, weights: DmaeOptions, logits: Tensor | None = None) -> dict[str, Tensor]:
    """Return what one clip alone decides; see `dmae.video_side`, less what only neighbours need.

    frames: [V, F, D] unit vectors (any at missing frames); mask: [V, F] bool, True = real; logits: [V, F] of b, or
    None.
    """
    side = dmae.video_side(frames, mask, weights, logits)
    return {name: tensor for name, tensor in side.items() if name not in ("closeness", "neighbour")}


def score(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: DmaeOptions,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return [T, V] scores in the dtype of the sides, from `text_side` and `video_side` of the same options."""
    return _dispatch.score("wti", text, video, weights, implementation)
