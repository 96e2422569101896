"""X-CLIP as its equations, with every word-frame similarity: T x V x L x F numbers. The other forms' test oracle."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tvr_kernels.glccl.reference import isa
from tvr_kernels.xclip import XClipWeights


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XClipWeights) -> Tensor:
    """Return [T, V]; see the package for the inputs."""
    return similarities(text, video, weights).mean(0)


def similarities(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XClipWeights) -> Tensor:
    """Return VS, VW, SF, FW [4, T, V]."""
    words, frames, temperature = text["words"], video["frames"], weights.isa_temperature
    real, shown = text.get("mask"), video.get("mask")
    of_words = None if real is None else real[:, None]  # [T, 1, L], broadcasts over clips
    of_frames = None if shown is None else shown[None]  # [1, V, F]

    video_sentence = text["mapped"] @ video["video"].T
    seen = torch.einsum("tld,vd->tvl", words, video["video"])
    video_word = isa(seen, weights.video_word, temperature, of_words)
    seen = torch.einsum("td,vfd->tvf", text["sentence"], frames)
    sentence_frame = isa(seen, weights.sentence_frame, temperature, of_frames)

    matrix = torch.einsum("tld,vfd->tvlf", text["local"], frames)  # M
    every_word = None if of_words is None else of_words[:, :, None]  # of each frame
    every_frame = None if of_frames is None else of_frames[:, :, None]  # of each word
    frame_left = isa(matrix.mT, weights.over_words, temperature, every_word)  # r, [T, V, F]
    word_left = isa(matrix, weights.over_frames, temperature, every_frame)  # q, [T, V, L]
    over_frames = isa(frame_left, weights.then_frames, temperature, of_frames)
    over_words = isa(word_left, weights.then_words, temperature, of_words)
    return torch.stack([video_sentence, video_word, sentence_frame, (over_frames + over_words) / 2])
