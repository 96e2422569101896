"""WTI as its authors evaluate it, for the benchmark: blocks of 32 x 32, each with its own weights, norms and table.

`naive-weights-once` is the same with the weights of words and frames made once an item, which is not what their code
does but what a careful reader of it would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, relu

from tvr_kernels import _measure, wti
from tvr_kernels._measure import Case
from tvr_kernels._testing import TARGET, Shape, features
from tvr_kernels.gemm import matmul

OPTIONS = wti.options()
BLOCK = 32  # captions and clips of their evaluation
SHORT = 12  # tokens of an ordinary MSR-VTT caption, start and end included
Scorer = tuple[Tensor, Tensor, Tensor, Tensor]  # weights and biases of Linear, ReLU, Linear to 1
Items = tuple[Tensor, Tensor, Tensor]  # features [N, slots, D], mask [N, slots] in floats, logits [N, slots]


def case(shape: Shape, device: str, longest: int | None = None) -> Case:
    """Return the benchmark case: learned weights of two layers; captions of 6 to 32 words, clips of F frames.

    longest: cuts the captions' words, not their slots.
    """
    x = features(shape, unit=False)
    if longest is not None:
        x = x._replace(word_mask=x.word_mask & (torch.arange(shape.L) < longest))
    frames = torch.where(x.frames.norm(dim=-1, keepdim=True) > 0, x.frames, x.frames[:, :1])  # every clip has F frames
    noise = torch.randn(x.words.shape, generator=torch.Generator().manual_seed(1))
    words = torch.where(x.word_mask[..., None], x.words, noise)  # pads of CLIP are vectors like others
    words, frames = words.to(device), frames.to(device)
    word_mask, frame_mask = x.word_mask.to(device), torch.ones_like(x.frame_mask).to(device)
    of_words, of_frames = _scorer(shape.D, 2, device), _scorer(shape.D, 3, device)
    text: Items = (words, word_mask.float(), _logits(words, of_words))
    video: Items = (frames, frame_mask.float(), _logits(frames, of_frames))

    def sides(dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
        w, z = words.to(dtype), frames.to(dtype)
        of_w, of_z = (tuple(x.to(dtype) for x in scorer) for scorer in (of_words, of_frames))
        text_side = wti.text_side(_unit(w), word_mask, OPTIONS, _logits(w, of_w))  # type: ignore[arg-type]
        return text_side, wti.video_side(_unit(z), frame_mask, OPTIONS, _logits(z, of_z)), OPTIONS  # type: ignore[arg-type]

    def each_block(rows: slice) -> Tensor:
        def again(some: Items, scorer: Scorer) -> Items:
            return some[0], some[1], _logits(some[0], scorer)

        return _in_blocks(_rows(text, rows), video, lambda t, v: block(again(t, of_words), again(v, of_frames)))

    def once(rows: slice) -> Tensor:
        return _in_blocks(_rows(text, rows), video, block)

    return Case("wti", shape, sides, {"naive": each_block, "naive-weights-once": once}, texts=BLOCK)


def extra_rows(rounds: int, device: str) -> list[dict[str, Any]]:
    """Measure captions of ordinary length in the same slots: what is padding costs the authors as much as words."""
    with torch.no_grad():
        found = _measure.scoring(case(TARGET, device, SHORT), device, reference=False)
        return _measure.rows("wti", f"{TARGET}, captions of at most {SHORT} words", found, rounds, device)


def block(text: Items, video: Items) -> Tensor:
    """Score a block as the authors do: cosines masked by two products, two maxima with their indices, two sums."""
    (words, m, of_words), (frames, n, of_frames) = text, video
    a = of_words.masked_fill((1 - m).bool(), float("-inf")).softmax(-1)
    b = of_frames.masked_fill((1 - n).bool(), float("-inf")).softmax(-1)
    words, frames = _unit(words), _unit(frames)
    table = matmul(words.flatten(0, 1), frames.flatten(0, 1).T)
    table = table.view(*words.shape[:2], *frames.shape[:2]).transpose(1, 2)  # [t, v, L, F]
    table = torch.einsum("abtv,at->abtv", table, m)
    table = torch.einsum("abtv,bv->abtv", table, n)
    per_word, _ = table.max(dim=-1)
    per_frame, _ = table.max(dim=-2)
    return (torch.einsum("abt,at->ab", per_word, a) + torch.einsum("abv,bv->ab", per_frame, b)) / 2.0


def _in_blocks(text: Items, video: Items, score: Callable[[Items, Items], Tensor]) -> Tensor:
    def starts(items: Items) -> range:
        return range(0, len(items[0]), BLOCK)

    def some(items: Items, first: int) -> Items:
        return _rows(items, slice(first, first + BLOCK))

    return torch.cat(
        [torch.cat([score(some(text, i), some(video, j)) for j in starts(video)], 1) for i in starts(text)]
    )


def _rows(items: Items, rows: slice) -> Items:
    features, mask, logits = items
    return features[rows], mask[rows], logits[rows]


def _logits(x: Tensor, scorer: Scorer) -> Tensor:
    first, first_bias, second, second_bias = scorer
    hidden = relu(matmul(x.flatten(0, 1), first.T) + first_bias)
    return linear(hidden, second, second_bias).view(x.shape[:2])


def _scorer(size: int, seed: int, device: str) -> Scorer:
    g = torch.Generator().manual_seed(seed)
    first, second = 0.02 * torch.randn(size, size, generator=g), 0.02 * torch.randn(1, size, generator=g)
    return first.to(device), torch.zeros(size, device=device), second.to(device), torch.zeros(1, device=device)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)
