"""uint8 frames into a tower: normalised the plain way, and each missing frame of a batch encoded once for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def normalize(
    pixels: Tensor, real: Tensor | None, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype
) -> Tensor:
    """Normalise uint8 images [N, 3, S, S] the plain way; those where `real` [N] is False become exactly zero."""
    m = torch.tensor(mean, dtype=dtype, device=pixels.device).view(1, 3, 1, 1)
    s = torch.tensor(std, dtype=dtype, device=pixels.device).view(1, 3, 1, 1)
    x = (pixels.to(dtype) / 255 - m) / s
    return x if real is None else x.masked_fill(~real.view(-1, 1, 1, 1), 0.0)


def encode_each(encode: Callable[[Tensor, Tensor | None], Tensor], pixels: Tensor, real: Tensor) -> Tensor:
    """Encode frames [V, F, 3, S, S] by what encodes images to [V, F, D]; real: [V, F] bool.

    encode: (images [N, 3, S, S], real [N], None = all of them) to [N, D]. All missing frames are one and the same
    image: it is encoded once, behind the real ones.
    """
    flat, there = pixels.flatten(0, 1), real.flatten()
    if there.all():
        return encode(flat, None).unflatten(0, pixels.shape[:2])
    some = torch.cat([flat[there], flat.new_zeros(1, *flat.shape[1:])])
    marks = torch.arange(len(some), device=flat.device) < len(some) - 1
    row = there.cumsum(0).sub(1).masked_fill(~there, len(some) - 1)
    return encode(some, marks)[row].unflatten(0, pixels.shape[:2])
