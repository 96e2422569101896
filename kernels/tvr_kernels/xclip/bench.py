"""X-CLIP as its authors evaluate it, for the benchmark: blocks of 40 x 40 and a dozen tensors of the table's size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tvr_kernels import xclip
from tvr_kernels._measure import Case
from tvr_kernels._testing import Shape, features
from tvr_kernels.gemm import matmul

BLOCK = 40  # captions and clips of their evaluation on MSR-VTT (batch_size_val)


def case(shape: Shape, device: str) -> Case:
    """Return the benchmark case; all slots take part, as in the authors' code, so padding makes no difference."""
    x = features(shape, unit=False, ragged=False)
    sentence, words, frames = x.text.to(device), x.words.to(device), x.frames.to(device)
    weights = draw_weights(shape, torch.float32, device)

    def sides(dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
        cast = draw_weights(shape, dtype, device)
        text = xclip.text_side(sentence.to(dtype), words.to(dtype), cast)
        return text, xclip.video_side(frames.to(dtype).mean(1), frames.to(dtype)), cast

    video = _unit(frames.mean(1))

    def naive(rows: slice) -> Tensor:
        """Score some captions, block by block; norms are made once, as their `get_similarity_logits` has them."""
        s, w, f = _unit(sentence[rows]), _unit(words[rows]), _unit(frames)
        blocks = [slice(i, i + BLOCK) for i in range(0, max(len(s), len(f)), BLOCK)]
        of_text, of_video = ([b for b in blocks if b.start < len(x)] for x in (s, f))
        return torch.cat(
            [torch.cat([block(s[i], w[i], video[j], f[j], weights) for j in of_video], 1) for i in of_text]
        )

    return Case("xclip", shape, sides, {"naive": naive}, texts=BLOCK)


def block(sentence: Tensor, words: Tensor, video: Tensor, frames: Tensor, w: xclip.XClipWeights) -> Tensor:
    """Score unit sentences [t, D] and words [t, L, D] with unit clips [v, D] and frames [v, F, D] as the authors do."""
    tau = w.isa_temperature
    video_sentence = matmul(matmul(sentence, w.global_map), video.T)

    seen = torch.matmul(words, video.T)  # [t, L, v]
    mixed = torch.matmul(torch.softmax(seen / tau, dim=1).permute(0, 2, 1), w.video_word).permute(0, 2, 1)
    video_word = (mixed * seen).sum(1)
    seen = matmul(sentence, frames.flatten(0, 1).T).view(len(sentence), *frames.shape[:2])  # [t, v, F]
    sentence_frame = (torch.matmul(torch.softmax(seen / tau, dim=-1), w.sentence_frame) * seen).sum(-1)

    local = matmul(words.flatten(0, 1), w.local_map)
    table = matmul(local, frames.flatten(0, 1).T).view(*words.shape[:2], *frames.shape[:2])  # [t, L, v, F]
    mixed = torch.matmul(torch.softmax(table / tau, dim=1).permute(0, 2, 3, 1), w.over_words).permute(0, 3, 1, 2)
    frame_left = (mixed * table).sum(1)  # [t, v, F]
    word_left = (torch.matmul(torch.softmax(table / tau, dim=-1), w.over_frames) * table).sum(-1)  # [t, L, v]
    over_frames = (torch.matmul(torch.softmax(frame_left / tau, dim=-1), w.then_frames) * frame_left).sum(-1)
    mixed = torch.matmul(torch.softmax(word_left / tau, dim=1).permute(0, 2, 1), w.then_words).permute(0, 2, 1)
    over_words = (mixed * word_left).sum(1)
    return (video_sentence + video_word + sentence_frame + (over_frames + over_words) / 2) / 4


def draw_weights(shape: Shape, dtype: torch.dtype, device: str = "cpu") -> xclip.XClipWeights:
    """Return matrices near the identity, as they are after training."""
    g, (_, _, F, L, D) = torch.Generator().manual_seed(1), shape
    maps = [torch.eye(n) + 0.3 * n**-0.5 * torch.randn(n, n, generator=g) for n in (D, D, L, F, L, F, F, L)]
    return xclip.XClipWeights(*(m.to(device, dtype) for m in maps))


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)
