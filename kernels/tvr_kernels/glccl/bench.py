"""GLCCL as its authors write it, for the benchmark: a pooled vector a word slot and pair, T x V x L x D numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tvr_kernels import glccl
from tvr_kernels._measure import Case
from tvr_kernels._testing import Shape, features
from tvr_kernels.gemm import matmul


def case(shape: Shape, device: str) -> Case:
    """Return the benchmark case; all slots take part, as in the authors' code, so padding makes no difference."""
    x = features(shape, unit=False, ragged=False)
    sentence, words, frames = x.text.to(device), x.words.to(device), x.frames.to(device)
    weights = _weights(shape, device, torch.float32)

    def sides(dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
        cast = _weights(shape, device, dtype)
        text = glccl.text_side(sentence.to(dtype), words.to(dtype), cast)
        return text, glccl.video_side(frames.to(dtype), cast), cast

    naive = {"naive": lambda rows: mean_of_four(sentence[rows], words[rows], frames, weights)}
    return Case("glccl", shape, sides, naive, texts=2)


def mean_of_four(sentence: Tensor, words: Tensor, frames: Tensor, w: glccl.GlcclWeights) -> Tensor:
    """Score with every pooled vector; the pooling runs word by word, as theirs does."""
    (T, L, D), tau = words.shape, w.isa_temperature
    video = normalize(_pool(sentence, frames, w.temperature), dim=-1)  # [T, V, D]
    pooled = torch.stack([_pool(words[:, j], frames, w.temperature) for j in range(L)], dim=2)
    pooled = pooled / pooled.norm(dim=-1, keepdim=True)  # [T, V, L, D]
    sentence, words = normalize(sentence, dim=-1), normalize(words, dim=-1)

    video_sentence = torch.einsum("td,tvd->tv", matmul(sentence, w.global_map), video)
    video_word = _isa(torch.einsum("tld,tvd->tvl", words, video), w.video_word, tau)
    sentence_frame = _isa(torch.einsum("td,tvjd->tvj", sentence, pooled), w.sentence_frame, tau)
    local = matmul(words.reshape(T * L, D), w.local_map).view(T, L, D)
    matrix = torch.einsum("tid,tvjd->tvij", local, pooled)
    over_words = _isa(_isa(matrix.mT, w.over_words, tau), w.then_frames, tau)
    over_frames = _isa(_isa(matrix, w.over_frames, tau), w.then_words, tau)
    return (video_sentence + video_word + sentence_frame + (over_words + over_frames) / 2) / 4


def _pool(query: Tensor, frames: Tensor, temperature: float) -> Tensor:
    dots = matmul(query, frames.flatten(0, 1).T).unflatten(1, frames.shape[:2])  # [T, V, F]
    return torch.einsum("tvf,vfd->tvd", torch.softmax(dots / temperature, dim=-1), frames)


def _isa(m: Tensor, mixing: Tensor, temperature: float) -> Tensor:
    return (torch.matmul(torch.softmax(m / temperature, dim=-1), mixing) * m).sum(-1)


def _weights(shape: Shape, device: str, dtype: torch.dtype) -> glccl.GlcclWeights:
    g = torch.Generator().manual_seed(1)
    sizes = 2 * [shape.D] + 6 * [shape.L]
    maps = [torch.eye(n) + 0.1 * n**-0.5 * torch.randn(n, n, generator=g) for n in sizes]
    return glccl.GlcclWeights(*(m.to(device, dtype) for m in maps))
