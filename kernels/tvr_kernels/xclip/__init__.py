"""X-CLIP: four similarities of a caption and a clip, of both, of one and of the parts of the other, of the parts.

For a sentence s, its words w_i, a clip's vector v (the mean direction of its contextualised frames) and its frames f_j:
    VS  <s G, v>                                    video - sentence
    VW  isa over i of <w_i, v>, A1                  video - words
    SF  isa over j of <s, f_j>, A2                  sentence - frames
    FW  1/2 [isa(r; A5) + isa(q; A6)], M_ij = <w_i Lambda, f_j>, r_j = isa over i of M_ij, A3; q_i = isa over j, A4
where all vectors are unit vectors and `isa(m; A) = softmax(m / 0.01)' A m`, as in GLCCL, which descends from this.

Source: X-CLIP (arXiv 2207.07285), the authors' code at 6b5344f. As theirs, missing frames and pad words take part,
unless masks are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from tvr_kernels import _dispatch
from tvr_kernels._checks import Shapes

__all__ = ["XClipWeights", "score", "similarities", "text_side", "video_side"]


class XClipWeights(NamedTuple):
    """The head's eight matrices, in the order of the branches, and its constant."""

    global_map: Tensor  # [D, D], G: sentence -> video
    local_map: Tensor  # [D, D], Lambda: word -> frame
    video_word: Tensor  # [L, L], A1
    sentence_frame: Tensor  # [F, F], A2
    over_words: Tensor  # [L, L], A3: M's words, of each frame
    over_frames: Tensor  # [F, F], A4: M's frames, of each word
    then_frames: Tensor  # [F, F], A5: on what A3 left
    then_words: Tensor  # [L, L], A6: on what A4 left
    isa_temperature: float = 0.01


def text_side(sentence: Tensor, words: Tensor, weights: XClipWeights, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Return what a caption alone decides.

    sentence: [T, D]   words: [T, L, D], neither normalised   mask: [T, L] bool, True = a real token, or None = all L
    slots count. Gives the unit `sentence` [T, D] and `words` [T, L, D], `mapped` [T, D] = sentence G, `local`
    [T, L, D] = words Lambda, and `mask` if given.
    """
    shapes = Shapes("xclip")
    shapes.check("words", words, "T L D")
    shapes.check("sentence", sentence, "T D")
    if mask is not None:
        shapes.mask("mask", mask, "T L", nonempty_rows=True)
    sentence, words = _unit(sentence), _unit(words)
    side = {"sentence": sentence, "words": words}
    side |= {"mapped": sentence @ weights.global_map, "local": words @ weights.local_map}
    return side if mask is None else {**side, "mask": mask}


def video_side(video: Tensor, frames: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Return what a clip alone decides: its unit `video` [V, D], its unit `frames` [V, F, D], and `mask` if given.

    video: [V, D], of any length   frames: [V, F, D], not normalised   mask: [V, F] bool, True = real, or None = all F
    slots count.
    """
    shapes = Shapes("xclip")
    shapes.check("frames", frames, "V F D")
    shapes.check("video", video, "V D")
    if mask is not None:
        shapes.mask("mask", mask, "V F", nonempty_rows=True)
    side = {"video": _unit(video), "frames": _unit(frames)}
    return side if mask is None else {**side, "mask": mask}


def similarities(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: XClipWeights,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return VS, VW, SF, FW [4, T, V], not multiplied by the logit scale; differentiable in everything.

    text, video: from `text_side` and `video_side`, same dtype and device (fp32 in, fp32 out; fp64 in, fp64 out).
    implementation: overrides TVR_KERNELS. Raises KernelUnavailable if it was named and cannot run.
    """
    return _dispatch.run("similarities", "xclip", text, video, weights, implementation)


def score(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: XClipWeights,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return [T, V], the mean of the four similarities; see `similarities`."""
    return _dispatch.score("xclip", text, video, weights, implementation)


def _unit(x: Tensor) -> Tensor:
    length = x.norm(dim=-1, keepdim=True)
    return x / length.masked_fill(length == 0, 1)  # what is absent may be zero, and zero has no direction
