"""DMAE: token–frame scores in which each word's best frame brings along the frame most like it.

For the rows q_l of a caption (the sentence, then its words) and the frames v_f of a clip, all unit vectors:
  S_lf = m_l mu_f <q_l, v_f>                      multiplicative masks: a masked entry is 0, and 0 can win a maximum
  f*   = argmax_f S_lf;  p_l = S_lf* + 1/2 r(f*) S_l,n(f*)
  r(f) = max_g mu_f mu_g <v_f, v_g> over g != f, not below 0; n(f) = its argmax: the neighbour table, of the clip alone
  branch score = 1/2 (sum_l a_l p_l + sum_f b_f max_l S_lf)
over the sentence alone, over the words alone (the op `wti`), or the mean of a sentence branch and a word branch. The
weights a and b are masked means, or masked softmaxes of learned logits.

Source: arXiv 2309.11082 and the authors' port at e7b7dc7, spec sections 3.2-3.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from tvr_kernels import _dispatch
from tvr_kernels._checks import Shapes


class DmaeOptions(NamedTuple):
    """words, sentence: which branches there are, at least one; the score is their mean. neighbours: add the second
    frame. mask_padding: masked entries never win a maximum, unlike in the authors' code, where they take part as 0."""

    words: bool
    neighbours: bool
    mask_padding: bool = False
    sentence: bool = True


def text_side(
    sentence: Tensor | None, words: Tensor, importance: Tensor, options: DmaeOptions, logits: Tensor | None = None
) -> dict[str, Tensor]:
    """Return what one caption alone decides.

    sentence: [T, D] (None without its branch) and words: [T, L, D], unit vectors. importance: [T, L] integers, 0 = pad,
    1 = word, 2 = important word, which counts double (not renormalised with logits). logits: [T, L] of the words'
    softmax weights, or None for the mean. Gives `rows` [T, 1 + L, D] masked (1 row without words, L rows without the
    sentence), `weight` of the same rows, 1 for the sentence, `length` [T] rows up to the last real one, and `floor`
    [T]: 0 where a pad may win a frame's maximum, else -inf; with `mask_padding` also `bias` of the rows, -inf on pads.
    """
    shapes = Shapes("dmae")
    shapes.check("words", words, "T L D")
    if not options.sentence:
        return _word_rows(words, importance, options, logits, shapes)
    assert sentence is not None
    shapes.check("sentence", sentence, "T D")
    one = torch.ones_like(sentence[:, :1])
    if not options.words:
        count = torch.ones(len(sentence), dtype=torch.long, device=sentence.device)
        alone = {"rows": sentence[:, None], "weight": one, "length": count, "floor": one[:, 0] * 0}
        return alone | ({"bias": one * 0} if options.mask_padding else {})
    side = _word_rows(words, importance, options, logits, shapes)
    side["rows"] = torch.cat([sentence[:, None], side["rows"]], 1)
    side["weight"] = torch.cat([one, side["weight"]], 1)
    side["length"] = 1 + side["length"]
    if options.mask_padding:
        side["bias"] = torch.cat([one * 0, side["bias"]], 1)
    return side


def _word_rows(
    words: Tensor, importance: Tensor, options: DmaeOptions, logits: Tensor | None, shapes: Shapes
) -> dict[str, Tensor]:
    real = shapes.mask("importance > 0", importance > 0, "T L", nonempty_rows=True)
    m = importance.to(words.dtype)
    if logits is None:
        weight = m / m.sum(1, keepdim=True)
    else:
        shapes.check("logits", logits, "T L")
        weight = m * logits.masked_fill(~real, float("-inf")).softmax(1)
    position = torch.arange(1, real.shape[1] + 1, device=real.device)
    pads_win = torch.zeros_like(real[:, 0]) if options.mask_padding else ~real.all(1)
    side = {
        "rows": words * real[..., None],
        "weight": weight,
        "length": (position * real).amax(1),
        "floor": torch.where(pads_win, 0.0, float("-inf")).to(words.dtype),
    }
    return side | ({"bias": _bias(real, words)} if options.mask_padding else {})


def video_side(frames: Tensor, mask: Tensor, options: DmaeOptions, logits: Tensor | None = None) -> dict[str, Tensor]:
    """Return what one clip alone decides.

    frames: [V, F, D], unit vectors unless a temporal head changed them; mask: [V, F] bool, True = real. logits: [V, F]
    of the frames' softmax weights, or None for the mean. Gives `frames` [V, F, D] masked, `weight` [V, F], and the
    neighbour table `closeness` [V, F] = r and `neighbour` [V, F] int64 = n (zeros without neighbours), `length` [V]
    slots up to the last real one; with `mask_padding` also `bias` [V, F], -inf on missing frames.
    """
    shapes = Shapes("dmae")
    shapes.check("frames", frames, "V F D")
    shapes.mask("mask", mask, "V F", nonempty_rows=True)
    if logits is None:
        weight = mask.to(frames.dtype) / mask.sum(1, keepdim=True)
    else:
        weight = shapes.check("logits", logits, "V F").masked_fill(~mask, float("-inf")).softmax(1)
    frames = frames * mask[..., None]
    if options.neighbours:
        closeness, neighbour = neighbours(frames)
    else:
        closeness, neighbour = torch.zeros_like(weight), torch.zeros_like(mask, dtype=torch.long)
    length = (torch.arange(1, mask.shape[1] + 1, device=mask.device) * mask).amax(1)
    side = {"frames": frames, "weight": weight, "closeness": closeness, "neighbour": neighbour, "length": length}
    return side | ({"bias": _bias(mask, frames)} if options.mask_padding else {})


def neighbours(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Return r [V, F] and n [V, F] of masked frames [V, F, D]: the closest other frame, r = 0 if none is above 0."""
    others = ~torch.eye(frames.shape[1], dtype=torch.bool, device=frames.device)
    closeness, neighbour = (frames @ frames.mT * others).max(-1)
    return closeness, neighbour


def score(
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: DmaeOptions,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Return [T, V] scores in the dtype of the sides, from `text_side` and `video_side` of the same options."""
    return _dispatch.score("dmae", text, video, weights, implementation)


def _bias(mask: Tensor, like: Tensor) -> Tensor:
    return torch.where(mask, 0.0, float("-inf")).to(like.dtype)
