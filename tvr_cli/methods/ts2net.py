"""TS2-Net: of each frame the class token and a few chosen patches see each other in time; the class tokens are pooled.

The choice of patches is `_ts2net_selection`, the mixing in time CLIP4Clip's transformer (`nn.temporal`). Inside the
backbone patches move between frames (`--temporal-shift`). A clip is what its F class tokens have become, so a pair
costs F dot products. Equations, and the authors' misaligned mask: docs/methods/ts2net.md.

Source: TS2-Net, ECCV 2022, arXiv 2207.07852; the authors' code at 1d9d4d5 decides where the paper differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tvr_kernels.eaglenet import noise as philox

from tvr_cli.errors import ConfigError
from tvr_cli.methods import base
from tvr_cli.methods._ts2net_selection import TokenSelector
from tvr_cli.methods.base import full_precision, masked_mean, setting, unit
from tvr_cli.nn.losses import info_nce
from tvr_cli.nn.temporal import (
    POSITIONS,
    TemporalTransformer,
    contextualize_frames,
    frame_positions,
    start_from_text_tower,
)
from tvr_cli.types import Batch, Draws, Encoding, LossOutput, Sizes, TextFeatures, VideoFeatures

SCRIPT = "authors' script (MSR-VTT)"
CODE = "authors' code"
SHARPNESS = 4.0  # of a softmax over cosines that are divided by their length over frames
_ENCODED_AT_ONCE = 8  # clips: the noise of one is F n P numbers


class Method(base.Method):
    """Score by cosines with the frames' class tokens, weighted by themselves; train with a symmetric InfoNCE."""

    needs: ClassVar[frozenset[str]] = frozenset({"frames", "video.patches", "pooled"})
    fidelity = "authors-code@1d9d4d5"
    summary = "the class token and three chosen patches of each frame mixed in time; frames weighted by their cosines"
    paper = "TS2-Net, ECCV 2022, arXiv 2207.07852"
    shifts_patches = True
    # Built and never called.
    ignored_keys: ClassVar[tuple[str, ...]] = ("text_token_selector.*", "visual_prompt_encoder.*")
    bibtex = """@inproceedings{liu2022ts2net,
  title     = {{TS2-Net}: Token Shift and Selection Transformer for Text-Video Retrieval},
  author    = {Liu, Yuqi and Xiong, Pengfei and Xu, Luhui and Cao, Shengming and Jin, Qin},
  booktitle = {Proceedings of the European Conference on Computer Vision},
  year      = {2022}
}"""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Options of TS2-Net; the defaults are those of the authors' MSR-VTT script."""

        kept_patches: int = setting(3, symbol="k", source=SCRIPT, note="of each frame, beside its class token")
        noise_rows: int = setting(500, symbol="n", source=CODE, note="of the perturbed choice, in evaluation too")
        noise_std: float = setting(0.05, symbol="sigma", source=CODE, note="of the perturbed choice")
        temporal_layers: int = setting(4, symbol="cross_num_hidden_layers", source=SCRIPT)
        mask_padding: bool = setting(
            False, source="ours", note="true: missing frames take no part; the authors tile the mask the wrong way"
        )

        def __post_init__(self) -> None:
            for name in ("kept_patches", "noise_rows", "temporal_layers"):
                if getattr(self, name) < 1:
                    raise ConfigError(f"ts2net: {name} must be at least 1, found {getattr(self, name)}")
            if self.noise_std <= 0:
                raise ConfigError(f"ts2net: noise_std must be above 0, found {self.noise_std}")

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config, sizes)
        kept = 1 + config.kept_patches
        if kept * sizes.frames > POSITIONS:
            raise ConfigError(
                f"ts2net keeps {kept} tokens of each frame in {POSITIONS} positions, so a clip has at most "
                f"{POSITIONS // kept} frames, found {sizes.frames}; extract fewer, or set "
                "method.ts2net.kept_patches lower"
            )
        self.noise_draw = 0  # which repetition of the choice's noise `encode_video` uses (`--noise-seeds`)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(100.0)))  # where OpenAI's checkpoints start
        self.frame_position_embeddings = frame_positions(sizes.dim)
        self.transformerClip = TemporalTransformer(sizes.dim, config.temporal_layers)
        self.visual_token_selector = TokenSelector(sizes.dim, config.kept_patches, config.noise_std)

    @classmethod
    def read_checkpoint(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Sizes]:
        layers = base.temporal_layers(state)
        return {"temporal_layers": layers}, Sizes(state["frame_position_embeddings.weight"].shape[1], 0, 0)

    @torch.no_grad()
    def init_from_backbone(self, text_tower: Mapping[str, Tensor], logit_scale: Tensor) -> None:
        self.logit_scale.copy_(logit_scale.reshape(()))
        start_from_text_tower(self.transformerClip, self.frame_position_embeddings, text_tower)

    # ------------------------------------------------------------------------------------------------------- scoring

    def encode_text(self, text: TextFeatures) -> Encoding:
        return Encoding(text.key, {"text": unit(full_precision(text.pooled))})

    def encode_video(self, video: VideoFeatures) -> Encoding:
        parts = [self._encode_some(video.rows(slice(i, i + _ENCODED_AT_ONCE))) for i in _starts(len(video))]
        return Encoding.cat(parts)

    def encode_with(self, video: VideoFeatures, noise: Tensor) -> Encoding:
        """`encode_video`, with noise [V, F, n, P] of one's own."""
        seen = self._seen(video.mask())
        z = self.contextualize(self.select(video, noise), video.mask())
        frames = unit(z.masked_fill(~seen[..., None], 1.0))  # a frame that is left out must not divide by zero
        sides = {"frames": frames, "mean": masked_mean(frames, seen), "mask": seen, "real": video.mask().clone()}
        return Encoding(video.key, sides)

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        frames, seen = video["frames"], video["mask"]
        cosines = (text["text"] @ frames.flatten(0, 1).T).unflatten(1, frames.shape[:2])  # [T, V, F]
        length = cosines.masked_fill(~seen, 0).norm(dim=-1, keepdim=True)
        scaled = SHARPNESS * cosines / length.clamp_min(torch.finfo(length.dtype).tiny)
        weights = scaled.masked_fill(~seen, float("-inf")).softmax(-1)
        return self.logit_scale.exp() * (weights * cosines).sum(-1)

    def score_scale(self) -> float:
        return float(self.logit_scale.detach().exp())

    def coarse(self, e: Encoding) -> Tensor:
        return e["text"] if "text" in e.tensors else unit(e["mean"])

    @property
    def rough_needs(self) -> tuple[str, ...]:
        return ("mean",)

    def rough(self, text: Encoding, video: Encoding) -> Tensor:
        """The mean of the cosines with frames: what equal weights give."""
        return text["text"] @ video["mean"].to(text["text"].dtype).T

    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        return base.frame_cosines(text["text"], video["frames"], video["mask"] & video["real"])

    def cost_per_pair(self) -> str:
        return f"{(self.sizes.dim + 4) * self.sizes.frames} MAC"

    # ------------------------------------------------------------------------------------------------------ training

    def loss(self, batch: Batch, *, step: int, draws: Draws) -> LossOutput:
        """Symmetric InfoNCE of the score. Draws `selection` [B, F, n, P], the noise of the choice."""
        video = batch.video
        shape = (*video.frames.shape[:2], self.config.noise_rows, _patches(video).shape[2])
        encoded = self.encode_with(video, draws.normal("selection", shape))
        found = info_nce(self.score(self.encode_text(batch.text), encoded), batch.positives())
        return LossOutput(found.total, {"t2v": found.t2v, "v2t": found.v2t})

    # ------------------------------------------------------------------------------------------------------- private

    def select(self, video: VideoFeatures, noise: Tensor) -> Tensor:
        """Return the tokens [V, F, 1 + k, D] that are kept of each frame, its class token first."""
        tokens = torch.cat([video.frames[:, :, None], _patches(video)], dim=2)
        return self.visual_token_selector(full_precision(tokens), noise)

    def contextualize(self, kept: Tensor, real: Tensor) -> Tensor:
        """Return z [V, F, D]: the class tokens of kept [V, F, E, D] when all of a clip have seen each other."""
        tokens = kept.flatten(1, 2)
        mixed = contextualize_frames(tokens, self._mask(real), self.transformerClip, self.frame_position_embeddings)
        return mixed[:, :: kept.shape[2]]

    def _mask(self, real: Tensor) -> Tensor:
        """Return which tokens [V, F E] count: those of real frames, or, as the authors have it, the mask over and over.

        Their tokens lie frame by frame, and their mask lies F by F.
        """
        each = 1 + self.config.kept_patches
        return real.repeat_interleave(each, dim=1) if self.config.mask_padding else real.repeat(1, each)

    def _seen(self, real: Tensor) -> Tensor:
        """Return which frames [V, F] are weighed: the mask where their class tokens stand."""
        return self._mask(real)[:, :: 1 + self.config.kept_patches].contiguous()

    def _encode_some(self, video: VideoFeatures) -> Encoding:
        """Encode clips whose noise is a function of their keys: the same in every batch, in query and evaluation."""
        count, frames = len(video), video.frames.shape[1]
        of_frame = torch.arange(frames, device=video.key.device).expand(count, -1)
        own = video.key[:, None].expand(-1, frames)
        rows, patches = self.config.noise_rows, _patches(video).shape[2]
        return self.encode_with(video, philox.normal(of_frame, own, rows, patches, draw=self.noise_draw))


def _patches(video: VideoFeatures) -> Tensor:
    assert video.patches is not None, "whoever builds a method has checked that its needs are met"
    return video.patches


def _starts(count: int) -> range:
    return range(0, max(count, 1), _ENCODED_AT_ONCE)
