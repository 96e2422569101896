"""GARE with its epilogue compiled by numba: one pass over the output of the GEMM.

The formulas are those of `folded.py`; the coefficients of Delta are c [F], then `last`, then 1.
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
    bilinear,
    column_sum,
    dot,
    exp_below_max,
    fetch,
    filled,
    linear,
    multiply,
    put_transposed,
    quadratic,
    supported,
)
from tvr_kernels.gare._sides import LAYER_NORM_EPS
from tvr_kernels.gemm import matmul
from tvr_kernels.vectors import LANES, jit, load, maximum, prefetch, splat, sqrt, store

if TYPE_CHECKING:
    from tvr_kernels.gare import GareWeights

_SMALL = ("normal2", "normal3", "qq", "qv", "vv", "shift", "offset", "variance", "attend", "mask")
_ONE, _TWO, _ZERO = np.float32(1.0), np.float32(2.0), np.float32(0.0)


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GareWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    return supported({**text, **{f"video {k}": x for k, x in video.items()}}, video["mask"].shape[1])


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GareWeights) -> Tensor:
    """Return [T, V] fp32."""
    scale, eps = np.float32(1.0 / weights.temperature), np.float32(LAYER_NORM_EPS)

    def tile(some_text: dict[str, Tensor], some_video: dict[str, Tensor]) -> Tensor:
        T, (V, columns, D) = len(some_text["text"]), some_video["columns"].shape
        some_text = filled(some_text)
        products = matmul(some_video["columns"].reshape(V * columns, D), some_text["text"].T).view(V, columns, -1)
        of_video = [array(some_video[name]) for name in _SMALL]
        of_text = [array(x) for x in (some_text["variance"], some_text["square"], some_text["on_shared"].T)]
        out = torch.empty(products.shape[2], V)
        _epilogue(array(products), *of_video, *of_text, np.float32(2.0 / D), scale, eps, out.numpy())
        return out[:T]

    with torch.no_grad():
        return by_clips(
            tile, text, video, pair_bytes=4 * video["columns"].shape[1], saved_bytes=0, tile_bytes=TILE_BYTES
        )


@jit
def _epilogue(
    products,  # [V, 3 F + 1, T]: frames | Q | -kappa | mean frame
    normal2,
    normal3,
    qq,
    qv,
    vv,
    shift,
    offset,
    variance,
    attend,
    mask,
    text_variance,
    square,
    on_shared,
    two_by_dim,
    scale,
    eps,
    out,  # [T, V]
):
    T, V = out.shape
    F = mask.shape[1]
    c, w = np.empty((F, LANES), np.float32), np.empty((F, LANES), np.float32)
    rows, one = np.empty((V, LANES), np.float32), splat(_ONE)
    for block in range(0, T, LANES):
        first = min(block, T - LANES)  # the last block overlaps the one before
        for v in range(V):
            for row in range(3 * F + 1):
                prefetch(products, (v + 1, row, first))  # rows are pages apart: the next clip's would come late
            # alpha, and what LN2 and LN3 leave of it
            spread = (load(text_variance, (first,)) + variance[v]) - load(products, (v, 3 * F, first)) * two_by_dim
            inverse = one / sqrt(maximum(spread, splat(_ZERO)) + eps)
            for f in range(F):
                store(c, (f, 0), (load(products, (v, 2 * F + f, first)) + shift[v, f]) * inverse + offset[v, f])
            exp_below_max(c, attend, v, _ONE)
            number = column_sum(c)
            multiply(c, one / sqrt(quadratic(normal2, v, 0, c) + eps * (number * number)))
            form = quadratic(normal3, v, 0, c) + _TWO * linear(normal3, v, F, c)
            last = one / sqrt(form + (normal3[v, F, F] + eps))
            multiply(c, last)
            # |t + Delta|^2
            moved = _TWO * dot(products, v, F, first, c) + quadratic(qq, v, 0, c) + load(square, (first,))
            moved = moved + _TWO * (linear(qq, v, F, c) * last + linear(qq, v, F + 1, c) + last * qq[v, F, F + 1])
            moved = moved + ((last * last) * qq[v, F, F] + qq[v, F + 1, F + 1])
            moved = moved + _TWO * (last * load(on_shared, (0, first)) + load(on_shared, (1, first)))
            # <t + Delta, p> and |p|^2
            fetch(products, v, 0, first, w)
            exp_below_max(w, mask, v, scale)
            along = dot(products, v, 0, first, w) + bilinear(qv, v, c, w)
            along = along + (linear(qv, v, F, w) * last + linear(qv, v, F + 1, w))
            store(rows, (v, 0), along / sqrt(moved * quadratic(vv, v, 0, w)))
        put_transposed(rows, first, out)
