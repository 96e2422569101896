"""What the Triton kernels share: tiles of many clips, their products with captions, quadratic forms in registers.

A program owns BT text rows and BV clips, padded to FP frame slots each: one tile [BT, BV * FP] of dot products, which
becomes [BV, BT, FP] for the arithmetic on a clip's frames. FP and the block sizes are powers of two, at least 16 where
a matrix unit sees them; padding exists in registers only, every load is masked, offsets are int64, sums are fp32.
Inputs may be fp32 (products by three TF32 terms, error as fp32), bf16 or fp16 (one product, fp32 sum).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_FRAMES = 64
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def tile_of(pid, texts, clips, GROUP: tl.constexpr):
    """Return (text tile, clip tile) of a program; GROUP text tiles in a row share their clips in the L2 cache."""
    width = GROUP * clips
    first = (pid // width) * GROUP
    height = tl.minimum(texts - first, GROUP)
    return first + (pid % width) % height, (pid % width) // height


@triton.jit
def products(
    a, b, row_a, row_b, live_a, live_b, D, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr
):
    """Return a[row_a] @ b[row_b].T [M, N] in fp32; rows are int64 indices of contiguous [*, D] matrices."""
    total = tl.zeros((M, N), tl.float32)
    k = tl.arange(0, K)
    for start in range(0, D, K):
        column = start + k
        inside = column < D
        x = tl.load(a + row_a[:, None] * D + column[None, :], mask=live_a[:, None] & inside[None, :], other=0.0)
        y = tl.load(b + row_b[:, None] * D + column[None, :], mask=live_b[:, None] & inside[None, :], other=0.0)
        total = tl.dot(x, tl.trans(y), total, input_precision=PRECISION)
    return total


@triton.jit
def clip_rows(first_clip, V, F, stride, offset, BV: tl.constexpr, FP: tl.constexpr):
    """Return (rows [BV * FP], live): frame slot f of clip v is row v * stride + offset + f of a matrix."""
    slot = tl.arange(0, BV * FP)
    clip = first_clip + slot // FP
    f = slot % FP
    return clip.to(tl.int64) * stride + offset + f, (clip < V) & (f < F)


@triton.jit
def by_clip(tile, BT: tl.constexpr, BV: tl.constexpr, FP: tl.constexpr):
    """[BT, BV * FP] -> [BV, BT, FP]."""
    return tl.permute(tl.reshape(tile, (BT, BV, FP)), (1, 0, 2))


@triton.jit
def matrices(base, clips, live, rows, columns, stride, row0, column0, leading, FP: tl.constexpr):
    """Load a rows x columns corner of each clip's small matrix [*, leading], from (row0, column0): [BV, FP, FP]."""
    f = tl.arange(0, FP)
    at = clips.to(tl.int64)[:, None, None] * stride
    at += (row0 + f)[None, :, None] * leading + (column0 + f)[None, None, :]
    inside = live[:, None, None] & (f < rows)[None, :, None] & (f < columns)[None, None, :]
    return tl.load(base + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def vectors(base, clips, live, n, stride, offset, step, other, FP: tl.constexpr):
    """Load n numbers a clip, `step` apart from `offset`: [BV, FP]."""
    f = tl.arange(0, FP)
    at = clips.to(tl.int64)[:, None] * stride + offset + (f * step)[None, :]
    return tl.load(base + at, mask=live[:, None] & (f < n)[None, :], other=other).to(tl.float32)


@triton.jit
def square_matrix(base, index, n, NP: tl.constexpr):
    """Load matrix `index` of a stack of n x n matrices, zero beyond n: [NP, NP]."""
    i = tl.arange(0, NP)
    inside = (i < n)[:, None] & (i < n)[None, :]
    return tl.load(base + index * n * n + i[:, None] * n + i[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def times(x, y, PRECISION: tl.constexpr):
    """Return x @ y, a batch of products [B, M, N].

    Triton before 3.9 gives every warp of a program a batch entry of its own: with one entry all warps would hold the
    whole product, in registers that are not there. So one entry is a plain product.
    """
    if x.shape[0] == 1:
        flat = tl.reshape(x, (x.shape[1], x.shape[2]))
        product = tl.dot(flat, tl.reshape(y, (y.shape[1], y.shape[2])), input_precision=PRECISION)
        return tl.reshape(product, (1, x.shape[1], y.shape[2]))
    else:
        return tl.dot(x, y, input_precision=PRECISION)


@triton.jit
def bilinear(x, matrix, y, PRECISION: tl.constexpr):
    """Return x' M y [BV, BT]: x, y [BV, BT, FP], matrix [BV, FP, FP]."""
    return tl.sum(times(x, matrix, PRECISION) * y, 2)


@triton.jit
def symmetric_form(x, base, clips, live, n, stride, row0, FP: tl.constexpr, PRECISION: tl.constexpr):
    """Return x' M x [BV, R] with each clip's symmetric n x n matrix from row0 of its rows: x [BV, R, FP].

    One vector a clip (R = 1) reads its matrix by columns: the compiler would keep one that is read the same way for a
    later use, and has no registers for it.
    """
    if x.shape[1] == 1:
        f = tl.arange(0, FP)
        at = clips.to(tl.int64)[:, None, None] * stride + (row0 + f)[None, None, :] * n + f[None, :, None]
        inside = live[:, None, None] & (f < n)[None, :, None] & (f < n)[None, None, :]
        matrix = tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
        return tl.sum(tl.sum(matrix * x, 2)[:, None, :] * x, 2)
    else:
        return bilinear(x, matrices(base, clips, live, n, n, stride, row0, 0, n, FP), x, PRECISION)


@triton.jit
def exp_below_max(logits, real):
    """Return exp(logits - max) over the last axis, 0 where not real; a row without real slots gives zeros."""
    kept = tl.where(real, logits, -float("inf"))
    top = tl.max(kept, 2)
    top = tl.where(top == -float("inf"), 0.0, top)
    return tl.where(real, tl.exp(kept - top[:, :, None]), 0.0)


class Launch(NamedTuple):
    """A kernel with everything that it is started with; constants are constexpr arguments and compiler options."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]

    def run(self) -> None:
        """Start the kernel on the device of its tensors."""
        device = next(x.device for x in self.arguments if isinstance(x, Tensor))
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            self.kernel[self.grid](*self.arguments, **self.constants)


class Tile(NamedTuple):
    """What a program owns and how it is compiled: captions, columns (frame slots of its clips), warps, the depth of the
    pipeline, features a step of it."""

    captions: int
    columns: int
    warps: int
    stages: int
    step: int


class Tiles(NamedTuple):
    """The tiles of an op in (fp32, half precision), every one without spilled registers.

    hopper: of those the fastest on an H200 (docs/benchmarks.md). other: where nothing was measured. long: items of more
    than 32 slots.
    """

    hopper: tuple[Tile, Tile]
    other: tuple[Tile, Tile]
    long: tuple[Tile, Tile]


class Blocks:
    """Block sizes of a launch: constexpr arguments and the grid.

    like: a tensor that the products read. slots: of a clip, or of a caption that a program holds whole, if it has more.
    """

    def __init__(
        self,
        texts: int,
        clips: int,
        frames: int,
        like: Tensor,
        tiles: Tiles,
        capability: int | None,
        slots: int = 0,
    ):
        self.FP = max(16, triton.next_power_of_2(frames))
        here = capability_of(like.device) if capability is None else capability
        pair = tiles.long if max(frames, slots) > 32 else tiles.hopper if here >= 90 else tiles.other
        self.tile = pair[like.dtype != torch.float32]
        self.BV = max(1, self.tile.columns // self.FP)
        self.PRECISION = "tf32x3" if like.dtype == torch.float32 else "tf32"
        self.grid = (triton.cdiv(texts, self.tile.captions) * triton.cdiv(clips, self.BV),)

    def constants(self, features: int | None = None) -> dict[str, Any]:
        """Return the constexpr arguments; of `slot_products` too, where the number of features is given."""
        even = {} if features is None else {"EVEN": features % self.tile.step == 0}
        return {
            **even,
            **{"BT": self.tile.captions, "BV": self.BV, "FP": self.FP, "BK": self.tile.step, "GROUP": 8},
            **{"PRECISION": self.PRECISION, "num_warps": self.tile.warps, "num_stages": self.tile.stages},
        }


def capability_of(device: torch.device) -> int:
    """Return the compute capability, 90 for 9.0; 0 for a CPU (the interpreter)."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def supported(tensors: Mapping[str, Tensor], frames: int, names: tuple[str, ...]) -> tuple[bool, str]:
    """Return whether the kernels can run these tensors, and why not. names: the tensors that products read."""
    devices = {x.device.type for x in tensors.values()}
    if devices != {"cuda"} and not (devices == {"cpu"} and interpreted()):
        return False, f"the tensors are on {', '.join(sorted(devices))}, Triton needs CUDA"
    dtypes = {tensors[name].dtype for name in names}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES):
        return False, f"the vectors are {', '.join(sorted(map(str, dtypes)))}; the kernels take one of fp32, bf16, fp16"
    if frames > MAX_FRAMES:
        return False, f"a clip has {frames} frame slots, the kernels hold at most {MAX_FRAMES}"
    return True, "fused kernel"


def interpreted() -> bool:
    """Return whether Triton runs its interpreter (TRITON_INTERPRET=1), which takes CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"
