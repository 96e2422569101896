"""DMAE as its authors write it, for the benchmark: masked copies of the T x V x L x F table, then gathers by index."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tvr_kernels import dmae
from tvr_kernels._measure import Case
from tvr_kernels._testing import Shape, features
from tvr_kernels.gemm import matmul

OPTIONS = dmae.DmaeOptions(words=True, neighbours=True)


def case(shape: Shape, device: str) -> Case:
    """Return the benchmark case: sentence and word branch, second frames, means; captions of 6 to 32 words."""
    x = features(shape)
    sentence, words, frames = x.text.to(device), x.words.to(device), x.frames.to(device)
    frame_mask = torch.ones_like(x.frame_mask).to(device)
    frames = torch.where(frames.norm(dim=-1, keepdim=True) > 0, frames, frames[:, :1])  # every clip has F frames
    importance = x.word_mask.long().to(device)

    def sides(dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
        text = dmae.text_side(sentence.to(dtype), words.to(dtype), importance, OPTIONS)
        return text, dmae.video_side(frames.to(dtype), frame_mask, OPTIONS), OPTIONS

    naive = {"naive": lambda rows: both_branches(sentence[rows], words[rows], importance[rows], frames, frame_mask)}
    return Case("dmae", shape, sides, naive, texts=16)


def both_branches(sentence: Tensor, words: Tensor, importance: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
    """Score the sentence and the words, each with its own table and its own frame-frame products."""
    alone = branch(sentence[:, None], torch.ones_like(importance[:, :1]), frames, mask)
    return (alone + branch(words, importance, frames, mask)) / 2


def branch(rows: Tensor, importance: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
    """Score one branch with the whole table in memory. rows: [T, L, D]; importance: [T, L]; frames: [V, F, D]."""
    (T, L, D), (V, F, _) = rows.shape, frames.shape
    m, mu = importance.to(rows.dtype), mask.to(rows.dtype)
    table = matmul(rows.reshape(T * L, D), frames.reshape(V * F, D).T).view(T, L, V, F).transpose(1, 2)
    table = table * m.clamp(max=1)[:, None, :, None]
    table = table * mu[None, :, None, :]
    closeness = torch.bmm(frames, frames.mT) * mu[:, :, None] * mu[:, None, :]
    closeness = closeness * (1 - torch.eye(F, device=frames.device))
    r, n = closeness.max(dim=-1)
    best, frame = table.max(dim=-1)  # [T, V, L]
    text, clip = (
        torch.arange(T, device=rows.device)[:, None, None].expand(T, V, L),
        torch.arange(V, device=rows.device)[None, :, None].expand(T, V, L),
    )
    word = torch.arange(L, device=rows.device).expand(T, V, L)
    second = n[clip.reshape(-1), frame.reshape(-1)]
    beside = table[text.reshape(-1), clip.reshape(-1), word.reshape(-1), second].view(T, V, L)
    best = best + 0.5 * r[clip.reshape(-1), frame.reshape(-1)].view(T, V, L) * beside
    text_part = (best * m[:, None]).sum(-1) / m.sum(-1)[:, None]
    video_part = (table.max(dim=2).values * mu).sum(-1) / mu.sum(-1)
    return (text_part + video_part) / 2
