"""Text-guided pooling as the equation says: softmax over frames, weighted sum, cosine. The test oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from tvr_kernels.text_pooling import TextPoolingWeights


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: TextPoolingWeights) -> Tensor:
    """Return [T, V]; holds T x V x D."""
    t, z, mask = text["text"], video["frames"], video["frame_mask"]
    dots = torch.einsum("td,vfd->tvf", t, z)
    logits = (dots / weights.temperature).masked_fill(~mask, -torch.inf)
    w = torch.softmax(logits, dim=-1)  # [T, V, F]
    pooled = torch.einsum("tvf,vfd->tvd", w, z)
    return torch.einsum("td,tvd->tv", normalize(t, dim=-1), normalize(pooled, dim=-1))
