"""Text-guided pooling as research code writes it, for the benchmark."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tvr_kernels import text_pooling
from tvr_kernels._measure import Case
from tvr_kernels._testing import Shape, features
from tvr_kernels.gemm import matmul

TEMPERATURE = 0.01


def case(shape: Shape, device: str) -> Case:
    """Return the benchmark case; every clip has all its frames, as in the presets with fixed frames."""
    x = features(shape, ragged=False)
    text, frames = x.text.to(device), x.frames.to(device)

    def sides(dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
        text_part, video_part = text_pooling.text_side(text.to(dtype)), text_pooling.video_side(frames.to(dtype))
        return text_part, video_part, text_pooling.TextPoolingWeights(TEMPERATURE)

    naive = {
        "naive": lambda rows: pooled_by_einsum(text[rows], frames),
        "naive-broadcast": lambda rows: pooled_by_broadcast(text[rows], frames),
    }
    return Case("text_pooling", shape, sides, naive, texts=32)


def pooled_by_einsum(text: Tensor, frames: Tensor) -> Tensor:
    """Hold T x V x D: the pooled vectors by a batched product. text: [T, D] unit; frames: [V, F, D]."""
    pooled = torch.einsum("tvf,vfd->tvd", _weights(text, frames), frames)
    return torch.einsum("td,tvd->tv", text, normalize(pooled, dim=-1))


def pooled_by_broadcast(text: Tensor, frames: Tensor) -> Tensor:
    """Hold T x V x F x D: weights times frames, then a sum, as most research repositories write it."""
    pooled = (_weights(text, frames)[..., None] * frames).sum(2)
    return (text[:, None] * normalize(pooled, dim=-1)).sum(-1)


def _weights(text: Tensor, frames: Tensor) -> Tensor:
    dots = matmul(text, frames.flatten(0, 1).T).unflatten(1, frames.shape[:2])  # [T, V, F]
    return torch.softmax(dots / TEMPERATURE, dim=-1)
