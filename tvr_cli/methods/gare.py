"""GARE: each caption is moved by an increment made for the clip that it is compared with.

Frames go through a temporal transformer; an attention block `psi` turns the gap between mean frame and caption into an
increment Delta_ij; the score is cos(t_i + Delta_ij, p_ij) with text-guided frame pooling p_ij. Three regularisers shape
the increments in training. The pair part is the op `tvr_kernels.gare`; equations and quirks: docs/methods/gare.md.

Source: Jian Xiao et al., arXiv 2505.12499; the authors' code at e42b0e2 decides where the paper differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from tvr_kernels import gare as kernel
from tvr_kernels import text_pooling
from tvr_kernels.gare import folded
from tvr_kernels.gare.increments import increments as make_increments

from tvr_cli.errors import DataError
from tvr_cli.methods import _gare_regularisers as regularisers
from tvr_cli.methods import base
from tvr_cli.methods.base import full_precision, masked_mean, setting, unit
from tvr_cli.nn import shares
from tvr_cli.nn.losses import info_nce
from tvr_cli.nn.shares import Whole
from tvr_cli.nn.temporal import TemporalTransformer, contextualize_frames, frame_positions, start_from_text_tower
from tvr_cli.types import Batch, BatchShare, Draws, Encoding, LossOutput, Sizes, TextFeatures, VideoFeatures

SCRIPT = "authors' script (MSR-VTT)"
INIT_STD = 0.02  # of every linear and embedding weight; the identity start inside psi is overwritten by it
LOGIT_SCALE = 4.605170185988092  # ln 100, where OpenAI's checkpoints start


class Method(base.Method):
    """Score by cos(t + Delta, p); train with a symmetric InfoNCE and three regularisers of Delta."""

    needs: ClassVar[frozenset[str]] = frozenset({"frames", "pooled"})
    fidelity = "authors-code@e42b0e2"
    counts_on_length = True
    summary = "moves each caption by an increment made for the clip, with three regularisers"
    paper = "arXiv 2505.12499, NeurIPS 2025"
    # Keys of the authors' checkpoints that nothing reads: computed and discarded, or never called.
    ignored_keys: ClassVar[tuple[str, ...]] = (
        "psi.log_std_proj.*",
        "psi.layers.0.linear2.*",
        "psi.layers.0.mlp.*",
        "weight_fc.*",
    )
    bibtex = """@inproceedings{xiao2025rebalancing,
  title     = {Rebalancing Contrastive Alignment with Bottlenecked Semantic Increments in Text-Video Retrieval},
  author    = {Xiao, Jian and Song, Zijie and Hu, Jialong and Cheng, Hao and Li, Jia and Hu, Zhenzhen and
               Hong, Richang},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2025},
  note      = {arXiv:2505.12499}
}"""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Options of GARE; the defaults are those of the authors' MSR-VTT script."""

        temperature: float = setting(
            3.0, symbol="tau", source=SCRIPT, note="frame pooling; their parser's default is 5"
        )
        dropout: float = setting(0.3, source=SCRIPT, note="of psi's residual branch, per pair and feature")
        bottleneck_weight: float = setting(1e-4, symbol="beta", source=SCRIPT)
        direction_weight: float = setting(0.01, symbol="lambda_dir", source=SCRIPT)
        direction_sharpness: float = setting(2.0, symbol="alpha", source=SCRIPT)
        norm_weight: float = setting(0.01, symbol="lambda_epsilon", source=SCRIPT)
        norm_limit: float = setting(0.5, symbol="lambda_lower", source=SCRIPT, note="variance at which the term is cut")
        temporal: Literal["transformer", "none"] = setting("transformer", source=SCRIPT, note="agg_module")
        temporal_layers: int = setting(4, source=SCRIPT)
        mask_padding: bool = setting(
            False, source="ours", note="true: the increment sees real frames only; the authors let padding in"
        )

        def __post_init__(self) -> None:
            if not 0 <= self.dropout < 1:
                raise ValueError(f"dropout must be at least 0 and below 1, found {self.dropout}")
            if self.temperature <= 0:
                raise ValueError(f"temperature must be positive, found {self.temperature}")

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config, sizes)
        self.psi = _Psi(sizes.dim)
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE))
        if config.temporal == "transformer":
            self.transformerClip = TemporalTransformer(sizes.dim, config.temporal_layers)
            self.frame_position_embeddings = frame_positions(sizes.dim)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def dead(self) -> frozenset[str]:
        """The key bias adds one constant to the logits of all frames, so its gradient is zero by analysis."""
        return frozenset({"psi.layers.0.cross_attn.k_proj.bias"})

    @classmethod
    def read_checkpoint(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Sizes]:
        layers = base.temporal_layers(state)
        options = {"temporal": "transformer" if layers else "none", "temporal_layers": layers or 4}
        return options, Sizes(len(state["psi.mean_proj.weight"]), 0, 0)

    @torch.no_grad()
    def init_from_backbone(self, text_tower: Mapping[str, Tensor], logit_scale: Tensor) -> None:
        self.logit_scale.copy_(logit_scale.reshape(()))
        if self.config.temporal == "transformer":
            start_from_text_tower(self.transformerClip, self.frame_position_embeddings, text_tower)

    # ------------------------------------------------------------------------------------------------------- scoring

    def encode_text(self, text: TextFeatures) -> Encoding:
        return Encoding(text.key, kernel.text_side(full_precision(self.scaled_text(text).pooled), self.weights()))

    def encode_video(self, video: VideoFeatures) -> Encoding:
        mask = video.mask()
        frames = self.contextualize(full_precision(self.scaled_video(video).frames), mask)
        return Encoding(video.key, kernel.video_side(frames, mask, self.weights(), attend=self._attend(mask)))

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        return kernel.score(text.tensors, video.tensors, self.weights())

    def coarse(self, e: Encoding) -> Tensor:
        """Unit caption, and unit mean of the real contextual frames: the score without increment and pooling."""
        if "text" in e.tensors:
            return unit(e["text"])
        return unit(masked_mean(self._frames(e), e["mask"]))

    @property
    def rough_needs(self) -> tuple[str, ...]:
        return "columns", "vv", "mask"

    def rough(self, text: Encoding, video: Encoding) -> Tensor:
        """cos(t, p): the score without increment."""
        dtype = text["text"].dtype
        own = {"frames": self._frames(video).to(dtype), "gram": video["vv"].to(dtype), "frame_mask": video["mask"]}
        side = {"text": text["text"], "inverse_norm": text["square"].rsqrt()}
        return text_pooling.score(side, own, text_pooling.TextPoolingWeights(self.config.temperature))

    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        """The pooling weights w, renormalised over real frames."""
        frames = self._frames(video)
        logits = torch.einsum("td,vfd->tvf", text["text"], frames) / self.config.temperature
        return logits.masked_fill(~video["mask"], float("-inf")).softmax(-1)

    def cost_per_pair(self) -> str:
        slots, size = self.sizes.frames, self.sizes.dim
        forms = 2 * slots**2 + (slots + 1) ** 2 + (slots + 2) * (2 * slots + 2)
        return f"{(3 * slots + 1) * size + forms} MAC (folded; {5 * size**2 + 4 * slots * size} as published)"

    # ------------------------------------------------------------------------------------------------------ training

    def loss(self, batch: Batch, *, step: int, draws: Draws) -> LossOutput:
        return self.loss_rows(batch, Whole(len(batch)), step=step, draws=draws)

    def loss_rows(self, batch: Batch, share: BatchShare, *, step: int, draws: Draws) -> LossOutput:
        own_mask = batch.video.mask()
        own_frames = self.contextualize(full_precision(self.scaled_video(batch.video).frames), own_mask)
        frames, mask = share.gather(own_frames), share.gather(own_mask)
        positives = None if batch.video_id is None else shares.positives(batch, share)
        text = full_precision(self.scaled_text(batch.text).pooled)
        return self.objective(text, frames, mask, draws, positives, share)

    def objective(
        self,
        text: Tensor,
        frames: Tensor,
        mask: Tensor,
        draws: Draws,
        positives: Tensor | None = None,
        share: BatchShare | None = None,
    ) -> LossOutput:
        """Return the loss of B captions [B, D] and B clips of contextual frames [B, F, D], mask [B, F].

        positives: [B, B] bool, or None for the authors' diagonal: two captions of one video are then negatives. share:
        where other processes have other captions: text and positives have the rows of the own ones.
        Raises DataError for a batch of one pair, whose regularisers are undefined.
        """
        share = Whole(len(text)) if share is None else share
        if share.size < 2:
            raise DataError(
                "gare compares the increments of a batch with each other and needs at least 2 pairs in it, found "
                f"{share.size}; raise train.batch_size, or use a split with more captions"
            )
        if self.config.dropout > 0:
            keep = share.own(draws.keep("increment", (share.size, len(frames), text.shape[1]), self.config.dropout))
            scores, increments = self.explicit_pairs(text, frames, mask, keep, share)
        else:
            scores, increments = self._folded_pairs(text, frames, mask, share)
        return self.total(scores, increments, positives, share)

    def explicit_pairs(
        self, text: Tensor, frames: Tensor, mask: Tensor, keep: Tensor | None, share: BatchShare | None = None
    ) -> tuple[Tensor, regularisers.Increments]:
        """Score a batch with one increment vector a pair. keep: [T, V, D] bool, the dropout mask of psi, or None."""
        delta = make_increments(text, frames, self._attend(mask), self.weights(), keep, self.config.dropout)
        return self.score_moved(text, delta, frames, mask), regularisers.explicit(delta, share)

    def score_moved(self, text: Tensor, delta: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """Return cos(t + Delta, p) [T, V] from increments [T, V, D]; p stays folded into frame products."""
        moved = (text[:, None] + delta).transpose(0, 1)  # [V, T, D]
        logits = (frames @ text.T).masked_fill(~mask[..., None], float("-inf"))  # [V, F, T]
        weight = (logits / self.config.temperature).softmax(1)
        dot = (torch.bmm(frames, moved.mT) * weight).sum(1)  # [V, T]
        pooled = (torch.bmm(frames @ frames.mT, weight) * weight).sum(1).sqrt()
        return (dot / (moved.norm(dim=-1) * pooled)).T

    def _folded_pairs(
        self, text: Tensor, frames: Tensor, mask: Tensor, share: BatchShare
    ) -> tuple[Tensor, regularisers.Increments]:
        weights = self.weights()
        text_side = kernel.text_side(text, weights)
        video_side = kernel.video_side(frames, mask, weights, attend=self._attend(mask))
        rows = folded.increment_rows(video_side, weights)
        increments = regularisers.folded(folded.coefficients(text_side, video_side), rows, share)
        return kernel.score(text_side, video_side, weights), increments

    def total(
        self,
        scores: Tensor,
        increments: regularisers.Increments,
        positives: Tensor | None = None,
        share: BatchShare | None = None,
    ) -> LossOutput:
        """Return the loss of scores [B, B] and their increments; parts are unweighted. share: as in `objective`."""
        share, config = Whole(len(scores)) if share is None else share, self.config
        contrastive = info_nce(self.logit_scale.exp() * scores, positives, share)
        bottleneck = regularisers.bottleneck(increments).mean() / share.world
        direction = regularisers.direction(increments, config.direction_sharpness).sum() / share.size
        spread = share.sum(regularisers.spread(increments) / share.size) / share.world
        norm = regularisers.gated(spread, config.norm_limit / share.world)
        total = (
            contrastive.total
            + config.bottleneck_weight * bottleneck
            + config.direction_weight * direction
            + config.norm_weight * norm
        )
        parts = {
            "contrastive": contrastive.total,
            "t2v": contrastive.t2v,
            "v2t": contrastive.v2t,
            "bottleneck": bottleneck,
            "direction": direction,
            "norm": norm,
            "norm_ungated": spread,
        }
        return LossOutput(total, parts)

    # ------------------------------------------------------------------------------------------------------- private

    def contextualize(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return V_jf [V, F, D]: frames after the temporal transformer, missing slots as masked keys only."""
        if self.config.temporal == "none":
            return frames
        return contextualize_frames(frames, mask, self.transformerClip, self.frame_position_embeddings)

    def weights(self) -> kernel.GareWeights:
        """Return psi's parameters as the op takes them."""
        layer = self.psi.layers[0]
        attention = layer.cross_attn
        return kernel.GareWeights(
            *_pair(layer.layer_norm1),
            *_pair(attention.q_proj),
            *_pair(attention.k_proj),
            *_pair(attention.v_proj),
            *_pair(attention.out_proj),
            *_pair(layer.layer_norm2),
            *_pair(layer.linear1),
            *_pair(layer.layer_norm3),
            *_pair(self.psi.mean_proj),
            self.config.temperature,
        )

    def _attend(self, mask: Tensor) -> Tensor:
        return mask if self.config.mask_padding else torch.ones_like(mask)

    def _frames(self, video: Encoding) -> Tensor:
        return video["columns"][:, : video["mask"].shape[1]]


class _Psi(nn.Module):
    """The parameters of psi that matter, under the authors' names; the op has the computation."""

    def __init__(self, size: int):
        super().__init__()
        self.layers: Any = nn.ModuleList([_PsiLayer(size)])
        self.mean_proj = nn.Linear(size, size)


class _PsiLayer(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.cross_attn = _CrossAttention(size)
        self.layer_norm1 = nn.LayerNorm(size)
        self.layer_norm2 = nn.LayerNorm(size)
        self.layer_norm3 = nn.LayerNorm(size)
        self.linear1 = nn.Linear(size, size)


class _CrossAttention(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, size)


def _pair(module: nn.Linear | nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return module.weight, module.bias
