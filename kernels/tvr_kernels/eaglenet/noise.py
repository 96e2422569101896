"""Candidate noise that depends only on the caption, the clip, the candidate and the dimension: Philox-4x32-10.

sigma[a, b, s, d] is lane `d mod 4` of the block with key = caption key and counter (d // 4, s + S * draw, clip key low,
clip key high), turned into u = (x >> 8) * 2^-24 in [0, 1). Whoever computes a score, in whatever tile, on whatever
device, gets the same numbers. `draw` selects an independent repetition. Integers are kept in int64, whose product wraps
to the right 64 bits. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); Random123.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Prior = Literal["uniform", "normal"]

_MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = 0xFFFFFFFF

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox4x32(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Return the four 32-bit output words of Philox-4x32-10, as int64 in [0, 2^32).

    counter: four, key: two int64 tensors in [0, 2^32) that broadcast together. What few of them decide stays small:
    with a counter that is an outer product, the first rounds run on the factors.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for number in range(_ROUNDS):
        if number:
            k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
        p0, p1 = c0 * _MULTIPLIER[0], c2 * _MULTIPLIER[1]
        c0, c2 = _mix(p1, c1, k0), _mix(p0, c3, k1)
        c1, c3 = p1, p0  # only their low halves are read: `_mix` and the last line cut them
    return c0, c1 & _LOW, c2, c3 & _LOW


def uniform(
    text_key: Tensor, video_key: Tensor, candidates: int, dim: int, *, draw: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return sigma ~ U[0, 1): [*, S, D] for int64 caption keys and clip keys whose shapes broadcast to [*]."""
    words = _words(text_key, video_key, candidates, dim, draw)
    out = torch.empty(*words[0].shape, 4, dtype=dtype, device=text_key.device)  # [*, S, D/4, 4]
    for lane, word in enumerate(words):
        out[..., lane] = word >> 8
    return out.mul_(2.0**-24).flatten(-2)[..., :dim]


def normal(
    text_key: Tensor, video_key: Tensor, candidates: int, dim: int, *, draw: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return sigma ~ N(0, 1): [*, S, D], Box-Muller on lanes (0, 1) and (2, 3) of the same blocks."""
    u = uniform(text_key, video_key, candidates, dim + -dim % 4, draw=draw, dtype=dtype).unflatten(-1, (-1, 2))
    radius = (-2.0 * torch.log1p(-u[..., 0])).sqrt()
    angle = 2.0 * math.pi * u[..., 1]
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1).flatten(-2)[..., :dim]


def _words(text_key: Tensor, video_key: Tensor, candidates: int, dim: int, draw: int) -> Words:
    device = text_key.device
    block = torch.arange(-(-dim // 4), device=device)  # [D/4]
    repetition = (torch.arange(candidates, device=device) + candidates * draw)[:, None] & _LOW  # [S, 1]
    video, text = video_key[..., None, None], text_key[..., None, None]
    return philox4x32((block, repetition, video & _LOW, video >> 32 & _LOW), (text & _LOW, text >> 32 & _LOW))


def _mix(product: Tensor, word: Tensor, key: Tensor) -> Tensor:
    """Return (high half of product) ^ word ^ key, cut to 32 bits."""
    high = product >> 32
    if word.shape == high.shape:
        return high.bitwise_xor_(word).bitwise_xor_(key).bitwise_and_(_LOW)
    return (high ^ (word ^ key)) & _LOW
