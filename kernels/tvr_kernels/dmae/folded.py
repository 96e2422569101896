"""The DMAE score a tile at a time: one GEMM of caption rows and frames, reduced while it is in the cache.

Nothing of size T x V x L x F outlives its tile. Captions and clips are taken in order of length, and each tile stops at
its longest caption, and one slot behind its longest clip: masked slots are exact zeros, so one of them (or `floor`)
stands for all. The best frame is found with maxima alone (`_best_frame`): a CPU's argmax costs as much as the GEMM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tvr_kernels._tiles import by_clips
from tvr_kernels.dmae import DmaeOptions
from tvr_kernels.gemm import matmul

# A tile holds 64 captions and as many clips as keep its table near 1.6 million numbers (6.4 MB, three of them alive):
# with 33 rows a caption and 12 frames a clip that is 64 clips, large enough for the GEMM to run at full speed.
_TEXTS = 64
_TABLE = 64 * 64 * 33 * 12

Tile = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], DmaeOptions], Tensor]


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: DmaeOptions) -> Tensor:
    """Return [T, V]; differentiable in rows, frames, weights and closeness."""
    rows, frames = text["rows"], video["frames"]
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*text.values(), *video.values())):
        table_bytes = rows.shape[1] * frames.shape[1] * rows.element_size()
        return by_clips(lambda t, v: _tile(t, v, weights), text, video, table_bytes, 2 * table_bytes)
    return by_length(_tile, text, video, weights)


def by_length(tile: Tile, text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: DmaeOptions) -> Tensor:
    """Return `tile(text, video, weights)` of all pairs [T, V], in tiles of captions and clips of like length."""
    rows, frames = text["rows"], video["frames"]
    out = rows.new_empty(len(rows), len(frames))
    clips = video["length"].argsort(stable=True)
    video = {k: x[clips] for k, x in video.items()}
    for some in text["length"].argsort(stable=True).split(_TEXTS):
        t = _cropped({k: x[some] for k, x in text.items()}, ("rows", "weight", "bias"), 0)
        t["rows"] = t["rows"].transpose(0, 1).contiguous().transpose(0, 1)  # in the order of a tile, once for all clips
        step = max(1, _TABLE // (t["rows"].shape[0] * t["rows"].shape[1] * frames.shape[1]))
        for j in range(0, len(frames), step):
            v = {k: x[j : j + step] for k, x in video.items()}
            v = _cropped(v, ("frames", "weight", "closeness", "neighbour", "bias"), 1)
            if weights.neighbours:
                # A neighbour beyond the crop has closeness 0; it only has to exist.
                v["neighbour"] = v["neighbour"].clamp_max(v["frames"].shape[1] - 1)
            out[some[:, None], clips[j : j + step]] = tile(t, v, weights)
    return out


def _cropped(side: dict[str, Tensor], names: tuple[str, ...], pads: int) -> dict[str, Tensor]:
    """Cut dimension 1 of the named tensors `pads` slots behind the longest item, where there are so many."""
    end = int(side["length"].max()) + pads
    return side | {k: side[k][:, :end] for k in names if k in side}


def _tile(text: Mapping[str, Tensor], video: Mapping[str, Tensor], options: DmaeOptions) -> Tensor:
    """Score a tile, [T, V]. Captions are innermost, so that maxima over rows and over frames both run on vectors."""
    rows, frames = text["rows"].transpose(0, 1), video["frames"]  # [L, T, D], [V, F, D]
    shape = (*frames.shape[:2], *rows.shape[:2])
    table = matmul(frames.flatten(0, 1), rows.flatten(0, 1).T).view(shape)  # [V, F, L, T]
    choice = table + video["bias"][..., None, None] if options.mask_padding else table
    best = _with_neighbour(table, choice, video) if options.neighbours else choice.amax(1)  # [V, L, T]
    text_part = (best * text["weight"].T).sum(1)  # [V, T]
    first = int(options.sentence)  # of the words; row 0 is the sentence
    per_frame = table[:, :, 0] if options.sentence else 0.0
    if options.words:
        words = table[:, :, first:]
        if options.mask_padding:
            words = words + text["bias"].T[first:]
        # The maximum over a caption's words; pads beyond the tile's longest caption would have been zeros.
        per_frame = per_frame + torch.maximum(words.amax(2), text["floor"])
    video_part = (per_frame * video["weight"][..., None]).sum(1)
    return (text_part + video_part).T / (2 * (options.words + options.sentence))


def _with_neighbour(table: Tensor, choice: Tensor, video: Mapping[str, Tensor]) -> Tensor:
    """Return p [V, L, T] = S_f* + 1/2 r(f*) S_n(f*) of a table S [V, F, L, T], f* the best of `choice`."""
    flat, choice = table.flatten(2), choice.flatten(2)
    best = choice.amax(1, keepdim=True)  # [V, 1, L T]
    frame = _best_frame(choice.detach(), best.detach())
    second = video["neighbour"].gather(1, frame)
    beside = flat.gather(1, second[:, None])
    closeness = video["closeness"].gather(1, frame) / 2
    return torch.addcmul(best, closeness[:, None], beside)[:, 0].unflatten(1, table.shape[2:])


def _best_frame(table: Tensor, best: Tensor) -> Tensor:
    """Return the first argmax over dim 1 of [V, F, N], int64. best: its maxima [V, 1, N].

    `S_f - max_f S` is 0 at the best frame and negative elsewhere; scaled until the smallest difference of two scores
    exceeds any index, minus f, its maximum is -f*.
    """
    index = torch.arange(table.shape[1], dtype=table.dtype, device=table.device)[:, None]
    below = table - best
    torch.add(-index, below, alpha=torch.finfo(table.dtype).max ** 0.75, out=below)
    return below.amax(1).neg_().round_().long()
