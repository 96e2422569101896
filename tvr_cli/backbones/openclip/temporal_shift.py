"""Temporal patch shift of a ViT: some patches of a frame are taken from its neighbours before self-attention.

From TS2-Net, in EagleNet's backbone whatever its options. In the blocks with 0-based index 10 and 11 the input of
self-attention (the output of ln_1, used as q, k and v) is changed within each clip: with L tokens a frame (the class
token is index 0) and step = L // 7, the tokens 1, 1 + step, ... come from the frame before, the tokens 4, 4 + step, ...
from the frame after; the first and the last frame keep their own where there is no neighbour. All reads are from the
unshifted tensor. The residual stream, ln_2 and the MLP are untouched; there are no parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tvr_cli.errors import ConfigError

SHIFTED_BLOCKS = (10, 11)
_STEPS = 7


class TemporalShift:
    """Shifts the patches of a ViT's blocks 10 and 11 by hooks on their ln_1; `frames` is F, set before a forward."""

    def __init__(self, visual: nn.Module):
        blocks = shiftable_blocks(visual)
        if blocks is None:
            raise ConfigError(
                f"temporal shift needs a ViT of at least {SHIFTED_BLOCKS[-1] + 1} blocks and {_STEPS} tokens a frame; "
                f"this backbone's image tower is a {_describe(visual)}. Leave out --temporal-shift, or take a CLIP ViT "
                "such as --backbone clip-vit-b32"
            )
        self.frames = 1
        for block in blocks:
            norm: Any = block.ln_1
            norm.register_forward_hook(self._hook)

    def _hook(self, module: nn.Module, args: tuple[Tensor, ...], x: Tensor) -> Tensor:
        return shift_patches(x, self.frames)


def shift_patches(x: Tensor, frames: int) -> Tensor:
    """Shift tokens [V * F, L, width] between the F frames of each clip; returns a new tensor of the same shape."""
    tokens = x.shape[1]
    step = tokens // _STEPS
    clips = x.unflatten(0, (-1, frames))  # [V, F, L, width]
    previous = torch.cat([clips[:, :1], clips[:, :-1]], dim=1)
    following = torch.cat([clips[:, 1:], clips[:, -1:]], dim=1)
    index = torch.arange(tokens, device=x.device)
    from_previous = (index >= 1) & ((index - 1) % step == 0)
    from_following = (index >= 4) & ((index - 4) % step == 0)
    out = torch.where(from_previous[:, None], previous, clips)
    # The second set is written last: it wins where the two meet (they do not for 50 or 197 tokens).
    return torch.where(from_following[:, None], following, out).flatten(0, 1)


def can_shift(blocks: object, tokens: int) -> bool:
    """Whether a ViT of so many blocks and tokens a frame has what the shift changes; a list of blocks is a ResNet's."""
    return isinstance(blocks, int) and blocks > SHIFTED_BLOCKS[-1] and tokens >= _STEPS


def shiftable_blocks(visual: nn.Module) -> list[nn.Module] | None:
    """Return the blocks that the shift changes; None for a tower without them (a ResNet, too few blocks or tokens)."""
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    positions = getattr(visual, "positional_embedding", None)
    if blocks is None or positions is None or not can_shift(len(blocks), positions.shape[0]):
        return None
    chosen = [blocks[i] for i in SHIFTED_BLOCKS]
    return chosen if all(hasattr(b, "ln_1") for b in chosen) else None


def _describe(visual: nn.Module) -> str:
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    kind = type(visual).__name__
    return kind if blocks is None else f"{kind} of {len(blocks)} blocks"
