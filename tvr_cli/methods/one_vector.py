"""One vector a clip: the cosine of a caption with the vector that an encoder of whole clips gives. Nothing to train.

What such encoders (VideoPrism, X-CLIP) were trained for, and so the baseline under any head on their features.
"""

from __future__ import annotations

from torch import Tensor

from tvr_cli.methods import base
from tvr_cli.methods.base import full_precision, unit
from tvr_cli.types import Encoding, TextFeatures, VideoFeatures


class Method(base.Method):
    """Score by the cosine of pooled text and the clip's own vector."""

    needs = frozenset({"video.pooled", "pooled"})
    summary = "cosine of the caption with the clip's own vector; no parameters"
    paper = "the zero-shot rule of encoders of whole clips, as VideoPrism, arXiv 2402.13217"

    def encode_text(self, text: TextFeatures) -> Encoding:
        return Encoding(text.key, {"text": unit(full_precision(text.pooled))})

    def encode_video(self, video: VideoFeatures) -> Encoding:
        assert video.pooled is not None, "a store without it is refused before"
        return Encoding(video.key, {"video": unit(full_precision(video.pooled)), "mask": _slots(video)})

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        return text["text"] @ video["video"].T

    def coarse(self, e: Encoding) -> Tensor:
        return e["text"] if "text" in e.tensors else e["video"]

    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        """The same weight for every real frame: a vector of the whole clip points at no part of it."""
        weight = video["mask"].to(video["video"].dtype)
        return (weight / weight.sum(1, keepdim=True)).expand(len(text), -1, -1)

    def pair_bytes(self) -> int:
        return 8

    def cost_per_pair(self) -> str:
        return f"{self.sizes.dim} MAC"


def _slots(video: VideoFeatures) -> Tensor:
    """[V, F] bool, True = a real frame; one slot that stands for the whole clip where features have no frames."""
    mask = video.mask()
    return mask if mask.shape[1] else mask.new_ones(len(mask), 1)
