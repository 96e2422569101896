"""GARE as its authors evaluate it, for the benchmark: tiles of 16 x 16, in each increment and pooled frames of every
pair as D-vectors, keys and values of the tile's frames made again, and the log-std projection that nothing reads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from tvr_kernels import gare
from tvr_kernels._measure import Case
from tvr_kernels._testing import Shape, features, random_weights
from tvr_kernels.gemm import matmul

TEMPERATURE = 3.0  # the authors' script
TILE = 16  # captions and clips of their evaluation


def case(shape: Shape, device: str) -> Case:
    """Return the benchmark case, weights and features drawn; every clip has all its frames."""
    x = features(shape, unit=False, ragged=False)
    text, frames, mask = x.text.to(device), x.frames.to(device), x.frame_mask.to(device)
    weights = _weights(shape.D, device, torch.float32)
    unused = torch.randn(shape.D, shape.D, generator=torch.Generator().manual_seed(1)).to(device) * shape.D**-0.5

    def sides(dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
        cast = _weights(shape.D, device, dtype)
        return gare.text_side(text.to(dtype), cast), gare.video_side(frames.to(dtype), mask, cast), cast

    def naive(rows: slice) -> Tensor:
        clips = list(zip(frames.split(TILE), mask.split(TILE), strict=True))
        return torch.cat(
            [
                torch.cat([moved_cosine(some, z, real, weights, unused) for z, real in clips], 1)
                for some in text[rows].split(TILE)
            ]
        )

    return Case("gare", shape, sides, {"naive": naive}, texts=TILE)


def moved_cosine(text: Tensor, frames: Tensor, mask: Tensor, w: gare.GareWeights, log_std_weight: Tensor) -> Tensor:
    """Score with about fifteen tensors of T x V x D; the discarded log-std projection is computed, as theirs is."""
    T, V, D = len(text), len(frames), text.shape[-1]

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return layer_norm(x, (D,), weight, bias, 1e-5)

    def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return matmul(x.reshape(-1, D), weight.T).add_(bias).view(*x.shape[:-1], D)

    frame_weight = torch.softmax(torch.einsum("td,vfd->tvf", text, frames) / w.temperature, dim=-1) * mask
    pooled = torch.einsum("tvf,vfd->tvd", frame_weight, frames)
    repeated = text[:, None].expand(T, V, D)
    gap = frames.mean(1) - repeated
    query = linear(norm(gap, w.norm1_weight, w.norm1_bias), w.query_weight, w.query_bias)
    normed = norm(frames, w.norm1_weight, w.norm1_bias)
    key, value = linear(normed, w.key_weight, w.key_bias), linear(normed, w.value_weight, w.value_bias)
    alpha = torch.softmax(torch.einsum("tvd,vfd->tvf", query, key) * D**-0.5, dim=-1)
    attended = linear(torch.einsum("tvf,vfd->tvd", alpha, value), w.out_weight, w.out_bias)
    n = norm(attended, w.norm2_weight, w.norm2_bias)
    y = norm(n + linear(n, w.linear_weight, w.linear_bias), w.norm3_weight, w.norm3_bias)
    increment = linear(y, w.mean_weight, w.mean_bias)
    linear(y, log_std_weight, w.mean_bias)
    moved = repeated + increment
    moved, pooled = moved / moved.norm(dim=-1, keepdim=True), pooled / pooled.norm(dim=-1, keepdim=True)
    return torch.einsum("tvd,tvd->tv", moved, pooled)


def _weights(D: int, device: str, dtype: torch.dtype) -> gare.GareWeights:
    drawn = random_weights(gare.GareWeights, D, dtype=dtype, temperature=TEMPERATURE)
    return gare.GareWeights._make(p.to(device) if isinstance(p, Tensor) else p for p in drawn)
