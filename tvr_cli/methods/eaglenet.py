"""EagleNet: a caption is enriched, pair by pair, from its stochastic neighbours by a graph with the clip's frames.

Fine-grained relationship learning (FRL) scatters S candidates around the caption, lets a relational graph attention
network over candidates and frames weigh them, and scores the mix T against frames pooled for T by X-Pool. Training adds
a support text, a sigmoid loss and energy-aware matching (EAM). The pair part is the op `tvr_kernels.eaglenet`;
equations and quirks: docs/methods/eaglenet.md.

Source: EagleNet, arXiv 2603.25267, CVPR 2026; the authors' code at 193feac decides where the paper differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from tvr_kernels import eaglenet as kernel
from tvr_kernels.eaglenet.pooled import pooled_cosine

from tvr_cli.methods import base
from tvr_cli.methods._eaglenet_energy import EnergyMatching, Matching
from tvr_cli.methods._eaglenet_graph import Graph, pooling_tensors
from tvr_cli.methods._eaglenet_training import Dropout, Pairs, score_pairs, sigmoid_loss, support_scores
from tvr_cli.methods.base import setting
from tvr_cli.nn import shares
from tvr_cli.nn.losses import info_nce, negatives
from tvr_cli.nn.radius import Radius
from tvr_cli.nn.shares import Whole
from tvr_cli.nn.xpool import XPool
from tvr_cli.types import Batch, BatchShare, Draws, Encoding, LossOutput, Sizes, TextFeatures, VideoFeatures

SCRIPT = "authors' script (MSR-VTT ViT-B/16)"
SCRIPTS = "all of the authors' scripts"
LOGIT_SCALE = 4.605170185988092  # ln 100, where OpenAI's checkpoints start


class Method(base.Method):
    """Score by cos(T, y): T the enriched caption, y the frames pooled for it."""

    needs: ClassVar[frozenset[str]] = frozenset({"frames", "pooled"})
    fidelity = "authors-code@193feac"
    summary = "enriches each caption by a graph over its stochastic neighbours and the clip's frames"
    paper = "arXiv 2603.25267, CVPR 2026"
    shifts_patches = True
    # Keys of the authors' checkpoints that nothing reads: built and never called, or computed and discarded.
    ignored_keys: ClassVar[tuple[str, ...]] = (
        "transformerClip.*",
        "frame_position_embeddings.*",
        "stochastic.std_branch.learnable_scalar",
        "gnn.layers.1.lin_out.*",
        "gnn.layers.1.lin_rels.[01].*",
        "gnn.layers.1.att_?_rels.[01].*",
    )
    bibtex = """@inproceedings{chen2026eaglenet,
  title     = {EagleNet: Energy-Aware Fine-Grained Relationship Learning Network for Text-Video Retrieval},
  author    = {Chen, Yuhan and Dai, Pengwen and Wang, Chuan and Wu, Dayan and Cao, Xiaochun},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2026},
  note      = {arXiv:2603.25267}
}"""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Options of EagleNet; the defaults are those of the authors' MSR-VTT ViT-B/16 script."""

        candidates: int = setting(20, symbol="S", source=SCRIPTS, note="also in evaluation")
        prior: Literal["uniform", "normal"] = setting("uniform", source=SCRIPTS, note="uniform is U[0, 1), not centred")
        prior_std: float = setting(1.0, source=SCRIPTS, note="of the normal prior")
        graph: Literal["rgat", "gat"] = setting("rgat", source=SCRIPTS)
        graph_heads: int = setting(4, symbol="H", source=SCRIPTS)
        graph_slope: float = setting(0.1, source=SCRIPTS, note="of the leaky ReLU")
        graph_dropout: float = setting(0.5, source=SCRIPTS)
        frame_positions: bool = setting(True, source=SCRIPT, note="framepe; off for MSR-VTT ViT-B/32 and MSVD")
        pool_heads: int = setting(1, source=SCRIPTS)
        pool_dropout: float = setting(0.3, source=SCRIPTS, note="of X-Pool's linear branch, per pair and feature")
        loss: Literal["sigmoid", "softmax"] = setting("sigmoid", source=SCRIPTS)
        sigmoid_scale: float = setting(4.77, symbol="temp_prior", source=SCRIPTS, note="initial; a logarithm")
        sigmoid_bias: float = setting(-12.93, symbol="bias", source=SCRIPTS, note="initial")
        support_weight: float = setting(0.8, source=SCRIPTS)
        energy: Literal["mlp", "bilinear", "cosine"] = setting(
            "bilinear", source=SCRIPT, note="mlp in the other scripts; cosine crashes in the authors' code"
        )
        energy_pool: Literal["mean", "max", "min"] = setting("mean", source=SCRIPTS)
        energy_weight: float = setting(1.0, source=SCRIPTS)
        energy_support_weight: float = setting(
            1.0, symbol="lambda_es", source=SCRIPT, note="0 for MSR-VTT ViT-B/32 and DiDeMo"
        )
        energy_regularizer: float = setting(1.0, symbol="c", source=SCRIPTS)
        langevin_steps: int = setting(20, symbol="K", source=SCRIPTS)
        langevin_step_size: float = setting(1.0, symbol="eta", source=SCRIPTS)
        langevin_noise: float = setting(0.005, source=SCRIPTS)
        replay_rows: int = setting(500, source=SCRIPTS)
        replay_start: Literal["uniform", "zeros"] = setting(
            "uniform", source="ours", note="zeros: as the authors, whose first replays are mostly zero pairs"
        )
        mask_padding: bool = setting(
            False, source="ours", note="true: missing frames take no part; the authors let padding in"
        )

        def __post_init__(self) -> None:
            for name in ("candidates", "graph_heads", "pool_heads", "replay_rows"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
            for name in ("graph_dropout", "pool_dropout"):
                if not 0 <= getattr(self, name) < 1:
                    raise ValueError(f"{name} must be at least 0 and below 1, found {getattr(self, name)}")

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config, sizes)
        dim, frames = sizes.dim, sizes.frames
        self.noise_draw = 0  # which repetition of the candidate noise `score` uses (`--noise-seeds`)
        self.stochastic = Radius(dim, frames)
        if config.frame_positions:
            self.frame_pe = nn.Parameter(torch.randn(frames, dim))
        self.gnn = Graph(dim, config.graph_heads, relational=config.graph == "rgat")
        self.pool_frames = XPool(dim, config.pool_heads)
        self.ebm = EnergyMatching(
            dim,
            frames,
            kind=config.energy,
            pool=config.energy_pool,
            steps=config.langevin_steps,
            step_size=config.langevin_step_size,
            noise=config.langevin_noise,
            regularizer=config.energy_regularizer,
            buffer_rows=config.replay_rows,
            replay_start=config.replay_start,
        )
        if config.loss == "sigmoid":
            self.loss_fct = nn.ParameterDict(
                {
                    "temp_prior": nn.Parameter(torch.tensor([config.sigmoid_scale])),
                    "bias": nn.Parameter(torch.tensor([config.sigmoid_bias])),
                }
            )
        else:
            self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE))

    def dead(self) -> frozenset[str]:
        """The key bias adds one constant to the logits of all frames, so its gradient is zero by analysis."""
        dead = {"pool_frames.cross_attn.k_proj.bias"}
        if not self.config.energy_weight and not self.config.energy_support_weight:
            dead |= {f"ebm.{name}" for name, _ in self.ebm.named_parameters()}
        return frozenset(dead)

    @classmethod
    def read_checkpoint(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Sizes]:
        dim, frames = state["stochastic.std_branch.linear_proj.weight"].shape
        relational = "gnn.layers.0.lin_rels.0.weight" in state
        head_width = state["gnn.layers.0.att_l_rels.0.weight" if relational else "gnn.layers.0.att_l.weight"].shape[1]
        options = {
            "graph": "rgat" if relational else "gat",
            "graph_heads": dim // head_width,
            "frame_positions": "frame_pe" in state,
            "energy": "bilinear" if "ebm.energy_net.weight" in state else "mlp",
            "replay_rows": len(state["ebm.replay_buffer_txt"]) if "ebm.replay_buffer_txt" in state else 500,
        }
        return options, Sizes(dim, frames, 0)

    @torch.no_grad()
    def init_from_backbone(self, text_tower: Mapping[str, Tensor], logit_scale: Tensor) -> None:
        if self.config.loss == "softmax":
            self.logit_scale.copy_(logit_scale.reshape(()))

    # ------------------------------------------------------------------------------------------------------- scoring

    def encode_text(self, text: TextFeatures) -> Encoding:
        return _encoding(kernel.text_side(_full(text.pooled), text.key, self.weights()))

    def encode_video(self, video: VideoFeatures) -> Encoding:
        return _encoding(kernel.video_side(_full(video.frames), video.mask(), video.key, self.weights()))

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        return self.score_with(text, video)

    def score_with(
        self, text: Encoding, video: Encoding, sigma: Tensor | None = None, implementation: str | None = None
    ) -> Tensor:
        """`score`, with candidate noise [S, T, V, D] (already scaled) and an implementation of one's choice."""
        weights = self.weights()._replace(sigma=sigma, draw=self.noise_draw)
        return kernel.score(_sides(text), _sides(video), weights, implementation=implementation)

    def coarse(self, e: Encoding) -> Tensor:
        """Unit caption, and the unit mean of the real unit frames."""
        if "frames" not in e.tensors:
            return nn.functional.normalize(e["text"], dim=-1)
        frames = nn.functional.normalize(e["frames"], dim=-1)
        return nn.functional.normalize(base.masked_mean(frames, e["real"]), dim=-1)

    @property
    def rough_needs(self) -> tuple[str, ...]:
        names = ("columns", "logit_sum", "logit_shift", "gram2", "gram3", "gram_out", "out_shift")
        return (*names, "real") if self.config.mask_padding else names

    def rough(self, text: Encoding, video: Encoding) -> Tensor:
        """The cosine of the caption itself, not enriched, with the frames that X-Pool pools for it."""
        own = {name: x.to(text["text"].dtype) if x.is_floating_point() else x for name, x in video.tensors.items()}
        query = text["text"].expand(len(video), -1, -1)
        return pooled_cosine(query, own, self.weights()).T

    @torch.no_grad()
    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        """X-Pool's attention to the frames given the enriched caption, averaged over heads, on real frames only."""
        weights = self.weights()._replace(draw=self.noise_draw)
        share = kernel.frame_attention(_sides(text), _sides(video), weights) * video["real"]  # [T, V, F]
        return share / share.sum(-1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)

    def pair_bytes(self) -> int:
        """The op works in blocks of its own, so a tile needs its score only."""
        return 64

    def cost_per_pair(self) -> str:
        dim, frames, candidates = self.sizes.dim, self.sizes.frames, self.config.candidates
        dense = candidates * dim * (2 * dim + dim // self.config.graph_heads)
        attend = (1 + candidates) * (1 + candidates + 2 * frames) * dim
        return f"{(dense + attend) / 1e6:.1f} million MAC (folded; 12 times as many as published)"

    # ------------------------------------------------------------------------------------------------------ training

    def loss(self, batch: Batch, *, step: int, draws: Draws) -> LossOutput:
        return self.loss_rows(batch, Whole(len(batch)), step=step, draws=draws)

    def loss_rows(self, batch: Batch, share: BatchShare, *, step: int, draws: Draws) -> LossOutput:
        text, own_frames = _full(batch.text.pooled), _full(batch.video.frames)
        frames, real = share.gather(own_frames), share.gather(batch.video.mask())
        config = self.config
        matching = shares.positives(batch, share)
        positives = None if batch.video_id is None else matching
        pairs = self.pairs(text, frames, real, draws, share)
        support, matching_text = self.support(text, frames, real, pairs, share)
        parts = {
            "sim": self.contrast(pairs.scores, positives, share),
            "support": self.contrast(support, positives, share),
        }
        total = parts["sim"] + config.support_weight * parts["support"]
        apart = negatives(matching, share)
        if config.energy_weight:
            parts["eam"] = self.match_energy(text, frames, real, apart, draws, "ebm0", share).loss
            total = total + config.energy_weight * parts["eam"]
        if config.energy_support_weight:
            parts["eam_support"] = self.match_energy(matching_text, frames, real, apart, draws, "ebm1", share).loss
            total = total + config.energy_support_weight * parts["eam_support"]
        return LossOutput(total, parts)

    def pairs(self, text: Tensor, frames: Tensor, real: Tensor, draws: Draws, share: BatchShare | None = None) -> Pairs:
        """Score captions [A, D] with clips [B, F, D] as in training: fresh noise and dropout from `draws`.

        share: whose captions these are, None = the first of the batch; so in what follows.
        """
        dropout = Dropout(self.config.graph_dropout, self.config.pool_dropout)
        first = 0 if share is None else share.first
        return score_pairs(text, frames, real, self.weights(), self.pool_frames, dropout, draws, first=first)

    def support(
        self, text: Tensor, frames: Tensor, real: Tensor, pairs: Pairs, share: BatchShare | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the support text's scores [b, B], and the support texts of the matching pairs [b, D]."""
        share = Whole(len(text)) if share is None else share
        return support_scores(text, frames, real, pairs.pooled, self.weights(), share)

    def contrast(self, scores: Tensor, positives: Tensor | None = None, share: BatchShare | None = None) -> Tensor:
        """Return the sigmoid or softmax loss of scores [b, B]."""
        if self.config.loss == "sigmoid":
            return sigmoid_loss(scores, self.loss_fct["temp_prior"], self.loss_fct["bias"], positives, share)
        return info_nce(self.logit_scale.exp() * scores, positives, share).total

    def match_energy(
        self,
        text: Tensor,
        frames: Tensor,
        real: Tensor,
        apart: Tensor,
        draws: Draws,
        name: str,
        share: BatchShare | None = None,
    ) -> Matching:
        """Return energy-aware matching of texts [b, D] with their clips; apart: [b, B] bool, True = no match."""
        share = Whole(len(text)) if share is None else share
        return self.ebm(text, frames, real if self.config.mask_padding else None, apart, draws, name, share)

    # ------------------------------------------------------------------------------------------------------- private

    def weights(self) -> kernel.EagleNetWeights:
        """Return the head's parameters as the op takes them."""
        config = self.config
        hidden, last = self.gnn.tensors()
        options = kernel.Options(
            candidates=config.candidates,
            heads=config.graph_heads,
            slope=config.graph_slope,
            prior=config.prior,
            prior_std=config.prior_std,
            pool_heads=config.pool_heads,
            mask_padding=config.mask_padding,
        )
        positions = self.frame_pe if config.frame_positions else None
        return kernel.EagleNetWeights(
            self.stochastic.tensors(), positions, hidden, last, pooling_tensors(self.pool_frames), options
        )


def _encoding(side: dict[str, Tensor]) -> Encoding:
    key = side.pop("key")
    return Encoding(key, side)


def _sides(e: Encoding) -> dict[str, Tensor]:
    return {**e.tensors, "key": e.key}


def _full(x: Tensor) -> Tensor:
    """Half-precision features are scored in float32."""
    return x.float() if x.dtype.itemsize < 4 else x
