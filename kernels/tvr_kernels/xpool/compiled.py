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
from tvr_kernels.compiled import LANES, array, dot, exp_below_max, jit, linear, load, quadratic, supported
from tvr_kernels.gemm import matmul

if TYPE_CHECKING:
    from tvr_kernels.xpool import XPoolWeights


def supports(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XPoolWeights) -> tuple[bool, str]:
    """Return (can run, why)."""
    return supported({**text, **{f"video {k}": x for k, x in video.items()}}, video["key"].shape[1])


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XPoolWeights) -> Tensor:
    """Return [T, V] fp32."""
    eps = np.float32(weights.eps)

    def tile(some_text: dict[str, Tensor], some_video: dict[str, Tensor]) -> Tensor:
        V, F, D = some_video["key"].shape
        logits = matmul(some_video["key"].reshape(V * F, D), some_text["query"].T).view(V, F, -1)
        along = matmul(some_video["value"].reshape(V * F, D), some_text["unit"].T).view(V, F, -1)
        small = [array(some_video[name]) for name in ("key_bias", "forms", "constants")]
        out = torch.empty(V, logits.shape[2])
        both = array(some_text["offset"]), array(some_text["bias"])
        _epilogue(array(logits), array(along), *small, *both, eps, out.numpy())
        return out.T

    with torch.no_grad():
        frames = video["key"].shape[1]
        return by_clips(tile, text, video, pair_bytes=8 * frames, saved_bytes=0)


@jit
def _epilogue(logits, along, key_bias, forms, constants, offset, bias, eps, out):
    """Fill out [V, T] from logits and along [V, F, T]; the rest as in `_sides.py`."""
    V, F, T = logits.shape
    x, e = np.empty((F, LANES), np.float32), np.empty((F, LANES), np.float32)
    one, two = np.float32(1.0), np.float32(2.0)
    ones, bits = np.ones(F, np.float32), np.empty(LANES, np.int32)
    work = np.empty((10, LANES), np.float32)
    top, row, total, number = work[0], work[1], work[2], work[3]
    form2, form3, form_n, linear_g, linear_n, linear_h = work[4], work[5], work[6], work[7], work[8], work[9]
    for v in range(V):
        real = key_bias[v] > -np.inf
        gamma, nu, eta, beta = constants[v, 0], constants[v, 1], constants[v, 2], constants[v, 3]
        for first in range(0, T, LANES):
            load(logits[v], first, x)
            for f in range(F):
                add = key_bias[v, f]
                for i in range(LANES):
                    x[f, i] += add
            exp_below_max(x, real, one, e, top, bits)
            linear(ones, e, number)
            quadratic(forms[v, :F], e, form2, row)
            quadratic(forms[v, F : 2 * F], e, form3, row)
            quadratic(forms[v, 2 * F : 3 * F], e, form_n, row)
            linear(forms[v, 3 * F], e, linear_g)
            linear(forms[v, 3 * F + 1], e, linear_n)
            linear(forms[v, 3 * F + 2], e, linear_h)
            load(along[v], first, x)
            dot(x, e, total)
            for i in range(min(LANES, T - first)):
                to_u = one / np.sqrt(form2[i] + eps * number[i] * number[i])
                inverse = one / np.sqrt(to_u * (form3[i] * to_u + two * linear_g[i]) + gamma + eps)
                square = inverse * (to_u * (form_n[i] * to_u + two * linear_n[i]) + nu)
                square = inverse * (square + two * (to_u * linear_h[i] + eta)) + beta
                score = (total[i] * to_u + offset[first + i]) * inverse + bias[first + i]
                out[v, first + i] = score / np.sqrt(square)
