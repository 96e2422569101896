"""DRL's channel decorrelation (CDCR): the channels of matched vectors should vary alike, and each for itself.

Source: arXiv 2203.07111 and the authors' code at 475f96c (spec section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Matched(NamedTuple):
    """Rows of one side of a batch and what each is matched with: [R, D] twice, and [R] weights that sum to one."""

    own: Tensor
    other: Tensor
    weight: Tensor


def tokens_and_frames(
    words: Tensor, frames: Tensor, real: Tensor, mask: Tensor, *, pads_win: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the frame of its clip that each word of B pairs is nearest to [B, L], and the word of each frame [B, F].

    words: [B, L, D] and frames: [B, F, D], unit vectors; real: [B, L], mask: [B, F] bool. pads_win: a masked cosine is
    0 and may be the largest (the authors'); else it never is.
    """
    with torch.no_grad():
        table = words @ frames.mT  # [B, L, F]
        outside = ~(real[:, :, None] & mask[:, None, :])
        table = table.masked_fill(outside, 0.0 if pads_win else float("-inf"))
        return table.argmax(2), table.argmax(1)


def decorrelation(sides: Sequence[Matched], diagonal_weight: float, off_diagonal_weight: float) -> Tensor:
    """Return diagonal_weight sum_d (C_dd - 1)^2 + off_diagonal_weight sum_{d != e} C_de^2.

    C [D, D] is the mean over the sides of the correlation of `own` with `other`, its rows weighted, its means and
    (unbiased) deviations not. Without an off-diagonal weight C is never made, only its diagonal.
    """
    standard = [(_standard(side.own) * side.weight[:, None], _standard(side.other)) for side in sides]
    if off_diagonal_weight == 0.0:
        diagonal = torch.stack([(a * b).sum(0) for a, b in standard]).mean(0)
        return diagonal_weight * (diagonal - 1).square().sum()
    whole = torch.stack([a.T @ b for a, b in standard]).mean(0)
    diagonal = whole.diagonal()
    beside = whole.square().sum() - diagonal.square().sum()
    return diagonal_weight * (diagonal - 1).square().sum() + off_diagonal_weight * beside


def _standard(x: Tensor) -> Tensor:
    """Columns less their mean over their unbiased deviation; a constant channel is 0 / 0, as in the authors' code."""
    return (x - x.mean(0)) / x.std(0)
