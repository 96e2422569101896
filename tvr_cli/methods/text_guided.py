"""Text-guided pooling alone: each caption pools a clip's frames by its own softmax. No parameters, nothing to train.

GLCCL's GLIM (arXiv 2605.17959) on plain features, scored by the cosine of the caption with what it pooled:
`cos(s, sum_f softmax_f(<s, x_f> / 5) x_f)`, with un-normalised features, whose lengths the temperature counts on: those
of other encoders than CLIP are scaled to its. Ours is masked: missing frames have no weight.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor
from tvr_kernels import text_pooling

from tvr_cli.methods import base
from tvr_cli.methods.base import full_precision, mean_direction, setting, unit
from tvr_cli.types import Encoding, TextFeatures, VideoFeatures


class Method(base.Method):
    """Score by the cosine of pooled text and the frames that it pools."""

    counts_on_length = True
    summary = "frames pooled by each caption's softmax (GLIM), then cosine; no parameters"
    paper = "GLIM of GLCCL, arXiv 2605.17959, used alone"

    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        temperature: float = setting(5.0, symbol="τ", source="GLCCL, authors' code", note="divides raw dot products")
        mask_padding: bool = setting(True, source="ours", note="missing frames have no weight")

    def encode_text(self, text: TextFeatures) -> Encoding:
        return Encoding(text.key, text_pooling.text_side(full_precision(self.scaled_text(text).pooled)))

    def encode_video(self, video: VideoFeatures) -> Encoding:
        frames = full_precision(self.scaled_video(video).frames)
        side = text_pooling.video_side(frames, video.mask() if self.config.mask_padding else None)
        return Encoding(video.key, {**side, "mean": mean_direction(frames, video.mask()), "real": video.mask()})

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        weights = text_pooling.TextPoolingWeights(self.config.temperature)
        return text_pooling.score(text.tensors, video.tensors, weights)

    def coarse(self, e: Encoding) -> Tensor:
        return unit(e["text"]) if "text" in e.tensors else e["mean"]

    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        slots = video["frames"].shape[:2]
        dots = (text["text"] @ video["frames"].flatten(0, 1).T).unflatten(1, slots)  # [T, V, F]
        return (dots / self.config.temperature).masked_fill(~video["real"], float("-inf")).softmax(-1)

    def cost_per_pair(self) -> str:
        frames = self.sizes.frames
        return f"{self.sizes.dim * frames + frames * (frames + 1)} MAC"
