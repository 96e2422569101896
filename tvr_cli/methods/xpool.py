"""X-Pool: each caption attends to a clip's frames, and what it pools is compared with it.

The block is `nn.xpool`, shared with EagleNet and T-MASS; its score is the op `tvr_kernels.xpool`, which folds the
pooled vector away. Equations and quirks: docs/methods/xpool.md.

Source: X-Pool, CVPR 2022, arXiv 2203.15086; the authors' code at bc88718 decides where the paper differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tvr_kernels import xpool as kernel

from tvr_cli.errors import ConfigError
from tvr_cli.methods import base
from tvr_cli.methods.base import full_precision, mean_direction, setting, unit
from tvr_cli.nn import shares
from tvr_cli.nn.losses import info_nce
from tvr_cli.nn.shares import Whole
from tvr_cli.nn.xpool import XPool, frame_weights, linear_keep
from tvr_cli.types import Batch, BatchShare, Draws, Encoding, LossOutput, Sizes, TextFeatures, VideoFeatures

README = "authors' README"
PARSER = "authors' parser"


class Method(base.Method):
    """Score by the cosine of a caption with the frames that it pools; train with a symmetric InfoNCE."""

    fidelity = "authors-code@bc88718"
    summary = "each caption pools a clip's frames by one learned attention block"
    paper = "X-Pool, CVPR 2022, arXiv 2203.15086"
    bibtex = """@inproceedings{gorti2022xpool,
  title     = {{X-Pool}: Cross-Modal Language-Video Attention for Text-Video Retrieval},
  author    = {Gorti, Satya Krishna and Vouitsis, No{\\"e}l and Ma, Junwei and Golestan, Keyvan and Volkovs, Maksims
               and Garg, Animesh and Yu, Guangwei},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022}
}"""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Options of X-Pool; the defaults are those of the authors' MSR-VTT 9k command."""

        heads: int = setting(1, symbol="num_mha_heads", source=PARSER, note="more score unfolded, many times slower")
        dropout: float = setting(
            0.3, symbol="transformer_dropout", source=README, note="of the linear branch, per pair and feature"
        )
        mask_padding: bool = setting(
            True, source="ours", note="missing frames take no part; the authors' loader has none, it repeats the last"
        )

        def __post_init__(self) -> None:
            if not 0 <= self.dropout < 1:
                raise ConfigError(f"xpool: dropout must be at least 0 and below 1, found {self.dropout}")
            if self.heads < 1:
                raise ConfigError(f"xpool: heads must be at least 1, found {self.heads}")

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config, sizes)
        if sizes.dim % config.heads:
            raise ConfigError(f"xpool: heads must divide the feature size {sizes.dim}, found {config.heads}")
        self.pool_frames = XPool(sizes.dim, config.heads)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(100.0)))  # where CLIP's checkpoints start

    def dead(self) -> frozenset[str]:
        """The key bias adds one constant to the logits of all frames, so its gradient is zero by analysis."""
        return frozenset({"pool_frames.cross_attn.k_proj.bias"})

    @classmethod
    def read_checkpoint(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Sizes]:
        return {}, Sizes(len(state["pool_frames.cross_attn.q_proj.bias"]), 0, 0)

    @torch.no_grad()
    def init_from_backbone(self, text_tower: Mapping[str, Tensor], logit_scale: Tensor) -> None:
        self.logit_scale.copy_(logit_scale.reshape(()))

    # ------------------------------------------------------------------------------------------------------- scoring

    @property
    def folds(self) -> bool:
        """Whether the op scores: it knows one head."""
        return self.config.heads == 1

    def encode_text(self, text: TextFeatures) -> Encoding:
        pooled = full_precision(text.pooled)
        side = kernel.text_side(pooled, self.pool_frames.weights()) if self.folds else {"text": pooled}
        return Encoding(text.key, side)

    def encode_video(self, video: VideoFeatures) -> Encoding:
        return self._video_side(video.key, full_precision(video.frames), video.mask())

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        if self.folds:
            return kernel.score(text.tensors, video.tensors, self.pool_frames.weights())
        return self._cosine(text["text"], self.pool_frames(text["text"], video["frames"], self._seen(video["real"])))

    def coarse(self, e: Encoding) -> Tensor:
        """Unit caption, and the mean direction of the real frames."""
        return unit(e["text"]) if "text" in e.tensors else mean_direction(e["frames"], e["real"])

    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        """The attention, the mean of its heads, on real frames."""
        if self.folds:
            return frame_weights(text.tensors, video.tensors, video["real"])
        share = self.pool_frames.attention(text["text"], video["frames"], video["real"])
        return share.mean(2)

    def pair_bytes(self) -> int:
        """The op works in blocks of its own; unfolded, a pair has a few vectors."""
        return 64 if self.folds else 32 * self.sizes.dim

    def cost_per_pair(self) -> str:
        dim, frames = self.sizes.dim, self.sizes.frames
        folded, published = (2 * frames + 1) * dim + 3 * frames**2, 2 * frames * dim + 2 * dim**2
        return f"{folded} MAC (folded; {published} as published)" if self.folds else f"{published} MAC"

    # ------------------------------------------------------------------------------------------------------ training

    def loss(self, batch: Batch, *, step: int, draws: Draws) -> LossOutput:
        """Symmetric InfoNCE of the scaled cosine. Draws `pool_dropout_keep`, a mask of every pair and feature."""
        return self.loss_rows(batch, Whole(len(batch)), step=step, draws=draws)

    def loss_rows(self, batch: Batch, share: BatchShare, *, step: int, draws: Draws) -> LossOutput:
        scores = self.logit_scale.exp() * self.cosines(batch, draws, share)
        found = info_nce(scores, shares.positives(batch, share), share)
        return LossOutput(found.total, {"t2v": found.t2v, "v2t": found.v2t})

    def cosines(self, batch: Batch, draws: Draws, share: BatchShare | None = None) -> Tensor:
        """Return the scores [b, B] of a training batch. Without dropout they are those of the folded form.

        share: where other processes have other pairs of the batch, None = all are here, b = B.
        """
        share = Whole(len(batch)) if share is None else share
        frames, real = share.gather(full_precision(batch.video.frames)), share.gather(batch.video.mask())
        if not self.config.dropout:
            captions = self.encode_text(batch.text)
            return self.score(captions, self._video_side(share.gather(batch.video.key), frames, real))
        text = full_precision(batch.text.pooled)
        keep = linear_keep(draws, share, frames, self.config.dropout)
        return self._cosine(text, self.pool_frames(text, frames, self._seen(real), keep))

    # ------------------------------------------------------------------------------------------------------- private

    def _video_side(self, key: Tensor, frames: Tensor, real: Tensor) -> Encoding:
        """Return the encoding of clips of frames [V, F, D], real [V, F] bool."""
        weights, seen = self.pool_frames.weights(), self._seen(real)
        side = kernel.video_side(frames, weights, seen) if self.folds else {"frames": frames}
        return Encoding(key, {**side, "real": real.clone()})  # tensors of one file may not share memory

    def _seen(self, real: Tensor) -> Tensor | None:
        return real if self.config.mask_padding else None

    @staticmethod
    def _cosine(text: Tensor, pooled: Tensor) -> Tensor:
        """text: [T, D]; pooled: [T, V, D]."""
        return torch.einsum("td,tvd->tv", unit(text), unit(pooled))
