"""Text-guided pooling without the pooled vector: one GEMM and one F x F form a pair.

With p = sum_f w_f z_f, the numerator <t, p> is sum_f w_f s_f of the dots s_f that the softmax used, and ||p||^2 is
w^T G w with the clip's Gram matrix G. The cosine does not see the scale of w, so the softmax is never divided by its
sum: with e_f = exp((s_f - max s) / temperature), score = (e . s) / (||t|| sqrt(e^T G e)).
Work a pair: 2 F D + F^2 flops instead of 4 F D and a D-vector written and read. G is positive semidefinite and the
largest weight is 1, so the root's argument is a squared norm of at least moderate size: nothing cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tvr_kernels._tiles import by_clips
from tvr_kernels.gemm import matmul

if TYPE_CHECKING:
    from tvr_kernels.text_pooling import TextPoolingWeights


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TextPoolingWeights) -> Tensor:
    """Return [T, V]; differentiable in text and frames."""
    F, size = video["frames"].shape[1], video["frames"].element_size()
    scale = 1.0 / weights.temperature

    def tile(some_text: dict[str, Tensor], some_video: dict[str, Tensor]) -> Tensor:
        return _tile(some_text, some_video, scale)

    return by_clips(tile, text, video, pair_bytes=2 * F * size, saved_bytes=5 * F * size)


def _tile(text: dict[str, Tensor], video: dict[str, Tensor], scale: float) -> Tensor:
    V, F, D = video["frames"].shape
    s = matmul(video["frames"].reshape(V * F, D), text["text"].T).view(V, F, -1)  # captions are the fast axis
    e = frame_weights(s, video["frame_mask"], scale)
    along = (e * s).sum(1)
    length = (torch.bmm(video["gram"], e) * e).sum(1).sqrt()
    return (along / length).T * text["inverse_norm"][:, None]


def frame_weights(s: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Return exp(scale * (s - max over real frames)) [V, F, T], 0 on missing frames: a softmax before its division."""
    real = s if bool(mask.all()) else s.masked_fill(~mask[..., None], -torch.inf)
    return (real - real.detach().amax(1, keepdim=True)).mul_(scale).exp_()
