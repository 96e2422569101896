"""GLCCL without pooled vectors: one GEMM of the captions with 2F columns a clip, then F- and L-sized arithmetic.

With a pooled vector p = sum_f a_f z_f, a dot with it is sum_f a_f <q, z_f>, of dots that the softmax needed anyway, and
||p||^2 = a' K a with the clip's Gram matrix K. Unit vectors do not see the scale of a, so its softmax is never divided
by its sum: a_f = exp((x_f - max x) / 5), divided by sqrt(a' K a), gives the *unit* pooled vector's weights. For M_ij =
<w_i Lambda, f_j> the map moves to the clip's side, <w_i, Lambda z_f>, and M is an L x F by F x L product a pair.
K is a Gram matrix and the largest weight is 1 before the division, so the root's argument is a squared length of
ordinary size: nothing cancels. Work a pair at L = 32, F = 12, D = 512: 0.49 M multiply-adds instead of 1.03 M, and no
T x V x L x D tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from tvr_kernels._blocks import by_blocks
from tvr_kernels.gemm import matmul
from tvr_kernels.glccl import GlcclWeights


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GlcclWeights) -> Tensor:
    """Return [T, V]; see the package for the inputs."""
    return similarities(text, video, weights).mean(0)


def similarities(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GlcclWeights) -> Tensor:
    """Return VS, VW, SF, FW [4, T, V]; differentiable, recomputed block by block where a batch is large."""
    slots, frames = text["norm"].shape[1], video["gram"].shape[-1]
    numbers = 8 * frames * slots + 8 * slots**2  # of a pair that autograd keeps: some eight tensors of each kind
    return by_blocks(
        lambda t, v: _block(t, v, weights),
        text,
        video,
        saved_bytes=numbers * video["gram"].element_size(),
        tile=(32, 8),  # measured at L = 32, F = 12, D = 512: within 5 % from (16, 16) to (128, 8)
    )


def video_sentence(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GlcclWeights) -> Tensor:
    """Return VS [T, V] alone, the first of `similarities`: what needs no words. No gradient is looked after.

    video: `columns`, of which the first F rows are read, `gram`, both in any floating type, and `mask` if there is one.
    """
    frames, dtype = video["gram"].shape[-1], text["query"].dtype
    own = video["columns"][:, :frames].to(dtype)  # [V, F, D]
    video = {**video, "gram": video["gram"].to(dtype)}
    sentence = torch.cat([text["query"][:, -1], text["mapped"]])  # [2T, D]
    dots, mapped = matmul(own.flatten(0, 1), sentence.T).unflatten(0, own.shape[:2]).chunk(2, -1)  # [V, F, T]
    scale = text["norm"][:, -1:] / weights.temperature
    return (_unit_weights(dots[..., None], scale, video)[..., 0] * mapped).sum(1).T


def _block(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GlcclWeights) -> Tensor:
    """Return [4, t, v]. Clips lead and captions follow, so that sums over frames run over long contiguous rows."""
    dots = _dots(text, video)
    unit = _unit_weights(dots.frames, text["norm"] / weights.temperature, video)  # [v, F, t, L + 1]
    by_words, by_sentence = unit[..., :-1], unit[..., -1]

    video_sentence = (by_sentence * dots.mapped).sum(1)  # [v, t]
    seen_by_words = (by_sentence[..., None] * dots.frames[..., :-1]).sum(1)  # <w_i, g>, [v, t, L]
    seen_by_sentence = (by_words * dots.frames[..., -1:]).sum(1)  # <s, f_j>, [v, t, L]
    matrix = dots.local[..., :-1].permute(0, 2, 3, 1) @ by_words.permute(0, 2, 1, 3)  # M, [v, t, L, L]

    real = text.get("mask")  # [t, L]
    temperature = weights.isa_temperature
    frame_left, word_left = _isa_of_matrix(matrix, weights, real)
    vectors = torch.stack([seen_by_words, seen_by_sentence, frame_left, word_left])  # [4, v, t, L]
    mixing = torch.stack([weights.video_word, weights.sentence_frame, weights.then_frames, weights.then_words])
    attended = attention(vectors, -1, temperature, real).flatten(1, 2) @ mixing  # [4, v t, L]
    if real is not None:
        vectors = vectors.masked_fill(~real, 0.0)
    video_word, sentence_frame, over_frames, over_words = (attended.view_as(vectors) * vectors).sum(-1)
    return torch.stack([video_sentence, video_word, sentence_frame, (over_frames + over_words) / 2]).mT


class _Dots(NamedTuple):
    frames: Tensor  # [v, F, t, L + 1], unit words and sentence . z_f
    local: Tensor  # [v, F, t, L + 1], . Lambda z_f
    mapped: Tensor  # [v, F, t], unit sentence G . z_f


def _dots(text: Mapping[str, Tensor], video: Mapping[str, Tensor]) -> _Dots:
    columns, query = video["columns"], text["query"]
    frames = video["gram"].shape[-1]
    dots = matmul(columns.flatten(0, 1), query.flatten(0, 1).T)
    dots = dots.view(len(columns), 2 * frames, len(query), query.shape[1])
    own = columns[:, :frames].flatten(0, 1)
    mapped = matmul(own, text["mapped"].T).view(len(columns), frames, len(query))
    return _Dots(dots[:, :frames], dots[:, frames:], mapped)


def _unit_weights(dots: Tensor, scale: Tensor, video: Mapping[str, Tensor]) -> Tensor:
    """Return the frame weights of unit pooled vectors [v, F, t, L + 1]. scale: [t, L + 1], length over temperature."""
    logits = dots * scale
    if "mask" in video:
        logits = logits.masked_fill(~video["mask"][..., None, None], float("-inf"))
    weight = (logits - logits.detach().amax(1, keepdim=True)).exp()
    flat = weight.flatten(2)
    length = (torch.bmm(video["gram"], flat) * flat).sum(1, keepdim=True).sqrt()
    return (flat / length).view_as(weight)


def _isa_of_matrix(matrix: Tensor, weights: GlcclWeights, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return r [v, t, L] over the words of each frame slot and q [v, t, L] over the frame slots of each word."""
    if real is None:
        kept, rows, columns = matrix, None, None
    else:
        rows, columns = real[..., None], real[:, None]
        kept = matrix.masked_fill(~(rows & columns), 0.0)
    temperature = weights.isa_temperature
    mixed = torch.matmul(weights.over_words, kept)  # (A3 M)_ij
    frame_left = (attention(matrix, -2, temperature, rows) * mixed).sum(-2)
    mixed = torch.matmul(kept, weights.over_frames.T)  # (M A4')_ij
    word_left = (attention(matrix, -1, temperature, columns) * mixed).sum(-1)
    return frame_left, word_left


def attention(m: Tensor, dim: int, temperature: float, real: Tensor | None) -> Tensor:
    logits = m / temperature
    if real is not None:
        logits = logits.masked_fill(~real, float("-inf"))
    return logits.softmax(dim)
