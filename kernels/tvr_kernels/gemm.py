"""The matrix product of all scores: the faster exact fp32 GEMM of this CPU, chosen once per process or machine.

On AMD machines oneDNN's fp32 GEMM is often faster than the default BLAS; elsewhere it is not. Both accumulate in fp32
and agree to rounding, but not to the bit, so the choice is a recorded setting: `setting()` names it, `use(name)` fixes
it (a resumed run uses the one that it started with). A trial that is not sure chooses torch's own. Everything that
oneDNN is not asked for – CUDA, fp64, bf16, an absent operator – goes to `torch.mm`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tvr_kernels import trials

Name = Literal["mkl", "onednn"]
NAMES: tuple[Name, ...] = ("mkl", "onednn")

_AUTOTUNE_SHAPE = (256, 512, 1024)  # M, K, N: a tile of captions against a tile of frames

_lock = threading.Lock()
_chosen: Name | None = None


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return `a @ b` for matrices, differentiable, accumulated in at least fp32.

    a: [M, K]   b: [K, N], any strides, the same dtype and device. Raises ValueError for other ranks.
    """
    if a.dim() != 2 or b.dim() != 2:
        raise ValueError(f"matmul: expected two matrices, found shapes {tuple(a.shape)} and {tuple(b.shape)}")
    if not _eligible(a, b) or setting() == "mkl":
        return torch.mm(a, b)
    if torch.is_grad_enabled() and _tracked(a, b):
        return cast(Tensor, _OneDnn.apply(a, b))
    return _onednn(a, b)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b for x [..., K], W [N, K] and b [N], like `F.linear`, by the chosen GEMM."""
    rows = x.reshape(-1, x.shape[-1])
    if not _eligible(rows, weight.T) or setting() == "mkl" or (torch.is_grad_enabled() and _tracked(x, weight, bias)):
        return F.linear(x, weight, bias)
    return _onednn(rows, weight.T, bias).view(*x.shape[:-1], -1)


def setting() -> Name:
    """Return the GEMM in use, `mkl` (torch's default BLAS, whatever it is) or `onednn`; the first call may measure."""
    global _chosen
    if _chosen is None:
        with _lock:
            if _chosen is None:
                _chosen = _autotune()
    return _chosen


def use(name: str) -> Name:
    """Fix the GEMM by name and return the one that is used: `mkl` where oneDNN is asked for and absent."""
    global _chosen
    if name not in NAMES:
        raise ValueError(f"unknown GEMM {name!r}; expected one of {', '.join(NAMES)}")
    with _lock:
        _chosen = "onednn" if name == "onednn" and has_onednn() else "mkl"
    return _chosen


def has_onednn() -> bool:
    """Return whether this torch can run fp32 products through oneDNN and gets a right answer."""
    operator = _operator()
    if operator is None:
        return False
    a, b = torch.arange(12.0).view(3, 4), torch.arange(20.0).view(4, 5)
    try:
        return bool(torch.allclose(_onednn(a, b), torch.mm(a, b)))
    except (RuntimeError, NotImplementedError, TypeError):  # the private operator changed under us
        return False


class _OneDnn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _onednn(a, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (grad,) = grads
        a, b = ctx.saved_tensors
        to_a = matmul(grad, b.T) if ctx.needs_input_grad[0] else None
        to_b = matmul(a.T, grad) if ctx.needs_input_grad[1] else None
        return to_a, to_b


def _eligible(a: Tensor, b: Tensor) -> bool:
    return (
        a.dtype == b.dtype == torch.float32
        and a.device.type == b.device.type == "cpu"
        and a.shape[1] == b.shape[0]  # a mismatch is torch.mm's to explain
        and a.numel() > 0
        and b.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def _tracked(*tensors: Tensor | None) -> bool:
    return any(x is not None and x.requires_grad for x in tensors)


def _onednn(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    # The operator computes a @ weight.T for a contiguous input; the transpose of b is a view that it packs itself.
    weight = b.T if b.T.is_contiguous() or b.is_contiguous() else b.T.contiguous()
    return torch.ops.mkldnn._linear_pointwise(a.contiguous(), weight, bias, "none", [], "")


def _operator() -> Callable[..., Tensor] | None:
    if not torch.backends.mkldnn.is_available():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def _autotune() -> Name:
    if not has_onednn():
        return "mkl"
    kept = (trials.recalled("gemm") or {}).get("faster")
    if kept in NAMES:
        return cast(Name, kept)
    m, k, n = _AUTOTUNE_SHAPE
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator).T
    with torch.no_grad():
        found = trials.race({"mkl": lambda: torch.mm(a, b), "onednn": lambda: _onednn(a, b)}, "mkl")
    if found.sure:
        trials.keep("gemm", {"faster": found.faster, "seconds": dict(found.seconds)})
    return cast(Name, found.faster)
