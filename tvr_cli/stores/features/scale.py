"""The factors that bring features to the length of CLIP's, which some methods' temperatures count on. No torch.

`text_guided`, `glccl` and `gare` divide raw dot products by numbers that were chosen for OpenAI's CLIP. Features of
length one make their softmax flat, so those of any other encoder are scaled, by the mean norms that were measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvr_cli.scale import Scale

# The mean norm of a caption and of a frame under OpenAI's ViT-B/32 and B/16, which the papers used: remembered, not
# measured here, for the weights were not available. An error of it is one of every temperature alike.
CLIP_NORM = 10.0
_QUICK = "-quickgelu"


def scale_of(backbone: str, norms: Mapping[str, float], provenance: Mapping[str, Any]) -> Scale:
    """Return the factors of a store. backbone: the model's own name, of the identity. norms: see `head.Head`.

    The norm of captions is what precompute measured on sentences of its own (`text_norm`), for a library need not have
    captions, else that of the store's. Two digits are kept: clips that come or go then hardly ever change a score, and
    so an index that stands.
    """
    if is_clip(backbone):
        return Scale()
    return Scale(_factor(provenance.get("text_norm") or norms.get("text.pooled")), _factor(norms.get("video.frames")))


def is_clip(backbone: str) -> bool:
    """Whether features are CLIP's own: of OpenAI's weights, or of what was tuned from them.

    These alone have QuickGELU and no other tag. `demo-tiny` counts as one: the numbers of its heads that are committed
    were trained on, and are compared with, the features as they are.
    """
    architecture, _, tag = backbone.partition("/")
    return backbone == "demo-tiny" or (architecture.endswith(_QUICK) and tag in ("", "openai"))


def _factor(norm: float | None) -> float:
    return float(f"{CLIP_NORM / norm:.2g}") if norm else 1.0
