"""TC-MGC: text-conditioned video vectors compared at four grains, reorganised by rank, fused per pair.

Frames go through a temporal transformer; an attention block (LVA) makes one video vector for the sentence and one for
each word; the similarities keep their best ranks (SR), attend over them (ISA) and are fused by a small softmax (LSA).
Training adds the variance of the four on matching pairs (SDR). The pair part is the op `tvr_kernels.tcmgc`; equations
and quirks: docs/methods/tcmgc.md.

Source: TC-MGC, arXiv 2504.04707; the authors' code at c1575747 with its three missing attributes supplied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from tvr_kernels import tcmgc as kernel
from tvr_kernels.tcmgc import dropout as with_dropout
from tvr_kernels.tcmgc import folded

from tvr_cli.errors import ConfigError
from tvr_cli.methods import base
from tvr_cli.methods.base import full_precision, mean_direction, setting, unit
from tvr_cli.nn import shares
from tvr_cli.nn.losses import info_nce
from tvr_cli.nn.shares import Whole
from tvr_cli.nn.temporal import TemporalTransformer, contextualize_frames, frame_positions, start_from_text_tower
from tvr_cli.nn.words import check_slots, real_words
from tvr_cli.types import Batch, BatchShare, Draws, Encoding, LossOutput, Sizes, TextFeatures, VideoFeatures

CODE = "authors' code"
INIT_STD = 0.02  # of LVA's linear layer; the identity set in the authors' module is overwritten by their outer init


class Method(base.Method):
    """Score by the fusion of four similarities; train with a symmetric InfoNCE and their variance (SDR)."""

    needs: ClassVar[frozenset[str]] = frozenset({"frames", "pooled", "tokens"})
    fidelity = "patched-release@c1575747"
    summary = "text-conditioned video vectors at four grains, best ranks kept, fused per pair"
    paper = "Text-Conditioned Multi-Grained Contrast, Information Fusion 2025, arXiv 2504.04707"
    # Keys of the authors' checkpoints that nothing reads: LVA's projections are never called.
    ignored_keys: ClassVar[tuple[str, ...]] = ("conditional_transformer.pool_frames.cross_attn.*",)
    bibtex = """@article{tcmgc2025,
  title   = {{TC-MGC}: Text-Conditioned Multi-Grained Contrast},
  journal = {Information Fusion},
  year    = {2025},
  note    = {arXiv:2504.04707; code: github.com/JingXiaolun/TC-MGC}
}"""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Options of TC-MGC; the defaults are those of the authors' parser, which their README leaves alone."""

        keep_rate: float = setting(0.1, symbol="rho", source=CODE, note="k = int(L rho) ranks are kept")
        softmax_lambda: float = setting(100.0, symbol="lambda", source=CODE, note="of both softmaxes of ISA")
        sdr_weight: float = setting(0.5, source=CODE)
        lva_heads: int = setting(1, symbol="H", source=CODE)
        dropout: float = setting(0.3, source=CODE, note="of LVA's linear branch; 0 trains in the fast folded form")
        temporal: Literal["transformer", "none"] = setting(
            "transformer", source="authors' scripts", note="none is ours: their code crashes without it"
        )
        temporal_layers: int = setting(4, source="authors' scripts")
        mask_padding: bool = setting(
            False, source="ours", note="true: only real frames and tokens take part; the authors let padding in"
        )

        def __post_init__(self) -> None:
            if not 0 <= self.dropout < 1:
                raise ConfigError(f"tcmgc: dropout must be at least 0 and below 1, found {self.dropout}")
            if not 0 < self.keep_rate <= 1:
                raise ConfigError(f"tcmgc: keep_rate must be above 0 and at most 1, found {self.keep_rate}")

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config, sizes)
        dim, kept = sizes.dim, int(sizes.words * config.keep_rate)  # truncated, as the authors do
        if kept < 1:
            raise ConfigError(
                f"tcmgc keeps int({sizes.words} words x keep_rate {config.keep_rate}) = 0 ranks, which makes two of "
                f"its similarities constant; set keep_rate to at least {1 / sizes.words:.3g}"
            )
        if dim % config.lva_heads:
            raise ConfigError(f"tcmgc: lva_heads must divide the feature size {dim}, found {config.lva_heads}")
        self.global_mat_weight = nn.Parameter(torch.eye(dim))
        self.local_mat_weight = nn.Parameter(torch.eye(dim))
        self.attentive_word_logit_weight = nn.Parameter(torch.eye(kept))
        self.concat_frame_word_logit_weight = nn.Parameter(torch.eye(kept + 1))
        self.attentive_word_mat_weight = nn.Parameter(torch.eye(kept))
        self.attentive_frame_word_mat_weight = nn.Parameter(torch.eye(kept))
        self.attentive_frame_word_mat_weight2 = nn.Parameter(torch.eye(kept))
        self.attentive_word_mat_weight2 = nn.Parameter(torch.eye(kept))
        self.logit_weight = nn.Parameter(torch.eye(4))  # missing in the release; the identity is an assumption
        self.logit_scale = nn.Parameter(torch.tensor(math.log(100.0)))  # where OpenAI's checkpoints start
        self.conditional_transformer = _Conditional(dim)
        if config.temporal == "transformer":
            self.transformerClip = TemporalTransformer(dim, config.temporal_layers)
            self.frame_position_embeddings = frame_positions(dim)

    @classmethod
    def read_checkpoint(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Sizes]:
        # k ranks are int(L rho), and a checkpoint holds k alone: the papers' L are tried with their rho, 0.1.
        kept, layers = len(state["attentive_word_logit_weight"]), base.temporal_layers(state)
        words = next((length for length in (32, 64) if int(length * 0.1) == kept), 0)
        options = {"temporal": "transformer" if layers else "none", "temporal_layers": layers or 4}
        return options, Sizes(len(state["global_mat_weight"]), 0, words)

    @torch.no_grad()
    def init_from_backbone(self, text_tower: Mapping[str, Tensor], logit_scale: Tensor) -> None:
        self.logit_scale.copy_(logit_scale.reshape(()))
        if self.config.temporal == "transformer":
            start_from_text_tower(self.transformerClip, self.frame_position_embeddings, text_tower)

    # ------------------------------------------------------------------------------------------------------- scoring

    def encode_text(self, text: TextFeatures) -> Encoding:
        words = check_slots("tcmgc", text, self.sizes.words)
        mask = real_words(text) if self.config.mask_padding else None
        side = kernel.text_side(full_precision(text.pooled), full_precision(words), self.weights(), mask)
        return Encoding(text.key, side)

    def encode_video(self, video: VideoFeatures) -> Encoding:
        mask = video.mask()
        return self._video_side(video.key, self.contextualize(full_precision(video.frames), mask), mask)

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        return kernel.score(text.tensors, video.tensors, self.weights())

    def score_scale(self) -> float:
        return float(self.logit_scale.detach().exp())

    def similarities(self, text: Encoding, video: Encoding) -> Tensor:
        """Return video-sentence, video-word, sentence-frame, frame-word [4, T, V], times the scale; no dropout."""
        return self.logit_scale.exp() * kernel.similarities(text.tensors, video.tensors, self.weights())

    def coarse(self, e: Encoding) -> Tensor:
        """Unit sentence as the video-sentence similarity maps it, and the mean direction of the real frames."""
        return unit(e["mapped"]) if "mapped" in e.tensors else e["mean"]

    @property
    def rough_needs(self) -> tuple[str, ...]:
        return ("columns", "forms", "mask") if self.config.mask_padding else ("columns", "forms")

    def rough(self, text: Encoding, video: Encoding) -> Tensor:
        """The video-sentence similarity, one of the four."""
        return folded.video_sentence(text.tensors, video.tensors, self.weights())

    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        """The sentence's attention over frames, the mean of the heads, renormalised over real frames."""
        heads, (clips, slots) = self.config.lva_heads, video["real"].shape
        kappa = video["columns"][:, : heads * slots]
        dots = torch.einsum("td,vnd->tvn", text["query"][:, -1], kappa) / (self.sizes.dim // heads) ** 0.5
        logits = dots.view(-1, clips, heads, slots).masked_fill(~video["real"][:, None], float("-inf"))
        return logits.softmax(-1).mean(2)

    def pair_bytes(self) -> int:
        return 256  # the op works in blocks of its own; this leaves room for the encodings of a tile's rows

    def cost_per_pair(self) -> str:
        dim, frames, words = self.sizes.dim, self.sizes.frames * self.config.lva_heads, self.sizes.words
        folded = (3 * words + 3) * frames * dim + 3 * (words + 1) * frames**2 + words**2 * frames
        published = 2 * (words + 1) * (2 * frames * dim + dim**2) + words**2 * dim + 2 * words * dim
        return f"{folded} MAC (folded; {published} as published)"

    # ------------------------------------------------------------------------------------------------------ training

    def loss(self, batch: Batch, *, step: int, draws: Draws) -> LossOutput:
        """InfoNCE on the fused score + sdr_weight * SDR. Draws LVA's dropout masks, one pair of them a caption."""
        return self.loss_rows(batch, Whole(len(batch)), step=step, draws=draws)

    def loss_rows(self, batch: Batch, share: BatchShare, *, step: int, draws: Draws) -> LossOutput:
        text, mask = self.encode_text(batch.text), batch.video.mask()
        frames = self.contextualize(full_precision(batch.video.frames), mask)
        video = self._video_side(share.gather(batch.video.key), share.gather(frames), share.gather(mask))
        if self.config.dropout > 0:
            scaled = self.similarities_with_dropout(text, video, draws, share.first)
        else:
            scaled = self.similarities(text, video)
        contrastive = info_nce(kernel.fuse(scaled, self.logit_weight), shares.positives(batch, share), share)
        # SDR: unbiased variance of the four on matching pairs
        disagreement = scaled.var(0).diagonal(share.first).sum() / share.size
        parts = {
            "t2v": contrastive.t2v,
            "v2t": contrastive.v2t,
            "contrastive": contrastive.total,
            "sdr": disagreement,
        }
        return LossOutput(contrastive.total + self.config.sdr_weight * disagreement, parts)

    def similarities_with_dropout(self, text: Encoding, video: Encoding, draws: Draws, first: int = 0) -> Tensor:
        """Return `similarities` of a training batch, every pair with masks of its own.

        first: number of the first caption, where the captions are part of a batch.
        """
        clips, words, dim = len(video), self.sizes.words, self.sizes.dim

        def keep(caption: int) -> Tensor:
            for_words = draws.keep(f"dropout_frame.{first + caption}", (clips, words, dim), self.config.dropout)
            for_sentence = draws.keep(f"dropout_video.{first + caption}", (clips, dim), self.config.dropout)
            return torch.cat([for_words, for_sentence[:, None]], 1)  # [V, L + 1, D]

        similarities = with_dropout.similarities(text.tensors, video.tensors, self.weights(), keep, self.config.dropout)
        return self.logit_scale.exp() * similarities

    # ------------------------------------------------------------------------------------------------------- private

    def contextualize(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return z [V, F, D]: frames after the temporal transformer, missing slots as masked keys only."""
        if self.config.temporal == "none":
            return frames
        return contextualize_frames(frames, mask, self.transformerClip, self.frame_position_embeddings)

    def _video_side(self, key: Tensor, frames: Tensor, mask: Tensor) -> Encoding:
        """Return the encoding of clips whose frames [V, F, D] have passed the temporal transformer."""
        side = kernel.video_side(frames, self.weights(), mask if self.config.mask_padding else None)
        return Encoding(key, {**side, "mean": mean_direction(frames, mask), "real": mask})

    def weights(self) -> kernel.TcmgcWeights:
        """Return the head's parameters as the op takes them."""
        block = self.conditional_transformer.pool_frames
        return kernel.TcmgcWeights(
            norm1_weight=block.layer_norm1.weight,
            norm1_bias=block.layer_norm1.bias,
            norm2_weight=block.layer_norm2.weight,
            norm2_bias=block.layer_norm2.bias,
            norm3_weight=block.layer_norm3.weight,
            norm3_bias=block.layer_norm3.bias,
            linear_weight=block.linear_proj.weight,
            linear_bias=block.linear_proj.bias,
            global_map=self.global_mat_weight,
            local_map=self.local_mat_weight,
            video_word=self.attentive_word_logit_weight,
            sentence_frame=self.concat_frame_word_logit_weight,
            over_words=self.attentive_word_mat_weight,
            over_frames=self.attentive_frame_word_mat_weight,
            then_frames=self.attentive_frame_word_mat_weight2,
            then_words=self.attentive_word_mat_weight2,
            fusion=self.logit_weight,
            scale=self.logit_scale.exp(),
            sharpness=self.config.softmax_lambda,
            heads=self.config.lva_heads,
        )


class _Conditional(nn.Module):
    """Holds LVA's parameters under the authors' names; the op has the computation."""

    def __init__(self, dim: int):
        super().__init__()
        self.pool_frames = _PoolFrames(dim)


class _PoolFrames(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(dim)
        self.layer_norm2 = nn.LayerNorm(dim)
        self.layer_norm3 = nn.LayerNorm(dim)
        self.linear_proj = nn.Linear(dim, dim)
        nn.init.normal_(self.linear_proj.weight, std=INIT_STD)
        nn.init.zeros_(self.linear_proj.bias)
