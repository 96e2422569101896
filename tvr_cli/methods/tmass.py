"""T-MASS: a caption is a mass of candidates around it, as wide as its cosines with the clip's frames say.

X-Pool pools the frames for the caption; S candidates are drawn in a radius of the pair, and the best one's cosine is
the score. Training draws one candidate a matching pair, and a support text on the mass's edge. The radius is
`nn.radius`, the pooling `nn.xpool`, the pair part `_tmass_trials`. Equations, and what the authors' released test ranks
instead of this score: docs/methods/tmass.md.

Source: T-MASS, CVPR 2024, arXiv 2403.17998; the authors' code at 417fdf1 decides where the paper differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from tvr_kernels import xpool as kernel
from tvr_kernels.eaglenet import reference
from tvr_kernels.xpool import folded

from tvr_cli.errors import ConfigError
from tvr_cli.methods import _tmass_trials as mass
from tvr_cli.methods import base
from tvr_cli.methods.base import full_precision, mean_direction, setting, unit
from tvr_cli.nn import shares
from tvr_cli.nn.losses import info_nce
from tvr_cli.nn.radius import Radius
from tvr_cli.nn.shares import Whole
from tvr_cli.nn.xpool import XPool, frame_weights, linear_keep
from tvr_cli.types import Batch, BatchShare, Draws, Encoding, LossOutput, Sizes, TextFeatures, VideoFeatures

README = "authors' README, MSR-VTT-9k command"
PARSER = "authors' parser"


class Method(base.Method):
    """Score by the best of S candidates' cosines with the frames that the caption pools."""

    fidelity = "authors-code@417fdf1"
    summary = "the best of candidates scattered around a caption, against frames pooled for it"
    paper = "T-MASS, CVPR 2024, arXiv 2403.17998"
    rules: ClassVar[tuple[str, ...]] = ("authors",)
    ignored_keys: ClassVar[tuple[str, ...]] = ("stochastic.std_branch.learnable_scalar",)  # never used
    bibtex = """@inproceedings{wang2024text,
  title     = {Text Is {MASS}: Modeling as Stochastic Embedding for Text-Video Retrieval},
  author    = {Wang, Jiamian and Sun, Guohao and Wang, Pichao and Liu, Dongfang and Dianat, Sohail and Rabbani, Majid
               and Rao, Raghuveer and Tao, Zhiqiang},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2024}
}"""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Options of T-MASS; the defaults are those of the authors' MSR-VTT 9k command."""

        trials: int = setting(20, symbol="S", source=README, note="of an evaluation")
        prior: Literal["uniform", "normal"] = setting("uniform", source=PARSER, note="uniform is U[0, 1), not centred")
        prior_std: float = setting(1.0, source=PARSER, note="of the normal prior; LSMDC: 3e-3")
        support_weight: float = setting(0.8, symbol="w", source=README, note="0 for LSMDC and DiDeMo")
        dropout: float = setting(
            0.3, symbol="transformer_dropout", source=README, note="of X-Pool's linear branch, per pair and feature"
        )
        mask_padding: bool = setting(
            True, source="ours", note="missing frames take no part; the authors' loader has none, it repeats the last"
        )

        def __post_init__(self) -> None:
            if not 0 <= self.dropout < 1:
                raise ConfigError(f"tmass: dropout must be at least 0 and below 1, found {self.dropout}")
            if self.trials < 1:
                raise ConfigError(f"tmass: trials must be at least 1, found {self.trials}")

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config, sizes)
        self.noise_draw = 0  # which repetition of the draws `score` uses (`--noise-seeds`)
        self.pool_frames = XPool(sizes.dim)
        self.stochastic = Radius(sizes.dim, sizes.frames)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(100.0)))  # where CLIP's checkpoints start

    def dead(self) -> frozenset[str]:
        """The key bias adds one constant to the logits of all frames, so its gradient is zero by analysis."""
        return frozenset({"pool_frames.cross_attn.k_proj.bias"})

    @classmethod
    def read_checkpoint(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Sizes]:
        dim, frames = state["stochastic.std_branch.linear_proj.weight"].shape
        return {}, Sizes(dim, frames, 0)

    @torch.no_grad()
    def init_from_backbone(self, text_tower: Mapping[str, Tensor], logit_scale: Tensor) -> None:
        self.logit_scale.copy_(logit_scale.reshape(()))

    # ------------------------------------------------------------------------------------------------------- scoring

    def encode_text(self, text: TextFeatures) -> Encoding:
        return Encoding(text.key, kernel.text_side(full_precision(text.pooled), self.pool_frames.weights()))

    def encode_video(self, video: VideoFeatures) -> Encoding:
        frames, real = full_precision(video.frames), video.mask()
        seen = self._seen(real)
        side = kernel.video_side(frames, self.pool_frames.weights(), seen)
        length = frames.norm(dim=-1)
        per_length = torch.where(seen & (length > 0), 1 / length.clamp_min(torch.finfo(length.dtype).tiny), 0.0)
        return Encoding(video.key, {**side, "per_length": per_length, "real": real.clone()})

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        return self.score_with(text, video)

    def score_with(self, text: Encoding, video: Encoding, sigma: Tensor | None = None) -> Tensor:
        """`score`, with draws [V, T, S, D] (already scaled) of one's own."""
        return mass.best(*self._sides(text, video), self._head(), sigma)

    def score_by_rule(self, rule: str, text: Encoding, video: Encoding, own: Encoding) -> Tensor:
        """The rule `authors` of their released test: the best trial against what the clip's own caption pools."""
        return self.score_for_own(text, video, own)

    def score_for_own(self, text: Encoding, video: Encoding, own: Encoding, sigma: Tensor | None = None) -> Tensor:
        """`score_by_rule`, with draws of one's own."""
        pooled = self.pool_frames(own["text"][None], video["frames"], self._seen(video["real"]))[0]  # [V, D]
        return mass.best_for_own(*self._sides(text, video), pooled, self._head(), sigma)

    def coarse(self, e: Encoding) -> Tensor:
        """Unit caption, and the mean direction of the real frames."""
        return unit(e["text"]) if "text" in e.tensors else mean_direction(e["frames"], e["real"])

    @property
    def rough_needs(self) -> tuple[str, ...]:
        return ("key", "key_bias", "value", "forms", "constants")

    def rough(self, text: Encoding, video: Encoding) -> Tensor:
        """X-Pool's score: the cosine of the caption itself."""
        own = {name: x.to(text["text"].dtype) for name, x in video.tensors.items() if name in self.rough_needs}
        return folded.score(text.tensors, own, self.pool_frames.weights())

    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        """X-Pool's attention on real frames."""
        return frame_weights(text.tensors, video.tensors, video["real"])

    def pair_bytes(self) -> int:
        """Pairs are scored in blocks of their own, so a tile needs its score only."""
        return 64

    def cost_per_pair(self) -> str:
        dim, frames, trials = self.sizes.dim, self.sizes.frames, self.config.trials
        return f"{(3 * frames + 3 * trials + 2) * dim} MAC and {trials * dim} random numbers"

    # ------------------------------------------------------------------------------------------------------ training

    def loss(self, batch: Batch, *, step: int, draws: Draws) -> LossOutput:
        """InfoNCE of a drawn candidate + support_weight * InfoNCE of the support text.

        Draws `sigma` [B, D], one candidate a matching pair, and X-Pool's `pool_dropout_keep`.
        """
        return self.loss_rows(batch, Whole(len(batch)), step=step, draws=draws)

    def loss_rows(self, batch: Batch, share: BatchShare, *, step: int, draws: Draws) -> LossOutput:
        drawn, support, _ = self.cosines(batch, draws, share)
        scale, positives = self.logit_scale.exp(), shares.positives(batch, share)
        sim = info_nce(scale * drawn, positives, share).total
        edge = info_nce(scale * support, positives, share).total
        return LossOutput(sim + self.config.support_weight * edge, {"sim": sim, "support": edge})

    def cosines(self, batch: Batch, draws: Draws, share: BatchShare | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return a batch's scores [b, B] by drawn candidates and by support texts, and the candidates [b, D].

        share: where other processes have other pairs of the batch, None = all are here, b = B.
        """
        share = Whole(len(batch)) if share is None else share
        text, frames = full_precision(batch.text.pooled), share.gather(full_precision(batch.video.frames))
        seen = self._seen(share.gather(batch.video.mask()))
        keep = linear_keep(draws, share, frames, self.config.dropout)
        pooled = self.pool_frames(text, frames, seen, keep)  # y, [b, B, D]
        # R of the matching pairs
        around = reference.radius(text, share.own(frames), share.own(seen), self.stochastic.tensors()).exp()
        candidate = text + self._sigma(draws, text, share) * around
        middle = share.own(share.sum(pooled.sum(0))) / share.size  # of each clip over the batch's captions, raw
        support = text + around * unit(middle - text)
        directions = unit(pooled)
        return self._against(candidate, directions), self._against(support, directions), candidate

    # ------------------------------------------------------------------------------------------------------- private

    def _sigma(self, draws: Draws, text: Tensor, share: BatchShare) -> Tensor:
        shape = (share.size, text.shape[1])
        if self.config.prior == "uniform":
            return share.own(draws.uniform("sigma", shape)).to(text)
        return self.config.prior_std * share.own(draws.normal("sigma", shape)).to(text)

    def _seen(self, real: Tensor) -> Tensor:
        return real if self.config.mask_padding else torch.ones_like(real)

    def trials(self, text: Encoding, video: Encoding, sigma: Tensor) -> Tensor:
        """Return the cosine of every trial [T, V, S], with draws [V, T, S, D] of one's own; for a few pairs."""
        return mass.trials(*self._sides(text, video), self._head(), sigma).transpose(0, 1)

    def _head(self) -> mass.Head:
        options = self.config
        drawn = mass.Mass(options.trials, options.prior, options.prior_std, self.noise_draw)
        return mass.Head(self.pool_frames.weights(), self.stochastic.tensors(), drawn)

    @staticmethod
    def _sides(text: Encoding, video: Encoding) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {**text.tensors, "of": text.key}, {**video.tensors, "of": video.key}

    @staticmethod
    def _against(text: Tensor, directions: Tensor) -> Tensor:
        return torch.einsum("id,ijd->ij", unit(text), directions)
