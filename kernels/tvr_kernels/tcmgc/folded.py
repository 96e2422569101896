"""TC-MGC without text-conditioned vectors: two GEMMs, quadratic forms in the frame weights, and the ranks.

Everything between the softmax weights a and the cosines is linear but for three normalisers. With centred kappa the
variance that LN2 divides by is `a' K1 a + eps`; with c = a over its root, LN3's input, centred, is `sum_f c_f U0_f +
c0` (U0_f = centred (I + P) g2 kappa_f, c0 the centred image of the biases: the shift), whose variance is
`c' K2 c + 2 c . h2 + w2 + eps`; and y = rho (sum_f c_f U_f + g3 c0) + b3 with U = g3 U0, so |y|^2 is a third form. A
dot <p, y> / |y| of any text-side vector is then F + 2 multiply-adds on dots that one GEMM made. Work a pair at L = 32,
F = 12, D = 512: 0.64 M multiply-adds instead of 18.7 M. LN's eps makes the scale of a matter, so its softmax is a real
one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tvr_kernels._blocks import by_blocks
from tvr_kernels.gemm import matmul
from tvr_kernels.tcmgc import LAYER_NORM_EPS, TcmgcWeights, fuse, shift
from tvr_kernels.tcmgc.ranks import Dots, reorganise


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TcmgcWeights) -> Tensor:
    """Return [T, V]; see the package for the inputs."""
    return fuse(similarities(text, video, weights) * weights.scale, weights.fusion)


def similarities(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TcmgcWeights) -> Tensor:
    """Return VS, VW, SF, FW [4, T, V]; differentiable, recomputed block by block where a batch is large."""
    slots, columns = text["query"].shape[1], video["forms"].shape[-1]
    numbers = 12 * columns * slots + 5 * slots**2  # of a pair that autograd keeps
    constants = _constants(weights)
    return by_blocks(
        lambda t, v: _block(t, v, weights, constants),
        text,
        video,
        saved_bytes=numbers * video["forms"].element_size(),
        tile=(32, 8),
    )


def video_sentence(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TcmgcWeights) -> Tensor:
    """Return VS [T, V] alone, the first of `similarities`: what needs no words. No gradient is looked after.

    video: `columns`, of which the first 2N rows are read, `forms`, both in any floating type, and `mask` if there is
    one.
    """
    forms = video["forms"].to(text["mapped"].dtype)
    slots, size = forms.shape[-1], text["mapped"].shape[1]
    kappa, arriving = video["columns"][:, : 2 * slots].to(forms.dtype).split(slots, 1)  # [V, N, D] each
    logits = matmul(kappa.flatten(0, 1), text["query"][:, -1].T) / _temperature(size, weights)
    attention = frame_attention(logits.view(-1, slots, len(text["mapped"])), video.get("mask"), weights.heads)
    mapped = matmul(arriving.flatten(0, 1), text["mapped"].T).view_as(attention)
    share = _coordinates(attention, forms, _constants(weights))  # [V, N + 2, T]
    return (share * _extended(mapped, text["mapped_shared"])).sum(1).T


def _temperature(size: int, weights: TcmgcWeights) -> float:
    """Return the square root of a head's width, by which attention's logits are divided."""
    return (size // weights.heads) ** 0.5


def _block(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TcmgcWeights, constants: Tensor) -> Tensor:
    """Return [4, t, v]. Clips lead and captions follow, so that sums over frames run over long contiguous rows."""
    slots = video["forms"].shape[-1]  # N = heads x F
    columns, (t, rows, size) = video["columns"], text["query"].shape
    clips = len(columns)
    logits = matmul(columns[:, :slots].flatten(0, 1), text["query"].flatten(0, 1).T) / _temperature(size, weights)
    dots = matmul(columns[:, slots:].flatten(0, 1), text["unit"].flatten(0, 1).T).view(clips, 2 * slots, t, rows)
    mapped = matmul(columns[:, slots : 2 * slots].flatten(0, 1), text["mapped"].T).view(clips, slots, t)

    attention = frame_attention(logits.view(clips, slots, t * rows), video.get("mask"), weights.heads)
    share = _coordinates(attention, video["forms"], constants).view(clips, slots + 2, t, rows)
    by_words, by_sentence = share[..., :-1], share[..., -1]  # [v, N + 2, t, L], [v, N + 2, t]

    seen = _extended(dots[:, :slots], text["shared"][..., :2])  # [v, N + 2, t, L + 1], dots with U, c, b3
    local = _extended(dots[:, slots:, :, :-1], text["shared"][:, :-1, 2:])  # through Lambda
    answer = Dots(
        video_sentence=(by_sentence * _extended(mapped, text["mapped_shared"])).sum(1),
        video_word=(by_sentence[..., None] * seen[..., :-1]).sum(1),
        sentence_frame=(by_words * seen[..., -1:]).sum(1),
        frame_word=local.permute(0, 2, 3, 1) @ by_words.permute(0, 2, 1, 3),
    )
    return reorganise(answer, weights, text.get("mask")).mT


def frame_attention(logits: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """Return the frame weights [v, N, n] of each head from logits of the same shape."""
    logits = logits.unflatten(1, (heads, -1))  # [v, H, F, n]
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, :, None], float("-inf"))
    return logits.softmax(2).flatten(1, 2)


def _coordinates(attention: Tensor, forms: Tensor, constants: Tensor) -> Tensor:
    """Return the unit vector y / |y| in the frame (U_1 .. U_N, g3 c0, b3): [v, N + 2, n]."""
    slots = attention.shape[1]
    products = torch.bmm(forms, attention)  # [v, 3N + 3, n]
    squares = (products[:, : 3 * slots].unflatten(1, (3, slots)) * attention[:, None]).sum(2)  # a' K a, [v, 3, n]
    linear = products[:, 3 * slots :]
    shift_variance, shift_square, shift_bias, bias_square = constants
    inverse2 = (squares[:, 0] + LAYER_NORM_EPS).rsqrt()  # LN2's 1 / sigma
    variance = inverse2 * (inverse2 * squares[:, 1] + 2 * linear[:, 0]) + shift_variance
    inverse3 = (variance + LAYER_NORM_EPS).rsqrt()  # LN3's
    centred = inverse2 * (inverse2 * squares[:, 2] + 2 * linear[:, 1]) + shift_square
    square = inverse3 * (inverse3 * centred + 2 * (inverse2 * linear[:, 2] + shift_bias)) + bias_square
    inverse = square.rsqrt()  # 1 / |y|
    on_shift = inverse3 * inverse
    return torch.cat([attention * (on_shift * inverse2)[:, None], torch.stack([on_shift, inverse], 1)], 1)


def _constants(weights: TcmgcWeights) -> Tensor:
    """Return |c0|^2 / D, |g3 c0|^2, <g3 c0, b3>, |b3|^2: what every pair adds to the three forms. [4]"""
    c0, b3 = shift(weights), weights.norm3_bias
    scaled = weights.norm3_weight * c0
    return torch.stack([c0.square().mean(), scaled.square().sum(), scaled @ b3, b3.square().sum()])


def _extended(dots: Tensor, shared: Tensor) -> Tensor:
    """Append a text vector's dots with the two shared vectors: [v, N, t, ...] and [t, ..., 2] -> [v, N + 2, t, ...]."""
    return torch.cat([dots, shared.movedim(-1, 0).expand(len(dots), *(-1,) * shared.dim())], 1)
