"""X-CLIP a block at a time: one GEMM of words and frames, attended to on both axes while it is in the cache.

Every word meets every frame, so nothing folds away; what goes is everything around that product. The table of a block
[v, F, t, L] is made once, in the one order in which both axes are long: over words it is a product of long rows with
A3', over frames one of A4 with long columns, and neither is moved.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tvr_kernels._blocks import by_blocks
from tvr_kernels.gemm import matmul
from tvr_kernels.glccl.folded import attention
from tvr_kernels.xclip import XClipWeights


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XClipWeights) -> Tensor:
    """Return [T, V]; see the package for the inputs."""
    return similarities(text, video, weights).mean(0)


def similarities(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XClipWeights) -> Tensor:
    """Return VS, VW, SF, FW [4, T, V]; differentiable, recomputed block by block where a batch is large."""
    slots, frames = text["words"].shape[1], video["frames"].shape[1]
    numbers = 6 * frames * slots + 8 * (frames + slots)  # of a pair that autograd keeps
    return by_blocks(
        lambda t, v: _block(t, v, weights),
        text,
        video,
        saved_bytes=numbers * video["frames"].element_size(),
        tile=(64, 32),
    )


def of_the_sentence(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XClipWeights) -> Tensor:
    """Return VS + SF [T, V], what needs no words. video: in any floating type. No gradient is looked after."""
    dtype = text["sentence"].dtype
    own, shown = video["frames"].to(dtype), video.get("mask")
    of_frames = None if shown is None else shown[..., None]
    return (_video_sentence(text, video["video"].to(dtype)) + _sentence_frame(text, own, weights, of_frames)).T


def _video_sentence(text: Mapping[str, Tensor], video: Tensor) -> Tensor:
    """Return VS [v, t]."""
    return video @ text["mapped"].T


def _sentence_frame(text: Mapping[str, Tensor], own: Tensor, weights: XClipWeights, shown: Tensor | None) -> Tensor:
    """Return SF [v, t]. own: [v, F, D]; shown: [v, F, 1]."""
    seen = matmul(own.flatten(0, 1), text["sentence"].T).view(*own.shape[:2], -1)  # [v, F, t]
    return _over_frames(seen, weights.sentence_frame, weights.isa_temperature, shown)


def _block(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: XClipWeights) -> Tensor:
    """Return [4, t, v]. Clips lead, captions follow, words are innermost."""
    local, own = text["local"], video["frames"]
    temperature = weights.isa_temperature
    real, shown = text.get("mask"), video.get("mask")  # [t, L], [v, F]
    of_frames = None if shown is None else shown[..., None]  # [v, F, 1]
    every_frame = None if of_frames is None else of_frames[..., None]  # [v, F, 1, 1]

    seen = matmul(video["video"], text["words"].flatten(0, 1).T).view(len(own), *local.shape[:2])  # [v, t, L]
    video_word = _over_words(seen, weights.video_word, temperature, real)
    video_sentence = _video_sentence(text, video["video"])
    sentence_frame = _sentence_frame(text, own, weights, of_frames)

    table = matmul(own.flatten(0, 1), local.flatten(0, 1).T).view(*own.shape[:2], *local.shape[:2])  # [v, F, t, L]
    frame_left = _over_words(table, weights.over_words, temperature, real)  # r, [v, F, t]
    word_left = _over_frames(table, weights.over_frames, temperature, every_frame)  # q, [v, t, L]
    over_frames = _over_frames(frame_left, weights.then_frames, temperature, of_frames)
    over_words = _over_words(word_left, weights.then_words, temperature, real)
    return torch.stack([video_sentence, video_word, sentence_frame, (over_frames + over_words) / 2]).mT


def _over_words(m: Tensor, mixing: Tensor, temperature: float, real: Tensor | None) -> Tensor:
    """Return isa over the last dimension of m [..., t, L]."""
    kept = m if real is None else m.masked_fill(~real, 0.0)
    mixed = (kept.flatten(0, -2) @ mixing.T).view(m.shape)
    return (attention(m, -1, temperature, real) * mixed).sum(-1)


def _over_frames(m: Tensor, mixing: Tensor, temperature: float, shown: Tensor | None) -> Tensor:
    """Return isa over dimension 1 of m [v, F, ...]. shown: [v, F, 1, ...]."""
    kept = m if shown is None else m.masked_fill(~shown, 0.0)
    mixed = torch.matmul(mixing, kept.flatten(2)).view(m.shape)
    return (attention(m, 1, temperature, shown) * mixed).sum(1)
