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
from tvr_kernels.compiled import (
    TILE_BYTES,
    array,
    dot,
    exp_below_max,
    fetch,
    filled,
    put_transposed,
    quadratic,
    supported,
)
from tvr_kernels.gemm import matmul
from tvr_kernels.vectors import LANES, jit, sqrt, store

if TYPE_CHECKING:
    from tvr_kernels.text_pooling import TextPoolingWeights


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TextPoolingWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    return supported({**text, **{f"video {k}": x for k, x in video.items()}}, video["frames"].shape[1])


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TextPoolingWeights) -> Tensor:
    """Return [T, V] fp32."""
    scale = np.float32(1.0 / weights.temperature)

    def tile(some_text: dict[str, Tensor], some_video: dict[str, Tensor]) -> Tensor:
        T, (V, F, D) = len(some_text["text"]), some_video["frames"].shape
        some_text = filled(some_text)
        s = matmul(some_video["frames"].reshape(V * F, D), some_text["text"].T).view(V, F, -1)
        out = torch.empty(s.shape[2], V)
        _epilogue(array(s), array(some_video["gram"]), array(some_video["frame_mask"]), scale, out.numpy())
        return out[:T].mul_(some_text["inverse_norm"][:T, None])

    with torch.no_grad():
        frames = video["frames"].shape[1]
        return by_clips(tile, text, video, pair_bytes=4 * frames, saved_bytes=0, tile_bytes=TILE_BYTES)


@jit
def _epilogue(s, gram, mask, scale, out):
    """Fill out [T, V] from dots s [V, F, T], gram [V, F, F], mask [V, F]."""
    V, F, T = s.shape
    e, rows = np.empty((F, LANES), np.float32), np.empty((V, LANES), np.float32)
    for block in range(0, T, LANES):
        first = min(block, T - LANES)  # the last block overlaps the one before
        for v in range(V):
            fetch(s, v, 0, first, e)
            exp_below_max(e, mask, v, scale)
            store(rows, (v, 0), dot(s, v, 0, first, e) / sqrt(quadratic(gram, v, 0, e)))
        put_transposed(rows, first, out)
