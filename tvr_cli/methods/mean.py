"""Mean pooling: the cosine of a caption with the mean of its clip's frames. No parameters, nothing to train.

This is CLIP4Clip's parameter-free "meanP" (arXiv 2104.08860, section 3.3) on features as they are: frames are
normalised, the real ones averaged, and the average is normalised again. Times exp(logit_scale) it is their score.
"""

from __future__ import annotations

from torch import Tensor

from tvr_cli.methods import base
from tvr_cli.methods.base import full_precision, masked_mean, unit
from tvr_cli.types import Encoding, TextFeatures, VideoFeatures


class Method(base.Method):
    """Score by the cosine of pooled text and mean frame."""

    summary = "cosine of the caption with the mean frame; no parameters"
    paper = "CLIP4Clip, arXiv 2104.08860, section 3.3 (parameter-free type)"

    def encode_text(self, text: TextFeatures) -> Encoding:
        return Encoding(text.key, {"text": unit(full_precision(text.pooled))})

    def encode_video(self, video: VideoFeatures) -> Encoding:
        # A missing slot must not divide by zero.
        frames = unit(full_precision(video.frames).masked_fill(~video.mask()[..., None], 1.0))
        pooled = unit(masked_mean(frames, video.mask()))  # [V, D]
        return Encoding(video.key, {"video": pooled, "frames": frames, "mask": video.mask()})

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        return text["text"] @ video["video"].T

    def coarse(self, e: Encoding) -> Tensor:
        return e["text"] if "text" in e.tensors else e["video"]

    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        return base.frame_cosines(text["text"], video["frames"], video["mask"])

    def cost_per_pair(self) -> str:
        return f"{self.sizes.dim} MAC"
