"""Checks at the border of a public op: shapes by letter, dtypes, devices, masks. Inside an op, nothing is checked."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Shapes:
    """Bind dimension letters as tensors are checked, so that a later tensor must agree with an earlier one.

    `Shapes("xpool").check("frames", x, "V F D")` binds V, F and D; a number in the pattern is a fixed size.
    """

    def __init__(self, op: str):
        self.op = op
        self.sizes: dict[str, int] = {}
        self._from: dict[str, str] = {}
        self._first: tuple[str, Tensor] | None = None

    def check(self, name: str, tensor: Tensor, pattern: str) -> Tensor:
        """Check a floating tensor: rank, letters, and the dtype and device of the first tensor that was checked."""
        self._shape(name, tensor, pattern)
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{self.op}: {name} must be floating point, found {tensor.dtype}")
        if self._first is None:
            self._first = (name, tensor)
        first, like = self._first
        if tensor.dtype != like.dtype or tensor.device != like.device:
            raise ValueError(
                f"{self.op}: {name} is {tensor.dtype} on {tensor.device}, but {first} is {like.dtype} on {like.device};"
                " both must agree"
            )
        return tensor

    def mask(self, name: str, tensor: Tensor, pattern: str, *, nonempty_rows: bool = False) -> Tensor:
        """Check a bool mask, True = real; with `nonempty_rows` every row must have a real element."""
        self._shape(name, tensor, pattern)
        if tensor.dtype != torch.bool:
            raise ValueError(f"{self.op}: {name} must be bool (True = real), found {tensor.dtype}")
        if nonempty_rows and tensor.numel() and not bool(tensor.any(-1).all()):
            row = int((~tensor.any(-1)).nonzero()[0, 0])
            raise ValueError(f"{self.op}: {name} has a row without a real element (row {row}); its score is undefined")
        return tensor

    def _shape(self, name: str, tensor: Tensor, pattern: str) -> None:
        letters = pattern.split()
        if tensor.dim() != len(letters):
            raise ValueError(f"{self.op}: {name} must be [{', '.join(letters)}], found shape {tuple(tensor.shape)}")
        for letter, size in zip(letters, tensor.shape, strict=True):
            expected = int(letter) if letter.isdigit() else self.sizes.setdefault(letter, size)
            if expected != size:
                of = f" as in {self._from[letter]}" if letter in self._from else ""
                raise ValueError(
                    f"{self.op}: {name} must be [{', '.join(letters)}] with {letter} = {expected}{of}, "
                    f"found shape {tuple(tensor.shape)}"
                )
            self._from.setdefault(letter, name)
