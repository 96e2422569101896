"""What the compiled kernels share: arithmetic on blocks of frames x lanes, the epilogues of `gemm.matmul`.

A block is [F, LANES] float32 in the first-level cache, one lane a caption or a word; sums over frames run in order.
Functions take an array and the item's row in it, because slicing costs a reference count. Compiled at first use and
cached on disk by numba. Needs the extra `fast`; the arithmetic itself is in `vectors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvr_kernels.vectors import LANES, exp, jit, load, maximum, splat, store

MAX_FRAMES = 128
# Products of one scoring tile. They are read once, so a tile need not fit the second-level cache, as the folded forms'
# many passes want it; and the GEMM likes it large: against 2 MB, 7 to 12 % less time for text pooling, X-Pool and GARE.
TILE_BYTES = 2**23

_ZERO, _HALF = np.float32(0.0), np.float32(0.5)


@jit
def fetch(source, v, first, lane, block):
    """Copy rows source[v, first : first + F, lane : lane + LANES] to block [F, LANES]."""
    for f in range(block.shape[0]):
        store(block, (f, 0), load(source, (v, first + f, lane)))


@jit
def exp_below_max(block, real, v, scale):
    """Replace block [F, LANES] by exp(scale * (x - max over real frames)), 0 where not real [V, F]."""
    F = block.shape[0]
    top = splat(np.float32(-np.inf))
    for f in range(F):
        if real[v, f]:
            top = maximum(top, load(block, (f, 0)))
    for f in range(F):
        if real[v, f]:
            store(block, (f, 0), exp((load(block, (f, 0)) - top) * scale))
        else:
            store(block, (f, 0), splat(_ZERO))


@jit
def quadratic(matrices, v, first, e):
    """Return e' M e for the symmetric M = matrices[v, first : first + F, :F] and a block e [F, LANES].

    Four rows of M at a time share what they load of e.
    """
    F = e.shape[0]
    half_sum = splat(_ZERO)  # of the lower triangle, the diagonal halved
    for f in range(0, F - 3, 4):
        m = first + f
        e0, e1, e2, e3 = load(e, (f, 0)), load(e, (f + 1, 0)), load(e, (f + 2, 0)), load(e, (f + 3, 0))
        row0 = (_HALF * matrices[v, m, f]) * e0
        row1 = matrices[v, m + 1, f] * e0 + (_HALF * matrices[v, m + 1, f + 1]) * e1
        row2 = matrices[v, m + 2, f] * e0 + matrices[v, m + 2, f + 1] * e1
        row2 = row2 + (_HALF * matrices[v, m + 2, f + 2]) * e2
        row3 = matrices[v, m + 3, f] * e0 + matrices[v, m + 3, f + 1] * e1
        row3 = row3 + matrices[v, m + 3, f + 2] * e2 + (_HALF * matrices[v, m + 3, f + 3]) * e3
        for g in range(f):
            x = load(e, (g, 0))
            row0 = row0 + matrices[v, m, g] * x
            row1 = row1 + matrices[v, m + 1, g] * x
            row2 = row2 + matrices[v, m + 2, g] * x
            row3 = row3 + matrices[v, m + 3, g] * x
        half_sum = half_sum + ((row0 * e0 + row1 * e1) + (row2 * e2 + row3 * e3))
    for f in range(F - F % 4, F):
        x = load(e, (f, 0))
        row = (_HALF * matrices[v, first + f, f]) * x
        for g in range(f):
            row = row + matrices[v, first + f, g] * load(e, (g, 0))
        half_sum = half_sum + row * x
    return half_sum + half_sum


@jit
def bilinear(matrices, v, e, w):
    """Return e' M w for M = matrices[v, :F, :F] and blocks e, w [F, LANES]."""
    F = e.shape[0]
    result = splat(_ZERO)
    for f in range(0, F - 3, 4):
        row0, row1, row2, row3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
        for g in range(F):
            x = load(w, (g, 0))
            row0 = row0 + matrices[v, f, g] * x
            row1 = row1 + matrices[v, f + 1, g] * x
            row2 = row2 + matrices[v, f + 2, g] * x
            row3 = row3 + matrices[v, f + 3, g] * x
        result = result + (row0 * load(e, (f, 0)) + row1 * load(e, (f + 1, 0)))
        result = result + (row2 * load(e, (f + 2, 0)) + row3 * load(e, (f + 3, 0)))
    for f in range(F - F % 4, F):
        row = splat(_ZERO)
        for g in range(F):
            row = row + matrices[v, f, g] * load(w, (g, 0))
        result = result + row * load(e, (f, 0))
    return result


@jit
def linear(matrices, v, row, e):
    """Return m' e for the row m = matrices[v, row, :F] and a block e [F, LANES]."""
    result = splat(_ZERO)
    for f in range(e.shape[0]):
        result = result + matrices[v, row, f] * load(e, (f, 0))
    return result


@jit
def column_sum(e):
    """Return the sum over frames of a block e [F, LANES]."""
    result = splat(_ZERO)
    for f in range(e.shape[0]):
        result = result + load(e, (f, 0))
    return result


@jit
def dot(source, v, first, lane, e):
    """Return sum_f x_f e_f for x = source[v, first : first + F, lane : lane + LANES] and a block e [F, LANES]."""
    result = splat(_ZERO)
    for f in range(e.shape[0]):
        result = result + load(source, (v, first + f, lane)) * load(e, (f, 0))
    return result


@jit
def multiply(e, factor):
    """Multiply every row of a block e [F, LANES] by a vector."""
    for f in range(e.shape[0]):
        store(e, (f, 0), load(e, (f, 0)) * factor)


@jit
def product(left, right, i, c, F):
    """Return rows i ... i + 3 of left' right, lanes c and following; left, right: [F or more, P]."""
    row0, row1, row2, row3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
    for f in range(F):
        x = load(right, (f, c))
        row0 = row0 + left[f, i] * x
        row1 = row1 + left[f, i + 1] * x
        row2 = row2 + left[f, i + 2] * x
        row3 = row3 + left[f, i + 3] * x
    return row0, row1, row2, row3


@jit
def put_transposed(rows, lane, out):
    """Write rows [V, LANES], scores of clips with captions `lane` and following, to out [T, V]."""
    for i in range(rows.shape[1]):
        for v in range(rows.shape[0]):
            out[lane + i, v] = rows[v, i]


def whole(slots: int) -> int:
    """Return `slots`, rounded up to whole vectors."""
    return -(-slots // LANES) * LANES


def filled(text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Repeat the last caption until there are LANES, the fewest that a kernel can take at a time."""
    T = len(next(iter(text.values())))
    if T >= LANES:
        return dict(text)
    rows = torch.arange(LANES).clamp_max(T - 1)
    return {k: x[rows] for k, x in text.items()}


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
