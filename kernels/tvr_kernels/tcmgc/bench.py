"""TC-MGC as its authors write it, for the benchmark: a text-conditioned vector a word slot and pair, built twice.

Their forward pools for the sentence and for every word, throws the result away and pools again; so does this.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, normalize

from tvr_kernels import tcmgc
from tvr_kernels._measure import Case
from tvr_kernels._testing import Shape, features, random_weights
from tvr_kernels.gemm import matmul

RANKS = 3  # k


def case(shape: Shape, device: str) -> Case:
    """Return the benchmark case; all slots take part, as in the authors' code, so padding makes no difference."""
    x = features(shape, unit=False, ragged=False)
    sentence, words, frames = x.text.to(device), x.words.to(device), x.frames.to(device)
    weights = _weights(shape, device, torch.float32)

    def sides(dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
        cast = _weights(shape, device, dtype)
        text = tcmgc.text_side(sentence.to(dtype), words.to(dtype), cast)
        return text, tcmgc.video_side(frames.to(dtype), cast), cast

    naive = {"naive": lambda rows: fused(sentence[rows], words[rows], frames, weights)}
    return Case("tcmgc", shape, sides, naive, texts=1)


def fused(sentence: Tensor, words: Tensor, frames: Tensor, w: tcmgc.TcmgcWeights) -> Tensor:
    """Score with every text-conditioned vector, T x V x L x D."""
    T, L, D = words.shape
    for _ in range(2):  # the first result is thrown away
        video = condition(sentence, frames, w)  # [T, V, D]
        pooled = torch.stack([condition(words[:, j], frames, w) for j in range(L)], dim=2)
    video, pooled = normalize(video, dim=-1), pooled / pooled.norm(dim=-1, keepdim=True)
    sentence, words = normalize(sentence, dim=-1), normalize(words, dim=-1)

    video_sentence = torch.einsum("td,tvd->tv", matmul(sentence, w.global_map), video)
    best = torch.einsum("tld,tvd->tvl", words, video).topk(len(w.video_word), dim=-1).values
    video_word = _isa(best, w.video_word, w.sharpness)
    ordered = torch.einsum("td,tvjd->tvj", sentence, pooled).sort(dim=-1, descending=True).values
    best, rest = ordered[..., : len(w.video_word)], ordered[..., len(w.video_word) :]
    rest = (torch.softmax(rest, dim=-1) * rest).sum(-1, keepdim=True)
    sentence_frame = _isa(torch.cat([best, rest], dim=-1), w.sentence_frame, w.sharpness)
    local = matmul(words.reshape(T * L, D), w.local_map).view(T, L, D)
    matrix = torch.einsum("tid,tvjd->tvij", local, pooled)
    k = len(w.over_words)
    ranks = matrix.topk(k, dim=-2).values.topk(k, dim=-1).values  # R
    over_words = _isa(_isa(ranks.mT, w.over_words, w.sharpness), w.then_frames, w.sharpness)
    over_frames = _isa(_isa(ranks, w.over_frames, w.sharpness), w.then_words, w.sharpness)
    scaled = w.scale * torch.stack([video_sentence, video_word, sentence_frame, (over_words + over_frames) / 2], dim=-1)
    return (torch.softmax(torch.matmul(scaled, w.fusion), dim=-1) * scaled).sum(-1)


def condition(query: Tensor, frames: Tensor, w: tcmgc.TcmgcWeights) -> Tensor:
    """Return LVA's vector of every pair [T, V, D], with its D x D product."""
    D = query.shape[-1]
    query = layer_norm(query, (D,), w.norm1_weight, w.norm1_bias)
    kappa = layer_norm(frames, (D,), w.norm1_weight, w.norm1_bias)
    logits = matmul(query, kappa.flatten(0, 1).T).unflatten(1, kappa.shape[:2]) * D**-0.5
    o = torch.einsum("tvf,vfd->tvd", torch.softmax(logits, dim=-1), kappa)
    u = layer_norm(o, (D,), w.norm2_weight, w.norm2_bias)
    branch = matmul(u.reshape(-1, D), w.linear_weight.T).view_as(u) + w.linear_bias
    return layer_norm(u + branch, (D,), w.norm3_weight, w.norm3_bias)


def _isa(c: Tensor, mixing: Tensor, sharpness: float) -> Tensor:
    alpha = torch.softmax(sharpness * torch.matmul(torch.softmax(sharpness * c, dim=-1), mixing), dim=-1)
    return (alpha * c).sum(-1)


def _weights(shape: Shape, device: str, dtype: torch.dtype) -> tcmgc.TcmgcWeights:
    g = torch.Generator().manual_seed(1)

    def near_identity(n: int) -> Tensor:
        return (torch.eye(n) + 0.1 * n**-0.5 * torch.randn(n, n, generator=g)).to(device, dtype)

    sizes = {"video_word": RANKS, "sentence_frame": RANKS + 1, "over_words": RANKS, "over_frames": RANKS}
    sizes |= {"then_frames": RANKS, "then_words": RANKS, "fusion": 4, "global_map": shape.D, "local_map": shape.D}
    maps: dict[str, Any] = {name: near_identity(n) for name, n in sizes.items()}
    drawn = random_weights(tcmgc.TcmgcWeights, shape.D, dtype=dtype, scale=torch.ones((), dtype=dtype), **maps)
    return tcmgc.TcmgcWeights._make(p.to(device) if isinstance(p, Tensor) else p for p in drawn)
