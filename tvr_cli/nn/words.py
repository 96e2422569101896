"""Token features: where a method's parameters are tied to their slots (GLCCL, TC-MGC), and learned weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tvr_cli import commands
from tvr_cli.errors import DataError
from tvr_cli.types import TextFeatures


def check_slots(method: str, text: TextFeatures, slots: int) -> Tensor:
    """Return the token features [T, L, D] after checking that they are there and that L is `slots`."""
    if text.tokens is None:
        raise DataError(
            f"{method} compares single tokens, but the text features have pooled vectors only; "
            f"run {commands.tvr('precompute-features')} with a backbone that provides tokens"
        )
    if text.tokens.shape[1] != slots:
        raise DataError(
            f"{method} was made for {slots} token slots a caption, but the text features have {text.tokens.shape[1]}; "
            f"run {commands.tvr('precompute-features', word_shape='fixed', max_words=slots)}"
        )
    return text.tokens


def real_words(text: TextFeatures) -> Tensor:
    """Return [T, L] bool, True = a real token (start and end included)."""
    assert text.tokens is not None
    return torch.arange(text.tokens.shape[1], device=text.n_tokens.device) < text.n_tokens[:, None]


def token_scorer(size: int, layers: int) -> nn.Module:
    """Return DRL's scorer of tokens or frames, [..., size] -> [..., 1]: Linear behind `layers` - 1 Linear and ReLU.

    Its softmax over an item's tokens is their weight. Source: arXiv 2203.07111 (`wti_arch`); DMAE has the same.
    """
    if layers == 1:
        return nn.Linear(size, 1)
    hidden = [m for _ in range(layers - 1) for m in (nn.Linear(size, size), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(size, 1))
