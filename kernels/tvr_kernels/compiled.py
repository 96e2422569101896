"""What the numba kernels share: arithmetic on blocks of frames x lanes, captions being the lanes of a vector unit.

The GEMM stays with `gemm.matmul`; these are its epilogues. A block is [F, LANES] float32 in the first-level cache. Sums
over frames run in order, one lane a caption, so no flag that reorders sums is needed; `contract` (fused multiply-add)
is the only one set. Compiled at first use and cached on disk by numba. Needs the extra `fast`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

LANES = 64
MAX_FRAMES = 128

jit: Any = numba.njit(cache=True, nogil=True, fastmath={"contract"})

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LOWEST = np.float32(-87.0)  # exp is taken as 0 below
_ONE, _HALF = np.float32(1.0), np.float32(0.5)
# Cephes' expf: exp(r) - 1 - r = r^2 * p(r) on |r| <= ln(2) / 2, error below 1 unit in the last place
_P0, _P1, _P2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_P3, _P4, _P5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)


@jit
def exp_below_max(x, real, scale, e, top, bits):
    """Fill e [F, LANES] with exp(scale * (x - max over real frames)), 0 where not real or below e^-87.

    x: [F, LANES]; real: [F] bool; top: [LANES] and bits: [LANES] int32 are workspace.
    """
    F, lanes = e.shape
    for i in range(lanes):
        top[i] = -np.inf
    for f in range(F):
        if real[f]:
            for i in range(lanes):
                top[i] = max(top[i], x[f, i])
    power = bits.view(np.float32)
    for f in range(F):
        if not real[f]:
            for i in range(lanes):
                e[f, i] = np.float32(0.0)
            continue
        for i in range(lanes):
            y = max((x[f, i] - top[i]) * scale, _LOWEST)
            k = np.floor(y * _LOG2_E + _HALF)
            r = y - k * _LN2_HIGH - k * _LN2_LOW
            p = ((((_P0 * r + _P1) * r + _P2) * r + _P3) * r + _P4) * r + _P5
            e[f, i] = p * r * r + r + _ONE
            bits[i] = (np.int32(k) + np.int32(127)) << np.int32(23)
        for i in range(lanes):
            e[f, i] = e[f, i] * power[i]


@jit
def quadratic(matrix, e, total, row):
    """Fill total [LANES] with e' M e for a symmetric M [F, F]; row: [LANES] workspace."""
    F, lanes = e.shape
    for i in range(lanes):
        total[i] = np.float32(0.0)
    for f in range(F):
        half = _HALF * matrix[f, f]
        for i in range(lanes):
            row[i] = half * e[f, i]
        for g in range(f):
            m = matrix[f, g]
            for i in range(lanes):
                row[i] += m * e[g, i]
        for i in range(lanes):
            total[i] += row[i] * e[f, i]
    for i in range(lanes):
        total[i] += total[i]


@jit
def bilinear(matrix, e, w, total, row):
    """Fill total [LANES] with e' M w for M [F, F]."""
    F, lanes = e.shape
    for i in range(lanes):
        total[i] = np.float32(0.0)
    for f in range(F):
        for i in range(lanes):
            row[i] = np.float32(0.0)
        for g in range(F):
            m = matrix[f, g]
            for i in range(lanes):
                row[i] += m * w[g, i]
        for i in range(lanes):
            total[i] += row[i] * e[f, i]


@jit
def linear(vector, e, total):
    """Fill total [LANES] with v' e for v [F]."""
    F, lanes = e.shape
    for i in range(lanes):
        total[i] = np.float32(0.0)
    for f in range(F):
        v = vector[f]
        for i in range(lanes):
            total[i] += v * e[f, i]


@jit
def dot(x, e, total):
    """Fill total [LANES] with sum_f x_f e_f."""
    F, lanes = e.shape
    for i in range(lanes):
        total[i] = np.float32(0.0)
    for f in range(F):
        for i in range(lanes):
            total[i] += x[f, i] * e[f, i]


@jit
def load(source, first, block):
    """Copy source [F, T], from lane `first`, to block [F, LANES]; lanes beyond T repeat the last one."""
    F, lanes = block.shape
    n = min(lanes, source.shape[1] - first)
    for f in range(F):
        for i in range(n):
            block[f, i] = source[f, first + i]
        for i in range(n, lanes):
            block[f, i] = block[f, n - 1]


def supported(tensors: Mapping[str, Tensor], frames: int, parameters: Any = ()) -> tuple[bool, str]:
    """Return whether the compiled tier can score these tensors, and why not."""
    floating = [x for x in tensors.values() if x.is_floating_point()]
    if any(x.device.type != "cpu" for x in tensors.values()):
        return False, "it scores CPU tensors"
    if any(x.dtype != torch.float32 for x in floating):
        return False, "it scores in fp32"
    if torch.is_grad_enabled() and any(x.requires_grad for x in floating):
        return False, "it has no backward pass"
    if frames > MAX_FRAMES:
        return False, f"a clip has {frames} frame slots, it takes at most {MAX_FRAMES}"
    return True, "CPU tensors, fp32, no gradient"


def array(x: Tensor) -> np.ndarray:
    """Return the tensor's memory as a contiguous array."""
    return x.detach().contiguous().numpy()
