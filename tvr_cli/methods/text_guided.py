"""Query-scoring: each caption pools a clip's frames by its own softmax. No parameters, nothing to train.

The method is that of "A CLIP-Hitchhiker's Guide to Long Video Retrieval" (Bain et al. 2022, arXiv 2205.08508): softmax
over frames of the caption's cosine over a temperature, mean of the frames with these weights, cosine of the two. The
default is the same on un-normalised features with the temperature of GLCCL's GLIM (arXiv 2605.17959):
`cos(s, sum_f softmax_f(<s, x_f> / 5) x_f)`; it counts on their lengths, so those of other encoders than CLIP are scaled
to its. `temperature: 0.1` with `normalize: true` is theirs. Masking is ours: missing frames have no weight.
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
    summary = "query-scoring of CLIP-Hitchhiker with GLCCL's temperature; no parameters"
    paper = "CLIP-Hitchhiker, arXiv 2205.08508; temperature of GLIM in GLCCL, arXiv 2605.17959"
    bibtex = """@article{bain2022clip,
  title   = {A {CLIP}-Hitchhiker's Guide to Long Video Retrieval},
  author  = {Bain, Max and Nagrani, Arsha and Varol, G{\\"u}l and Zisserman, Andrew},
  journal = {arXiv preprint arXiv:2205.08508},
  year    = {2022}
}"""

    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        temperature: float = setting(
            5.0, symbol="τ", source="GLCCL, authors' code", note="divides raw dot products; CLIP-Hitchhiker: 0.1"
        )
        normalize: bool = setting(
            False, source="GLCCL, authors' code", note="features of length 1 before everything; CLIP-Hitchhiker: true"
        )
        mask_padding: bool = setting(True, source="ours", note="missing frames have no weight")

    def encode_text(self, text: TextFeatures) -> Encoding:
        pooled = full_precision(self.scaled_text(text).pooled)
        return Encoding(text.key, text_pooling.text_side(unit(pooled) if self.config.normalize else pooled))

    def encode_video(self, video: VideoFeatures) -> Encoding:
        frames = full_precision(self.scaled_video(video).frames)
        if self.config.normalize:  # the kernel takes lengths as they are; a slot of zeros must not divide by zero
            frames = unit(frames.masked_fill(~frames.any(-1, keepdim=True), 1.0))
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
