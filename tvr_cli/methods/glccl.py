"""GLCCL: four similarities of a caption and a clip by text-guided pooling, trained to agree where they match.

Frames go through a temporal transformer; the sentence and every word pool them (GLIM); video-sentence, video-word,
sentence-frame and frame-word similarities are averaged. The CSC loss wants their variance small on matching pairs,
relative to the others. The pair part is the op `tvr_kernels.glccl`; equations and quirks: docs/methods/glccl.md.

Source: GLCCL, arXiv 2605.17959; the authors' code at abe7659 decides where the paper differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from tvr_kernels import glccl as kernel
from tvr_kernels.glccl import folded

from tvr_cli.errors import ConfigError
from tvr_cli.methods import base
from tvr_cli.methods.base import full_precision, mean_direction, setting, unit
from tvr_cli.nn import shares
from tvr_cli.nn.losses import info_nce, negatives
from tvr_cli.nn.shares import Whole
from tvr_cli.nn.temporal import TemporalTransformer, contextualize_frames, frame_positions, start_from_text_tower
from tvr_cli.nn.words import check_slots, real_words
from tvr_cli.types import Batch, BatchShare, Draws, Encoding, LossOutput, Sizes, TextFeatures, VideoFeatures

CODE = "authors' code"


class Method(base.Method):
    """Score by the mean of four similarities; train with a symmetric InfoNCE and the consistency loss (CSC)."""

    needs: ClassVar[frozenset[str]] = frozenset({"frames", "pooled", "tokens"})
    fidelity = "authors-code@abe7659"
    counts_on_length = True
    summary = "mean of four similarities by text-guided pooling, trained to be consistent"
    paper = "Global-Local Contrastive Consistency Learning, CAC 2025, arXiv 2605.17959"
    # Keys of the authors' checkpoints that nothing reads: of variants that their released path does not take.
    ignored_keys: ClassVar[tuple[str, ...]] = ("visual_logit_weight", "mlp.*")
    bibtex = """@inproceedings{glccl2025,
  title     = {Global-Local Contrastive Consistency Learning},
  booktitle = {CAC},
  year      = {2025},
  note      = {arXiv:2605.17959; code: github.com/JingXiaolun/GLCCL}
}"""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Options of GLCCL; the defaults are those of the authors' README."""

        csc_weight: float = setting(
            0.5, symbol="lambda", source="authors' README", note="0.1 is their parser's default and in older scripts"
        )
        pooling_temperature: float = setting(5.0, source=CODE, note="of GLIM, divides raw dot products")
        isa_temperature: float = setting(0.01, source=CODE, note="of the attention over similarities")
        temporal: Literal["transformer", "none"] = setting("transformer", source="authors' scripts", note="sim_header")
        temporal_layers: int = setting(4, source="authors' scripts")
        mask_padding: bool = setting(
            False, source="ours", note="true: only real frames and tokens take part; the authors let padding in"
        )

        def __post_init__(self) -> None:
            if self.pooling_temperature <= 0 or self.isa_temperature <= 0:
                raise ConfigError(
                    "glccl divides by its temperatures, which must be positive; found pooling_temperature "
                    f"{self.pooling_temperature} and isa_temperature {self.isa_temperature}"
                )

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config, sizes)
        dim, words = sizes.dim, sizes.words
        self.global_mat_weight = nn.Parameter(torch.eye(dim))
        self.local_mat_weight = nn.Parameter(torch.eye(dim))
        self.word_logit_weight = nn.Parameter(torch.eye(words))
        self.word_frame_logit_weight = nn.Parameter(torch.eye(words))
        self.word_mat_weight = nn.Parameter(torch.eye(words))
        self.word_frame_mat_weight = nn.Parameter(torch.eye(words))
        self.word_frame_mat_weight2 = nn.Parameter(torch.eye(words))
        self.word_mat_weight2 = nn.Parameter(torch.eye(words))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(100.0)))  # where OpenAI's checkpoints start
        if config.temporal == "transformer":
            self.transformerClip = TemporalTransformer(dim, config.temporal_layers)
            self.frame_position_embeddings = frame_positions(dim)

    @classmethod
    def read_checkpoint(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Sizes]:
        layers = base.temporal_layers(state)
        options = {"temporal": "transformer" if layers else "none", "temporal_layers": layers or 4}
        frames = len(state["visual_logit_weight"]) if "visual_logit_weight" in state else 0
        return options, Sizes(len(state["global_mat_weight"]), frames, len(state["word_logit_weight"]))

    @torch.no_grad()
    def init_from_backbone(self, text_tower: Mapping[str, Tensor], logit_scale: Tensor) -> None:
        self.logit_scale.copy_(logit_scale.reshape(()))
        if self.config.temporal == "transformer":
            start_from_text_tower(self.transformerClip, self.frame_position_embeddings, text_tower)

    # ------------------------------------------------------------------------------------------------------- scoring

    def encode_text(self, text: TextFeatures) -> Encoding:
        text = self.scaled_text(text)
        words = check_slots("glccl", text, self.sizes.words)
        mask = real_words(text) if self.config.mask_padding else None
        side = kernel.text_side(full_precision(text.pooled), full_precision(words), self.weights(), mask)
        return Encoding(text.key, side)

    def encode_video(self, video: VideoFeatures) -> Encoding:
        mask = video.mask()
        frames = self.contextualize(full_precision(self.scaled_video(video).frames), mask)
        return self._video_side(video.key, frames, mask)

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        return self.logit_scale.exp() * kernel.score(text.tensors, video.tensors, self.weights())

    def score_scale(self) -> float:
        return float(self.logit_scale.detach().exp())

    def similarities(self, text: Encoding, video: Encoding) -> Tensor:
        """Return video-sentence, video-word, sentence-frame, frame-word [4, T, V], times the scale."""
        return self.logit_scale.exp() * kernel.similarities(text.tensors, video.tensors, self.weights())

    def coarse(self, e: Encoding) -> Tensor:
        """Unit sentence as the video-sentence similarity maps it, and the mean direction of the real frames."""
        return unit(e["mapped"]) if "mapped" in e.tensors else mean_direction(_frames(e), e["real"])

    @property
    def rough_needs(self) -> tuple[str, ...]:
        return ("columns", "gram", "mask") if self.config.mask_padding else ("columns", "gram")

    def rough(self, text: Encoding, video: Encoding) -> Tensor:
        """The video-sentence similarity, one of the four."""
        return folded.video_sentence(text.tensors, video.tensors, self.weights())

    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        """The sentence's pooling weights, renormalised over real frames."""
        sentence = text["query"][:, -1] * text["norm"][:, -1:]
        logits = torch.einsum("td,vfd->tvf", sentence, _frames(video)) / self.config.pooling_temperature
        return logits.masked_fill(~video["real"], float("-inf")).softmax(-1)

    def pair_bytes(self) -> int:
        return 256  # the op works in blocks of its own; this leaves room for the encodings of a tile's rows

    def cost_per_pair(self) -> str:
        dim, frames, words = self.sizes.dim, self.sizes.frames, self.sizes.words
        isa = 2 * words**3 + 6 * words**2
        folded = (2 * words + 2) * frames * dim + (words + 1) * frames**2 + words**2 * frames + isa
        published = 2 * (words + 1) * frames * dim + 2 * words * dim + words**2 * dim + isa
        return f"{folded} MAC (folded; {published} as published)"

    # ------------------------------------------------------------------------------------------------------ training

    def loss(self, batch: Batch, *, step: int, draws: Draws) -> LossOutput:
        """InfoNCE on the mean similarity + csc_weight * CSC. Draws nothing."""
        return self.loss_rows(batch, Whole(len(batch)), step=step, draws=draws)

    def loss_rows(self, batch: Batch, share: BatchShare, *, step: int, draws: Draws) -> LossOutput:
        text, mask = self.encode_text(batch.text), batch.video.mask()
        frames = self.contextualize(full_precision(self.scaled_video(batch.video).frames), mask)
        video = self._video_side(share.gather(batch.video.key), share.gather(frames), share.gather(mask))
        scaled = self.similarities(text, video)
        positives = shares.positives(batch, share)
        contrastive = info_nce(scaled.mean(0), positives, share)
        consistency = csc(scaled, positives, share)
        parts = {
            "t2v": contrastive.t2v,
            "v2t": contrastive.v2t,
            "contrastive": contrastive.total,
            "csc": consistency["csc"],
            "csc_positive": consistency["positive"],
            "csc_negative": consistency["negative"],
        }
        return LossOutput(contrastive.total + self.config.csc_weight * consistency["csc"], parts)

    # ------------------------------------------------------------------------------------------------------- private

    def contextualize(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return z [V, F, D]: frames after the temporal transformer, missing slots as masked keys only."""
        if self.config.temporal == "none":
            return frames
        return contextualize_frames(frames, mask, self.transformerClip, self.frame_position_embeddings)

    def _video_side(self, key: Tensor, frames: Tensor, mask: Tensor) -> Encoding:
        """Return the encoding of clips whose frames [V, F, D] have passed the temporal transformer."""
        side = kernel.video_side(frames, self.weights(), mask if self.config.mask_padding else None)
        return Encoding(key, {**side, "real": mask})

    def weights(self) -> kernel.GlcclWeights:
        """Return the head's parameters as the op takes them."""
        return kernel.GlcclWeights(
            global_map=self.global_mat_weight,
            local_map=self.local_mat_weight,
            video_word=self.word_logit_weight,
            sentence_frame=self.word_frame_logit_weight,
            over_words=self.word_mat_weight,
            over_frames=self.word_frame_mat_weight,
            then_frames=self.word_frame_mat_weight2,
            then_words=self.word_mat_weight2,
            temperature=self.config.pooling_temperature,
            isa_temperature=self.config.isa_temperature,
        )


def csc(scaled: Tensor, positives: Tensor, share: BatchShare | None = None) -> dict[str, Tensor]:
    """Return the consistency loss `csc` = `positive` / `negative`, its variances on matching and other pairs.

    scaled: [4, B, B], of which the unbiased variance over the four is taken; its scale cancels. positives: [B, B] bool.
    The negatives' mean divides by all B^2 cells, as the authors have it, so the ratio is B / (B - 1) times a ratio of
    means. A batch without negatives (the authors' 0 / 0) has csc 0. share: where other processes have other captions,
    scaled is [4, b, B] and positives [b, B], and what is returned are this process' terms of sums over all.
    """
    share = Whole(len(positives)) if share is None else share
    variance = scaled.var(0)  # [b, B]
    positive = variance.diagonal(share.first).sum() / share.size
    others = negatives(positives, share)
    negative = (variance * others).sum() / share.size**2
    count, above, below = share.sum(others.sum()), share.sum(positive), share.sum(negative)
    ratio = above / below if count else 0.0 * above  # of the whole batch: ratios of its parts do not add up to it
    return {"csc": ratio / share.world, "positive": positive, "negative": negative}


def _frames(video: Encoding) -> Tensor:
    return video["columns"][:, : video["real"].shape[1]]
