"""Arithmetic on a clip's frame slots in the layout that a matrix product leaves.

A tile [BT, BV * FP] of products keeps its shape: column j is slot j % FP of the program's clip j // FP. Sums over a
clip's slots are sums over neighbours, which few lanes of a warp hold between them, and a quadratic form of every clip
at once is one product with a block-diagonal matrix: x' M x = sum over the clip's columns of x * (x @ diag(M_0, ..)).
A tile of 64 columns pays 64 / D of its main product for that and moves nothing: what one product leaves in registers
is the left operand of the next (as with the probabilities in flash attention), where a batched product [BV, BT, FP]
passes through shared memory. What a clip's matrices hold is asked for before the long product and waited for after.

In half precision the weights of the slots lie in (0, 1] and are kept as fp16; everything after uses those rounded
weights, so rounding moves the weights a little and breaks no identity between their sums and forms. The matrices are
fp16 too, divided by a bound of their entries: 11 bits where bf16 has 8, and no overflow. In fp32 nothing is rounded
and products are made by three TF32 terms.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def slots(first, V, F, BV: tl.constexpr, FP: tl.constexpr):
    """Return (clip, slot, live), each [BV * FP], of the columns; those beyond V or F repeat the last one.

    first: the program's first clip, int64; clip counts from it, so that offsets within a program are int32.
    """
    column = tl.arange(0, BV * FP)
    clip, f = column // FP, column % FP
    here = (V - first).to(tl.int32)
    return tl.minimum(clip, here - 1), tl.minimum(f, F - 1), (clip < here) & (f < F)


@triton.jit
def slot_products(a, b, row_a, row_b, live_b, D, K: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr):
    """Return a[row_a] @ b[row_b].T in fp32, 0 where b is not live; rows (int32) of contiguous [*, D] matrices.

    EVEN: D is a multiple of K. Rows that are not live are not read: at 12 frames of 16 slots a quarter of b's traffic.
    """
    k = tl.arange(0, K)
    at_a, at_b = a + row_a[:, None] * D + k[None, :], b + row_b[:, None] * D + k[None, :]
    total = tl.zeros((row_a.shape[0], row_b.shape[0]), tl.float32)
    for start in range(0, D, K):
        if EVEN:
            x, y = tl.load(at_a), tl.load(at_b, mask=live_b[:, None], other=0.0)
        else:
            inside = (start + k < D)[None, :]
            x = tl.load(at_a, mask=inside, other=0.0)
            y = tl.load(at_b, mask=live_b[:, None] & inside, other=0.0)
        total = tl.dot(x, tl.trans(y), total, input_precision=PRECISION)
        at_a += K
        at_b += K
    return total


@triton.jit
def slot_sum(x, BV: tl.constexpr, FP: tl.constexpr):
    """[BT, BV * FP] -> [BT, BV], the sums over each clip's slots."""
    return tl.sum(tl.reshape(x, (x.shape[0], BV, FP)), 2)


@triton.jit
def slot_max(x, BV: tl.constexpr, FP: tl.constexpr):
    """[BT, BV * FP] -> [BT, BV * FP]: each column the largest of its clip's."""
    top = tl.max(tl.reshape(x, (x.shape[0], BV, FP)), 2)
    return to_slots(top, FP)


@triton.jit
def to_slots(x, FP: tl.constexpr):
    """[BT, BV] -> [BT, BV * FP]: a number of a pair, at each of its columns."""
    wide = tl.broadcast_to(x[:, :, None], (x.shape[0], x.shape[1], FP))
    return tl.reshape(wide, (x.shape[0], x.shape[1] * FP))


@triton.jit
def slot_weights(logits, real, BV: tl.constexpr, FP: tl.constexpr, PRECISION: tl.constexpr):
    """Return exp(logits - the clip's largest), 0 where not real: fp16, or fp32 where products are (`tf32x3`)."""
    kept = tl.where(real, logits, -float("inf"))
    top = slot_max(kept, BV, FP)
    e = tl.exp(kept - tl.where(top == -float("inf"), 0.0, top))
    if PRECISION == "tf32x3":
        return e
    else:
        return e.to(tl.float16)


@triton.jit
def slot_numbers(base, clip, f, live, stride, offset, step, other):
    """Load a number a column: base[clip * stride + offset + f * step], `other` where not live: [BV * FP] fp32."""
    return tl.load(base + clip * stride + offset + f * step, mask=live, other=other).to(tl.float32)


@triton.jit
def bounds(base, first, V, F, stride, leading, row0, BV: tl.constexpr, FP: tl.constexpr):
    """Return [BV], each clip's largest diagonal entry: of a Gram matrix, no entry is larger."""
    v, f = tl.arange(0, BV), tl.arange(0, FP)
    at = (v * stride + row0 * leading)[:, None] + (f * (leading + 1))[None, :]
    diagonal = tl.load(base + at, mask=(v < V - first)[:, None] & (f < F)[None, :], other=0.0)
    return tl.maximum(tl.max(diagonal.to(tl.float32), 1), 1e-30)


@triton.jit
def block_diagonal(
    base, first, V, F, bound, stride, leading, row0, BV: tl.constexpr, FP: tl.constexpr, PRECISION: tl.constexpr
):
    """Load diag(M_0, M_1, ..) of the program's clips [BV * FP, BV * FP], M the F x F corner of a matrix from row0 on.

    bound [BV]: in half precision a clip's matrix is divided by it.
    """
    column = tl.arange(0, BV * FP)
    clip, f = column // FP, column % FP
    at = (clip * stride + (row0 + f) * leading)[:, None] + f[None, :]
    inside = (clip[:, None] == clip[None, :]) & ((clip < V - first) & (f < F))[:, None] & (f < F)[None, :]
    matrix = tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
    if PRECISION != "tf32x3":
        wide = tl.reshape(tl.broadcast_to(bound[:, None], (BV, FP)), (BV * FP,))
        matrix = (matrix / wide[:, None]).to(tl.float16)
    return matrix


@triton.jit
def slot_form(x, matrix, y, bound, BV: tl.constexpr, FP: tl.constexpr, PRECISION: tl.constexpr):
    """Return x' M y [BT, BV] of every pair: weights x, y [BT, BV * FP], `matrix` and `bound` of the clips' M."""
    form = slot_sum(tl.dot(x, matrix, input_precision=PRECISION) * y, BV, FP)
    if PRECISION == "tf32x3":
        return form
    else:
        return form * bound[None, :]
