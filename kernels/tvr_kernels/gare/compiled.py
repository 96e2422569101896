"""GARE with its epilogue compiled by numba: one pass over the output of the GEMM.

The formulas are those of `folded.py`; c [F] are the first F coefficients of Delta, then come `last` and 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tvr_kernels._tiles import by_clips
from tvr_kernels.compiled import LANES, array, bilinear, dot, exp_below_max, jit, linear, load, quadratic, supported
from tvr_kernels.gare._sides import LAYER_NORM_EPS
from tvr_kernels.gemm import matmul

if TYPE_CHECKING:
    from tvr_kernels.gare import GareWeights

_SMALL = ("normal2", "normal3", "qq", "qv", "vv", "shift", "offset", "variance", "mask")


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GareWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    return supported({**text, **{f"video {k}": x for k, x in video.items()}}, video["mask"].shape[1])


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GareWeights) -> Tensor:
    """Return [T, V] fp32."""
    scale, eps = np.float32(1.0 / weights.temperature), np.float32(LAYER_NORM_EPS)

    def tile(some_text: dict[str, Tensor], some_video: dict[str, Tensor]) -> Tensor:
        V, columns, D = some_video["columns"].shape
        products = matmul(some_video["columns"].reshape(V * columns, D), some_text["text"].T).view(V, columns, -1)
        of_video = [array(some_video[name]) for name in _SMALL]
        of_text = [array(some_text[name]) for name in ("variance", "square", "on_shared")]
        out = torch.empty(V, products.shape[2])
        _epilogue(array(products), *of_video, *of_text, np.float32(2.0 / D), scale, eps, out.numpy())
        return out.T

    with torch.no_grad():
        return by_clips(tile, text, video, pair_bytes=4 * video["columns"].shape[1], saved_bytes=0)


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
    mask,
    text_variance,
    square,
    on_shared,
    two_by_dim,
    scale,
    eps,
    out,  # [V, T]
):
    V, T = out.shape
    F = mask.shape[1]
    x, c, w = np.empty((F, LANES), np.float32), np.empty((F, LANES), np.float32), np.empty((F, LANES), np.float32)
    zero, one, two = np.float32(0.0), np.float32(1.0), np.float32(2.0)
    ones, bits = np.ones(F, np.float32), np.empty(LANES, np.int32)
    gap, work = np.empty((1, LANES), np.float32), np.empty((9, LANES), np.float32)
    top, row, number, form, add = work[0], work[1], work[2], work[3], work[4]
    last, moved, along, length = work[5], work[6], work[7], work[8]
    for v in range(V):
        attended = offset[v] > -np.inf
        for first in range(0, T, LANES):
            n = min(LANES, T - first)
            # alpha, and what LN2 and LN3 leave of it
            load(products[v, 3 * F :], first, gap)
            for i in range(LANES):
                spread = variance[v] + text_variance[min(first + i, T - 1)] - gap[0, i] * two_by_dim
                gap[0, i] = one / np.sqrt(max(spread, zero) + eps)
            load(products[v, 2 * F : 3 * F], first, x)
            for f in range(F):
                if attended[f]:
                    for i in range(LANES):
                        x[f, i] = (x[f, i] + shift[v, f]) * gap[0, i] + offset[v, f]
            exp_below_max(x, attended, one, c, top, bits)
            linear(ones, c, number)
            quadratic(normal2[v], c, form, row)
            for i in range(LANES):
                row[i] = one / np.sqrt(form[i] + eps * number[i] * number[i])
            for f in range(F):
                for i in range(LANES):
                    c[f, i] *= row[i]
            quadratic(normal3[v, :F, :F], c, form, row)
            linear(normal3[v, F, :F], c, add)
            for i in range(LANES):
                last[i] = one / np.sqrt(form[i] + two * add[i] + normal3[v, F, F] + eps)
            for f in range(F):
                for i in range(LANES):
                    c[f, i] *= last[i]
            # |t + Delta|^2
            load(products[v, F : 2 * F], first, x)
            dot(x, c, moved)
            quadratic(qq[v, :F, :F], c, form, row)
            for i in range(LANES):
                moved[i] = two * moved[i] + form[i]
            linear(qq[v, F, :F], c, add)
            linear(qq[v, F + 1, :F], c, form)
            for i in range(LANES):
                moved[i] += two * (add[i] * last[i] + form[i] + last[i] * qq[v, F, F + 1])
                moved[i] += last[i] * last[i] * qq[v, F, F] + qq[v, F + 1, F + 1]
            # <t + Delta, p> and |p|^2
            load(products[v, :F], first, x)
            exp_below_max(x, mask[v], scale, w, top, bits)
            dot(x, w, along)
            bilinear(qv[v, :F], c, w, form, row)
            linear(qv[v, F], w, add)
            linear(qv[v, F + 1], w, number)
            for i in range(LANES):
                along[i] += form[i] + add[i] * last[i] + number[i]
            quadratic(vv[v], w, length, row)
            for i in range(n):
                t = first + i
                on_q = two * (last[i] * on_shared[t, 0] + on_shared[t, 1])
                out[v, t] = along[i] / np.sqrt((moved[i] + on_q + square[t]) * length[i])
