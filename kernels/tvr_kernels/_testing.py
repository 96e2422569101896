"""Inputs and comparisons for the tests and benchmarks of the ops: CLIP-like features, odd shapes, poisoned memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize


class Shape(NamedTuple):
    """Sizes of one case: captions, clips, frames, tokens, features."""

    T: int
    V: int
    F: int
    L: int
    D: int

    def __str__(self) -> str:
        return f"T{self.T} V{self.V} F{self.F} L{self.L} D{self.D}"


ODD_SHAPES = (Shape(1, 1, 1, 1, 8), Shape(3, 5, 7, 3, 20), Shape(17, 9, 12, 6, 33), Shape(2, 33, 16, 5, 48))
TARGET = Shape(1000, 1000, 12, 32, 512)  # MSR-VTT's 1k-A test split


class Features(NamedTuple):
    """Synthetic backbone output, float32; masks are bool, True = real."""

    text: Tensor  # [T, D]
    words: Tensor  # [T, L, D]
    frames: Tensor  # [V, F, D]
    word_mask: Tensor  # [T, L]
    frame_mask: Tensor  # [V, F]


def features(shape: Shape, seed: int = 0, *, unit: bool = True, ragged: bool = True) -> Features:
    """Draw features with CLIP's geometry: two cones, text–video cosines of 0.1–0.4, frames of a clip much alike.

    Caption i describes clip i mod V. unit: rows have length 1, else lengths vary around 10 as CLIP's do. ragged:
    captions and every seventh clip are padded (zero rows after the mask's end).
    """
    g = torch.Generator().manual_seed(seed)
    T, V, F, L, D = shape

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=g)

    text_cone, video_cone, content = draw(D), draw(D), draw(V, D)
    said = content[torch.arange(T) % V]
    text = text_cone + 0.45 * said + 0.8 * draw(T, D) + 0.2 * video_cone
    words = text_cone + 0.35 * said[:, None] + draw(T, L, D) + 0.2 * video_cone
    frames = video_cone + content[:, None] + 0.7 * draw(V, F, D)
    n_words, n_frames = torch.full((T,), L), torch.full((V,), F)
    if ragged:
        n_words = torch.randint(max(1, L // 5), L + 1, (T,), generator=g)
        n_frames[::7] = torch.randint(max(1, F // 4), F + 1, (len(n_frames[::7]),), generator=g)
    word_mask, frame_mask = torch.arange(L) < n_words[:, None], torch.arange(F) < n_frames[:, None]
    lengths = [10.0 + draw(T, 1), 10.0 + draw(T, L, 1), 10.0 + draw(V, F, 1)]
    text, words, frames = normalize(text, dim=-1), normalize(words, dim=-1), normalize(frames, dim=-1)
    if not unit:
        text, words, frames = text * lengths[0], words * lengths[1], frames * lengths[2]
    return Features(text, words * word_mask[..., None], frames * frame_mask[..., None], word_mask, frame_mask)


def to(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the mapping with its floating tensors cast; masks and indices stay."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}


def poisoned(x: Tensor) -> Tensor:
    """Return an equal, contiguous tensor that lies between NaNs in memory, so that a read out of bounds shows."""
    guard = 4096
    store = torch.full((x.numel() + 2 * guard,), float("nan"), dtype=x.dtype, device=x.device)
    inside = store[guard : guard + x.numel()].view(x.shape)
    inside.copy_(x)
    return inside


def max_error(got: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference, in float64; NaN where only one of them is NaN counts as infinite."""
    a, b = got.detach().double(), expected.detach().double()
    if not torch.equal(torch.isnan(a), torch.isnan(b)):
        return float("inf")
    return float((a - b).abs().nan_to_num().max()) if a.numel() else 0.0


def random_weights(cls: type, D: int, seed: int = 0, dtype: torch.dtype = torch.float32, **others: Any) -> Any:
    """Draw the parameters of an op whose weights are a NamedTuple of matrices `[D, D]` and vectors `[D]`.

    `norm*` are near 1 and 0; matrices are half the identity plus noise, so that no part of a score is degenerate.
    others: the fields that are something else.
    """
    g = torch.Generator().manual_seed(seed)
    values: dict[str, Any] = dict(others)
    for field in cls._fields:  # type: ignore[attr-defined]
        if field in values or field in cls._field_defaults:  # type: ignore[attr-defined]
            continue
        if "norm" in field or field.endswith("_bias"):
            values[field] = 0.1 * torch.randn(D, generator=g) + (1.0 if field.endswith("_weight") else 0.0)
        else:
            values[field] = 0.5 * torch.eye(D) + 0.6 * D**-0.5 * torch.randn(D, D, generator=g)
        values[field] = values[field].to(dtype)
    return cls(**values)
