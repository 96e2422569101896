"""Text-guided pooling with its epilogue compiled by numba: one pass over the GEMM's output.

The formula is that of `folded.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tvr_kernels._tiles import by_clips
from tvr_kernels.compiled import LANES, array, dot, exp_below_max, jit, load, quadratic, supported
from tvr_kernels.gemm import matmul

if TYPE_CHECKING:
    from tvr_kernels.text_pooling import TextPoolingWeights


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TextPoolingWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    return supported({**text, **{f"video {k}": x for k, x in video.items()}}, video["frames"].shape[1])


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TextPoolingWeights) -> Tensor:
    """Return [T, V] fp32."""
    scale = np.float32(1.0 / weights.temperature)

    def tile(some_text: dict[str, Tensor], some_video: dict[str, Tensor]) -> Tensor:
        V, F, D = some_video["frames"].shape
        s = matmul(some_video["frames"].reshape(V * F, D), some_text["text"].T).view(V, F, -1)
        out = torch.empty(V, s.shape[2])
        _epilogue(array(s), array(some_video["gram"]), array(some_video["frame_mask"]), scale, out.numpy())
        return out.T * some_text["inverse_norm"][:, None]

    with torch.no_grad():
        frames = video["frames"].shape[1]
        return by_clips(tile, text, video, pair_bytes=4 * frames, saved_bytes=0)


@jit
def _epilogue(s, gram, mask, scale, out):
    """Fill out [V, T] from dots s [V, F, T], gram [V, F, F], mask [V, F]."""
    V, F, T = s.shape
    x, e = np.empty((F, LANES), np.float32), np.empty((F, LANES), np.float32)
    top, row = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    along, length = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    bits = np.empty(LANES, np.int32)
    for v in range(V):
        for first in range(0, T, LANES):
            load(s[v], first, x)
            exp_below_max(x, mask[v], scale, e, top, bits)
            dot(x, e, along)
            quadratic(gram[v], e, length, row)
            for i in range(min(LANES, T - first)):
                out[v, first + i] = along[i] / np.sqrt(length[i])
