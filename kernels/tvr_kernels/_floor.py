"""The floor of a form: its own matrix products and nothing else, made again with operands of the same shapes.

What counts is every product of two whole matrices (`gemm.matmul`, `torch.mm`) that one call of `score` makes; batched
products of small matrices belong to what a form could do better. Operands of one shape and layout share one tensor, so
the floor finds its data in the cache more often than the form does: it is what no form of this arithmetic goes below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = {"mkldnn::_linear_pointwise", "aten::mm", "aten::addmm"}


class _Layout(NamedTuple):
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def make(self) -> Tensor:
        last = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        return torch.rand(last + 1, dtype=self.dtype, device=self.device).as_strided(self.shape, self.stride)


def products_alone(run: Callable[[], object]) -> Callable[[], None]:
    """Call `run` and return a call that repeats the matrix products that it made, on tensors of their own."""
    with _Recorder() as recorder:
        run()
    made: dict[_Layout, Tensor] = {}
    calls = []
    for function, arguments in recorder.calls:
        operands = [made.setdefault(x, x.make()) if isinstance(x, _Layout) else x for x in arguments]
        calls.append((function, operands))

    def again() -> None:
        for function, operands in calls:
            function(*operands)

    return again


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, list[Any]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.name().split(".")[0] in _PRODUCTS:
            self.calls.append((function, [_layout(x) for x in args]))
        return function(*args, **(kwargs or {}))


def _layout(x: Any) -> Any:
    return _Layout(tuple(x.shape), x.stride(), x.dtype, x.device) if isinstance(x, Tensor) else x
