"""Pixels into a tower: uint8 goes to the device, and the tower's first convolution normalises it on the way.

With u the raw pixels, x = (u / 255 - mean) / std and a convolution W without padding, W * x = W' * u + b where
W' = W / (255 std) and b = -sum of W' 255 mean. No float image is ever made, and 0..255 is exact even in bfloat16. Where
the convolution pads (ResNet), the padding must stay the zero of the *normalised* image, so u is centred first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PixelConv(nn.Conv2d):
    """A tower's first convolution that also takes uint8 pixels [N, 3, S, S]; float input counts as normalised.

    Shares the weight (and bias) of the convolution it replaces, so the tower's state dict keeps its names.
    """

    def __init__(self, conv: nn.Conv2d, mean: Sequence[float], std: Sequence[float]):
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            bias=conv.bias is not None,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self._shift = [255.0 * m for m in mean]
        self._scale = [255.0 * s for s in std]
        self._missing: Tensor | None = None

    @contextlib.contextmanager
    def missing(self, mask: Tensor | None) -> Iterator[None]:
        """Take the images where `mask` [N] is True for the all-zero normalised image, exactly, while the block runs."""
        self._missing = mask
        try:
            yield
        finally:
            self._missing = None

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.uint8:
            return super().forward(x)
        dtype = self.weight.dtype
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        shift, scale = (
            torch.tensor(v, dtype=exact, device=x.device).view(1, 3, 1, 1) for v in (self._shift, self._scale)
        )
        weight = (self.weight.to(exact) / scale).to(dtype)  # W'
        if self.padding == (0, 0):
            # From the rounded W', so that in low precision a constant image still cancels exactly.
            bias = -(weight.to(exact) * shift).sum((1, 2, 3))
            bias = bias.to(dtype) if self.bias is None else (bias + self.bias.to(exact)).to(dtype)
            out = F.conv2d(x.to(dtype), weight, bias, self.stride)
        else:
            out = F.conv2d((x.to(exact) - shift).to(dtype), weight, self.bias, self.stride, self.padding)
        if self._missing is None:
            return out
        zero = out.new_zeros(()) if self.bias is None else self.bias.view(1, -1, 1, 1)
        return torch.where(self._missing.view(-1, 1, 1, 1), zero, out)
