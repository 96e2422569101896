"""Building a model without drawing the weights that a file is going to replace: a second of every start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_INIT = (
    "normal_",
    "uniform_",
    "trunc_normal_",
    "xavier_normal_",
    "xavier_uniform_",
    "kaiming_normal_",
    "kaiming_uniform_",
)
_DRAWS = {
    *(getattr(nn.init, name) for name in (*_INIT, "orthogonal_")),
    *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_),  # towers that draw by themselves
}
_DRAWN = {torch.randn: torch.zeros, torch.rand: torch.zeros}


@contextlib.contextmanager
def without_draws() -> Iterator[None]:
    """Leave parameters that are made in the block undrawn: whatever the memory holds, for a file to overwrite."""
    with _WithoutDraws():
        yield


class _WithoutDraws(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else options["tensor"]
        return _DRAWN.get(func, func)(*args, **options)
