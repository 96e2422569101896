"""Run a pair function over blocks of captions and clips, where one pair takes kilobytes of intermediates.

Like `_tiles`, for ops whose pair function gives several numbers a pair and also depends on parameters that belong to
neither side. Scoring: small blocks, so that the many passes over a block's intermediates stay in the cache. Training:
all at once while autograd's tensors fit, else blocks whose intermediates are recomputed in the backward pass, so that
the memory of the pair tensors is that of one block and the gradients are those of the direct call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tvr_kernels._tiles import SAVED_BYTES

Block = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]


def by_blocks(
    block: Block,
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    *,
    saved_bytes: int,
    tile: tuple[int, int],
) -> Tensor:
    """Return `block(text, video)`, a tensor [..., T, V], computed in blocks of `tile` = (captions, clips).

    tile: what fits a CPU's cache; other devices take blocks 32 times as large, which hold about 400 MB.
    saved_bytes: what autograd keeps of one pair. Worked example, GLCCL in fp32 with L = 32, F = 12: 48 KB a pair, so a
    training batch of 128 x 128 (790 MB) runs in blocks of 5 captions x 128 clips (31 MB each) that are recomputed.
    """
    T, V = len(next(iter(text.values()))), len(next(iter(video.values())))
    texts, clips = tile
    if next(iter(text.values())).device.type != "cpu":
        texts, clips = 4 * texts, 8 * clips
    if torch.is_grad_enabled():
        if T * V * saved_bytes <= SAVED_BYTES:
            return block(text, video)
        texts, clips = max(1, SAVED_BYTES // (8 * V * saved_bytes)), V
    rows = []
    for i in range(0, T, texts):
        some_text = _rows(text, i, texts)
        row = [_run(block, some_text, _rows(video, j, clips)) for j in range(0, V, clips)]
        rows.append(row[0] if len(row) == 1 else torch.cat(row, -1))
    return rows[0] if len(rows) == 1 else torch.cat(rows, -2)


def _run(block: Block, text: Mapping[str, Tensor], video: Mapping[str, Tensor]) -> Tensor:
    if not torch.is_grad_enabled():
        return block(text, video)
    # The block is a pure function: draws that it asks for again are the same draws.
    return checkpoint(block, text, video, use_reentrant=False, preserve_rng_state=False)


def _rows(side: Mapping[str, Tensor], start: int, size: int) -> dict[str, Tensor]:
    return {name: tensor[start : start + size] for name, tensor in side.items()}
