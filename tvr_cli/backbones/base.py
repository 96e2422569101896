"""The protocol of a backbone: the model that turns frames and captions into features. And how one is found by name.

`openclip.py` implements it for everything that open_clip builds; a file beside it may do so for another library. A
backbone yields features, un-normalised; what a method makes of them is an encoding.

Letters: T captions, V clips, F frame slots, L token slots, S pixels, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """Base class of every backbone.

    name: what `load` takes to find it again. provides: of {"frames", "pooled", "tokens", "temporal_shift"}. dim: D.
    image_size: S, the side of its input in pixels. context_length: the largest L. dtype: arithmetic of its towers.
    """

    name: str
    provides: frozenset[str]
    dim: int
    image_size: int
    context_length: int

    def identity(self) -> dict[str, Any]:
        """Return what decides the values of its features: name, sha256 of weights, preprocessing, temporal shift."""
        raise NotImplementedError

    def tokenize(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Return ids [T, L] int64, zero-padded and cut to `length`, and n_tokens [T] int64 incl. start and end."""
        raise NotImplementedError

    def count_tokens(self, texts: Sequence[str]) -> Tensor:
        """Return how many tokens [T] int64 each caption has before any cut, start and end included."""
        raise NotImplementedError

    def word_pieces(self, text: str) -> list[tuple[str, int]]:
        """Return the words of a caption in order, each with the number of tokens it is made of."""
        raise NotImplementedError

    @property
    def first_word_token(self) -> int:
        """How many tokens stand before the first word (CLIP: the start token)."""
        raise NotImplementedError

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode ids [T, L], L at most the context, to pooled [T, D] and tokens [T, L, D] (None if not provided).

        Un-normalised; gradients flow. Pads are encoded like any other token (their features leak in some papers).
        """
        raise NotImplementedError

    def encode_frames(self, pixels: Tensor, real: Tensor) -> Tensor:
        """Encode uint8 frames [V, F, 3, S, S] to [V, F, D]; real: [V, F] bool, True = a real frame.

        A missing frame counts as the all-zero *normalised* image, whatever its pixels hold. Gradients flow.
        """
        raise NotImplementedError

    def encode_normalized(self, pixels: Tensor) -> Tensor:
        """Encode frames that are normalised already, float [V, F, 3, S, S], to [V, F, D]."""
        raise NotImplementedError

    def text_tower(self) -> Mapping[str, Tensor]:
        """Return the text transformer's tensors under OpenAI's names, or an empty mapping if it has no such tower."""
        return {}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the towers' activations in the backward pass instead of keeping them."""
        raise NotImplementedError

    @property
    def logit_scale(self) -> Tensor:
        """Scalar: the natural logarithm of the scale that the backbone was trained with."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def load(
    name: str,
    *,
    offline: bool = False,
    device: str | torch.device = "cpu",
    temporal_shift: bool = False,
    precision: torch.dtype = torch.float32,
) -> Backbone:
    """Load a backbone in evaluation mode, its parameters requiring gradients as open_clip makes them.

    name: a preset (`clip-vit-b32`), open_clip's `ARCH/TAG`, `ARCH@FILE` (weights in a file), `local:PATH` (a folder
    with `open_clip_config.json` and weights, or a file of OpenAI-style CLIP weights), or `demo-tiny`.
    Raises ConfigError for an unknown name or an impossible temporal shift, EnvironmentProblem for missing weights,
    DataError for weights that do not fit.
    """
    from tvr_cli.backbones.openclip import OpenClipBackbone

    return OpenClipBackbone.load(
        name, offline=offline, device=device, temporal_shift=temporal_shift, precision=precision
    )
