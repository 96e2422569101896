"""X-Pool with its epilogue compiled by numba: one pass over the outputs of the two GEMMs.

The formulas are those of `folded.py`.
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
    column_sum,
    dot,
    exp_below_max,
    filled,
    linear,
    put_transposed,
    quadratic,
    supported,
)
from tvr_kernels.gemm import matmul
from tvr_kernels.vectors import LANES, jit, load, splat, sqrt, store

if TYPE_CHECKING:
    from tvr_kernels.xpool import XPoolWeights

_TEXT = ("query", "unit", "offset", "bias")
_VIDEO = ("key", "key_bias", "value", "forms", "constants")
_ONE, _TWO = np.float32(1.0), np.float32(2.0)


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XPoolWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    return supported({**text, **{f"video {k}": x for k, x in video.items()}}, video["key"].shape[1])


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XPoolWeights) -> Tensor:
    """Return [T, V] fp32."""
    eps = np.float32(weights.eps)

    def tile(some_text: dict[str, Tensor], some_video: dict[str, Tensor]) -> Tensor:
        T, (V, F, D) = len(some_text["query"]), some_video["key"].shape
        some_text = filled(some_text)
        logits = matmul(some_video["key"].reshape(V * F, D), some_text["query"].T).view(V, F, -1)
        along = matmul(some_video["value"].reshape(V * F, D), some_text["unit"].T).view(V, F, -1)
        small = [array(some_video[name]) for name in ("key_bias", "forms", "constants")]
        out = torch.empty(logits.shape[2], V)
        both = array(some_text["offset"]), array(some_text["bias"])
        _epilogue(array(logits), array(along), *small, *both, eps, out.numpy())
        return out[:T]

    with torch.no_grad():
        frames = video["key"].shape[1]
        text, video = ({k: side[k] for k in names} for side, names in ((text, _TEXT), (video, _VIDEO)))
        return by_clips(tile, text, video, pair_bytes=8 * frames, saved_bytes=0, tile_bytes=TILE_BYTES)


@jit
def _epilogue(logits, along, key_bias, forms, constants, offset, bias, eps, out):
    """Fill out [T, V] from logits and along [V, F, T]; the rest as in `_sides.py`."""
    V, F, T = logits.shape
    e, rows = np.empty((F, LANES), np.float32), np.empty((V, LANES), np.float32)
    real = key_bias > -np.inf
    for block in range(0, T, LANES):
        first = min(block, T - LANES)  # the last block overlaps the one before
        for v in range(V):
            gamma, nu, eta, beta = constants[v, 0], constants[v, 1], constants[v, 2], constants[v, 3]
            for f in range(F):
                store(e, (f, 0), load(logits, (v, f, first)) + key_bias[v, f])
            exp_below_max(e, real, v, _ONE)
            number = column_sum(e)
            to_u = splat(_ONE) / sqrt(quadratic(forms, v, 0, e) + eps * (number * number))
            form = quadratic(forms, v, F, e) * to_u + _TWO * linear(forms, v, 3 * F, e)
            inverse = splat(_ONE) / sqrt(to_u * form + (gamma + eps))
            form = quadratic(forms, v, 2 * F, e) * to_u + _TWO * linear(forms, v, 3 * F + 1, e)
            square = inverse * (to_u * form + nu)
            square = inverse * (square + _TWO * (to_u * linear(forms, v, 3 * F + 2, e) + eta)) + beta
            score = dot(along, v, 0, first, e) * to_u + load(offset, (first,))
            store(rows, (v, 0), (score * inverse + load(bias, (first,))) / sqrt(square))
        put_transposed(rows, first, out)
