"""X-CLIP: a caption and a clip compared as wholes and as parts, four similarities of which the mean is taken.

Frames go through a temporal transformer to the clip's vector; words and frames are compared as they are. Attention over
similarities (AOSM) makes one number of each group. The pair part is the op `tvr_kernels.xclip`; equations and quirks:
docs/methods/xclip.md.

Source: Yiwei Ma et al., arXiv 2207.07285; the authors' code at 6b5344f decides where the paper differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from tvr_kernels import xclip as kernel
from tvr_kernels.xclip import folded

from tvr_cli import commands
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.methods import base
from tvr_cli.methods.base import full_precision, mean_direction, setting, unit
from tvr_cli.nn import shares
from tvr_cli.nn.losses import info_nce
from tvr_cli.nn.shares import Whole
from tvr_cli.nn.temporal import TemporalTransformer, contextualize_frames, frame_positions, start_from_text_tower
from tvr_cli.nn.words import check_slots, real_words
from tvr_cli.types import Batch, BatchShare, Draws, Encoding, LossOutput, Sizes, TextFeatures, VideoFeatures

CODE = "authors' code"
SCRIPTS = "authors' scripts"


class Method(base.Method):
    """Score by the mean of four similarities; train with a symmetric InfoNCE."""

    needs: ClassVar[frozenset[str]] = frozenset({"frames", "pooled", "tokens"})
    fidelity = "authors-code@6b5344f"
    summary = "mean of four similarities: clip and frames against sentence and words"
    paper = "X-CLIP: End-to-End Multi-grained Contrastive Learning, ACM MM 2022, arXiv 2207.07285"
    bibtex = """@inproceedings{ma2022xclip,
  title     = {{X-CLIP}: End-to-End Multi-grained Contrastive Learning for Video-Text Retrieval},
  author    = {Ma, Yiwei and Xu, Guohai and Sun, Xiaoshuai and Yan, Ming and Zhang, Ji and Ji, Rongrong},
  booktitle = {Proceedings of the 30th ACM International Conference on Multimedia},
  year      = {2022},
  note      = {arXiv:2207.07285}
}"""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Options of X-CLIP; the defaults are those of its authors' scripts."""

        isa_temperature: float = setting(0.01, source=CODE, note="of the attention over similarities")
        temporal: Literal["transformer", "none"] = setting("transformer", source=SCRIPTS, note="sim_header")
        temporal_layers: int = setting(4, source=SCRIPTS)
        mask_padding: bool = setting(
            False, source="ours", note="true: only real frames and tokens take part; the authors let padding in"
        )

        def __post_init__(self) -> None:
            if self.isa_temperature <= 0:
                raise ConfigError(
                    "xclip divides by its temperature, which must be positive; "
                    f"found isa_temperature {self.isa_temperature}"
                )

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config, sizes)
        dim, frames, words = sizes.dim, sizes.frames, sizes.words
        self.global_mat_weight = nn.Parameter(torch.eye(dim))
        self.local_mat_weight = nn.Parameter(torch.eye(dim))
        self.word_logit_weight = nn.Parameter(torch.eye(words))
        self.frame_logit_weight = nn.Parameter(torch.eye(frames))
        self.word_mat_weight = nn.Parameter(torch.eye(words))
        self.frame_mat_weight = nn.Parameter(torch.eye(frames))
        self.word_mat_weight2 = nn.Parameter(torch.eye(words))
        self.frame_mat_weight2 = nn.Parameter(torch.eye(frames))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(100.0)))  # where OpenAI's checkpoints start
        if config.temporal == "transformer":
            self.transformerClip = TemporalTransformer(dim, config.temporal_layers)
            self.frame_position_embeddings = frame_positions(dim)

    @classmethod
    def read_checkpoint(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Sizes]:
        layers = base.temporal_layers(state)
        options = {"temporal": "transformer" if layers else "none", "temporal_layers": layers or 4}
        names = ("global_mat_weight", "frame_logit_weight", "word_logit_weight")
        return options, Sizes(*(len(state[name]) for name in names))

    @torch.no_grad()
    def init_from_backbone(self, text_tower: Mapping[str, Tensor], logit_scale: Tensor) -> None:
        self.logit_scale.copy_(logit_scale.reshape(()))
        if self.config.temporal == "transformer":
            start_from_text_tower(self.transformerClip, self.frame_position_embeddings, text_tower)

    # ------------------------------------------------------------------------------------------------------- scoring

    def encode_text(self, text: TextFeatures) -> Encoding:
        words = check_slots("xclip", text, self.sizes.words)
        mask = real_words(text) if self.config.mask_padding else None
        side = kernel.text_side(full_precision(text.pooled), full_precision(words), self.weights(), mask)
        return Encoding(text.key, side)

    def encode_video(self, video: VideoFeatures) -> Encoding:
        """The clip's vector is of contextualised frames, its frames are the backbone's (the authors recommend it)."""
        return self._video_side(*self._clips(video))

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        return self.logit_scale.exp() * kernel.score(text.tensors, video.tensors, self.weights())

    def score_scale(self) -> float:
        return float(self.logit_scale.detach().exp())

    def similarities(self, text: Encoding, video: Encoding) -> Tensor:
        """Return video-sentence, video-word, sentence-frame, frame-word [4, T, V], times the scale."""
        return self.logit_scale.exp() * kernel.similarities(text.tensors, video.tensors, self.weights())

    def coarse(self, e: Encoding) -> Tensor:
        """Unit sentence as the video-sentence similarity maps it, and the clip's vector."""
        return unit(e["mapped"]) if "mapped" in e.tensors else e["video"]

    @property
    def rough_needs(self) -> tuple[str, ...]:
        return ("video", "frames", "mask") if self.config.mask_padding else ("video", "frames")

    def rough(self, text: Encoding, video: Encoding) -> Tensor:
        """The two of the four similarities that need no words."""
        return folded.of_the_sentence(text.tensors, video.tensors, self.weights())

    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        """The sentence's attention over the frames, renormalised over real ones."""
        logits = torch.einsum("td,vfd->tvf", text["sentence"], video["frames"]) / self.config.isa_temperature
        return logits.masked_fill(~video["real"], float("-inf")).softmax(-1)

    def pair_bytes(self) -> int:
        return 256  # the op works in blocks of its own; this leaves room for the encodings of a tile's rows

    def cost_per_pair(self) -> str:
        dim, frames, words = self.sizes.dim, self.sizes.frames, self.sizes.words
        attention = (frames + 2) * words**2 + (words + 2) * frames**2
        return f"{(words + 1) * (frames + 1) * dim + attention} MAC"

    # ------------------------------------------------------------------------------------------------------ training

    def loss(self, batch: Batch, *, step: int, draws: Draws) -> LossOutput:
        """InfoNCE on the mean similarity. Draws nothing."""
        return self.loss_rows(batch, Whole(len(batch)), step=step, draws=draws)

    def loss_rows(self, batch: Batch, share: BatchShare, *, step: int, draws: Draws) -> LossOutput:
        text = self.encode_text(batch.text)
        video = self._video_side(*(share.gather(x) for x in self._clips(batch.video)))
        loss = info_nce(self.score(text, video), shares.positives(batch, share), share)
        return LossOutput(loss.total, {"t2v": loss.t2v, "v2t": loss.v2t})

    # ------------------------------------------------------------------------------------------------------- private

    def contextualize(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return z [V, F, D]: frames after the temporal transformer, missing slots as masked keys only."""
        if self.config.temporal == "none":
            return frames
        return contextualize_frames(frames, mask, self.transformerClip, self.frame_position_embeddings)

    def _clips(self, video: VideoFeatures) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what encodings are made of: keys [V], vectors [V, D], frames [V, F, D] and which are real [V, F]."""
        self._check_frames(video)
        frames, mask = full_precision(video.frames), video.mask()
        return video.key, mean_direction(self.contextualize(frames, mask), mask), frames, mask

    def _video_side(self, key: Tensor, whole: Tensor, frames: Tensor, mask: Tensor) -> Encoding:
        """Return the encoding of clips, from what `_clips` makes of them."""
        side = kernel.video_side(whole, frames, mask if self.config.mask_padding else None)
        return Encoding(key, {**side, "real": mask})

    def weights(self) -> kernel.XClipWeights:
        """Return the head's parameters as the op takes them."""
        return kernel.XClipWeights(
            global_map=self.global_mat_weight,
            local_map=self.local_mat_weight,
            video_word=self.word_logit_weight,
            sentence_frame=self.frame_logit_weight,
            over_words=self.word_mat_weight,
            over_frames=self.frame_mat_weight,
            then_frames=self.frame_mat_weight2,
            then_words=self.word_mat_weight2,
            isa_temperature=self.config.isa_temperature,
        )

    def _check_frames(self, video: VideoFeatures) -> None:
        slots = video.frames.shape[1]
        if slots != self.sizes.frames:
            extract = commands.tvr("extract-frames", max_frames=self.sizes.frames)
            raise DataError(
                f"xclip was made for {self.sizes.frames} frame slots a clip, but the video features have {slots}; "
                f"run {extract} and {commands.tvr('precompute-features', shape='fixed')}"
            )
