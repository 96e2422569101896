"""The DMAE score as its equations, with the whole table of every pair: T x V x (1 + L) x F numbers. The test oracle."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tvr_kernels.dmae import DmaeOptions


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: DmaeOptions) -> Tensor:
    """Return [T, V]; see the package for the inputs."""
    if not weights.sentence:
        return branch(slice(None), text, video, weights)
    sentence = branch(slice(0, 1), text, video, weights)
    return (sentence + branch(slice(1, None), text, video, weights)) / 2 if weights.words else sentence


def branch(rows: slice, text: Mapping[str, Tensor], video: Mapping[str, Tensor], options: DmaeOptions) -> Tensor:
    """Return the score [T, V] of one branch: the sentence (row 0) or the words (the other rows)."""
    table = torch.einsum("tld,vfd->tvlf", text["rows"][:, rows], video["frames"])
    per_word, per_frame = table, table
    if options.mask_padding:
        per_word = table + video["bias"][:, None]
        per_frame = table + text["bias"][:, None, rows, None]
    best, frame = per_word.max(-1)  # [T, V, L]
    if options.neighbours:
        clip = torch.arange(table.shape[1], device=table.device)[None, :, None]
        second = video["neighbour"][clip, frame]
        best = best + video["closeness"][clip, frame] * table.gather(-1, second[..., None])[..., 0] / 2
    text_part = torch.einsum("tl,tvl->tv", text["weight"][:, rows], best)
    video_part = torch.einsum("vf,tvf->tv", video["weight"], per_frame.max(-2).values)
    return (text_part + video_part) / 2
