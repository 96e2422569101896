"""GLCCL as its equations, with every pooled vector: T x V x (L + 1) x D numbers. The test oracle of the other forms."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tvr_kernels.glccl import GlcclWeights

_PAIR_TENSOR_BYTES = 2**27  # pooled vectors of one block of captions: 128 MB


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GlcclWeights) -> Tensor:
    """Return [T, V]; see the package for the inputs."""
    return similarities(text, video, weights).mean(0)


def similarities(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GlcclWeights) -> Tensor:
    """Return VS, VW, SF, FW [4, T, V], a block of captions at a time."""
    query = text["query"]
    step = max(1, _PAIR_TENSOR_BYTES // (len(video["gram"]) * query[0].numel() * query.element_size()))
    blocks = [{k: x[i : i + step] for k, x in text.items()} for i in range(0, len(query), step)]
    return torch.cat([_block(block, video, weights) for block in blocks], 1)


def pool(query: Tensor, frames: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """Return GLIM's pooled vectors [T, Q, V, D], not normalised.

    query: [T, Q, D], frames: [V, F, D], neither normalised; mask: [V, F] bool, True = real.
    """
    logits = torch.einsum("tqd,vfd->tqvf", query, frames) / temperature
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    return torch.einsum("tqvf,vfd->tqvd", logits.softmax(-1), frames)


def isa(m: Tensor, mixing: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """Return sum_j m_j sum_i softmax(m / temperature)_i A_ij over the last dimension.

    m: [..., L]; mixing: A [L, L]; mask: [..., L] bool, slots that neither attend nor are attended to.
    """
    if mask is None:
        return (((m / temperature).softmax(-1) @ mixing) * m).sum(-1)
    weight = (m / temperature).masked_fill(~mask, float("-inf")).softmax(-1)
    return ((weight @ mixing) * m.masked_fill(~mask, 0.0)).sum(-1)


def _block(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GlcclWeights) -> Tensor:
    unit, slots = text["query"], video["gram"].shape[-1]
    frames = video["columns"][:, :slots]
    words, sentence = unit[:, :-1], unit[:, -1]
    real = text.get("mask")  # [T, L]
    real = None if real is None else real[:, None]  # broadcasts over clips
    pooled = normalize(pool(unit * text["norm"][..., None], frames, weights.temperature, video.get("mask")), dim=-1)
    by_words, by_sentence = pooled[:, :-1], pooled[:, -1]  # [T, L, V, D], [T, V, D]

    temperature = weights.isa_temperature
    video_sentence = torch.einsum("td,tvd->tv", text["mapped"], by_sentence)
    video_word = isa(torch.einsum("tid,tvd->tvi", words, by_sentence), weights.video_word, temperature, real)
    sentence_frame = isa(torch.einsum("td,tjvd->tvj", sentence, by_words), weights.sentence_frame, temperature, real)

    matrix = torch.einsum("tid,tjvd->tvij", words @ weights.local_map, by_words)  # M, word slot i, frame slot j
    both = None if real is None else real[..., None, :]
    frame_left = isa(matrix.mT, weights.over_words, temperature, both)  # r_j
    word_left = isa(matrix, weights.over_frames, temperature, both)  # q_i
    frame_word = (
        isa(frame_left, weights.then_frames, temperature, real) + isa(word_left, weights.then_words, temperature, real)
    ) / 2
    return torch.stack([video_sentence, video_word, sentence_frame, frame_word])
