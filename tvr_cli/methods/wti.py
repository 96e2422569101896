"""DRL / WTI: every word finds its frame, every frame its word, and both count by learned weights.

Frames go through a temporal transformer; the score is the mean of the words' best cosines, weighted by one small
scorer, and of the frames', weighted by another. Training adds the decorrelation of matched channels (CDCR,
`_wti_decorrelation.py`). The pair part is the op `tvr_kernels.wti`, DMAE's word branch; equations and quirks:
docs/methods/wti.md.

Source: Qiang Wang et al., arXiv 2203.07111; the authors' code at 475f96c decides where the paper differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from tvr_kernels import wti as kernel

from tvr_cli import commands
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.methods import base
from tvr_cli.methods._wti_decorrelation import Matched, decorrelation, tokens_and_frames
from tvr_cli.methods.base import full_precision, masked_mean, setting, unit, unit_or_zero
from tvr_cli.nn.losses import info_nce
from tvr_cli.nn.temporal import TemporalTransformer, contextualize_frames, frame_positions, start_from_text_tower
from tvr_cli.nn.words import real_words, token_scorer
from tvr_cli.types import Batch, Draws, Encoding, LossOutput, Sizes, TextFeatures, VideoFeatures

SCRIPTS = "authors' scripts"
CODE = "authors' code"
INIT_STD = 0.02  # of the scorers' weights


class Method(base.Method):
    """Score words against frames by learned weights; train with a symmetric InfoNCE and CDCR."""

    needs: ClassVar[frozenset[str]] = frozenset({"frames", "pooled", "tokens"})
    fidelity = "authors-code@475f96c"
    summary = "best frame of each word and best word of each frame, by learned weights"
    paper = "Disentangled Representation Learning for Text-Video Retrieval, arXiv 2203.07111"
    bibtex = """@article{wang2022drl,
  title   = {Disentangled Representation Learning for Text-Video Retrieval},
  author  = {Wang, Qiang and Zhang, Yanhao and Zheng, Yun and Pan, Pan and Hua, Xian-Sheng},
  journal = {arXiv:2203.07111},
  year    = {2022}
}"""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Options of DRL; the defaults are its authors' script wti_cdcr for ViT-B/32."""

        interaction: Literal["wti", "ti", "dp"] = setting(
            "wti", source=SCRIPTS, note="ti counts words and frames alike, dp is CLIP4Clip's dot product"
        )
        weight_layers: Literal[1, 2, 3] = setting(2, symbol="wti_arch", source=SCRIPTS)
        temporal: Literal["transformer", "none"] = setting("transformer", source=SCRIPTS, note="agg_module")
        temporal_layers: int = setting(4, source=CODE)
        decorrelation: Literal["off", "matched", "weighted"] = setting(
            "weighted", symbol="cdcr", source=SCRIPTS, note="weighted = 3, for wti; matched = 2 with ti, 1 with dp"
        )
        decorrelation_weight: float = setting(1e-3, symbol="lambda", source=CODE)
        diagonal_weight: float = setting(
            0.14, symbol="alpha_1", source=SCRIPTS, note="0.11 in the README and for ViT-B/16"
        )
        off_diagonal_weight: float = setting(0.0, symbol="alpha_2", source=SCRIPTS, note="the parser's default is 0.06")
        mask_padding: bool = setting(
            False, source="ours", note="true: pads and missing frames never win a maximum; the authors give them 0"
        )

        def __post_init__(self) -> None:
            if self.decorrelation == "weighted" and self.interaction != "wti":
                raise ConfigError(
                    f"wti: decorrelation weighted needs the weights of interaction wti, found {self.interaction}; "
                    "set method.wti.decorrelation=matched (the authors' code stops at its first step with ti)"
                )

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config, sizes)
        if config.interaction == "dp":
            self.needs = type(self).needs - {"tokens"}  # type: ignore[misc]
        if config.interaction == "wti":
            self.text_weight_fc = _started(token_scorer(sizes.dim, config.weight_layers))
            self.video_weight_fc = _started(token_scorer(sizes.dim, config.weight_layers))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(100.0)))  # where OpenAI's checkpoints start
        if config.temporal == "transformer":
            self.transformerClip = TemporalTransformer(sizes.dim, config.temporal_layers)
            self.frame_position_embeddings = frame_positions(sizes.dim)

    @property
    def trains(self) -> bool:
        """False where only the logit scale is left, which no rank sees."""
        return self.config.interaction == "wti" or self.config.temporal == "transformer"

    def dead(self) -> frozenset[str]:
        """The last bias of each scorer, which a softmax cancels."""
        names = {name for name, _ in self.named_parameters()}
        last = "bias" if self.config.weight_layers == 1 else f"{2 * (self.config.weight_layers - 1)}.bias"
        return frozenset(names & {f"text_weight_fc.{last}", f"video_weight_fc.{last}"})

    @classmethod
    def read_checkpoint(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Sizes]:
        layers = base.temporal_layers(state)
        scorer = [k for k in state if k.startswith("text_weight_fc.") and k.endswith("weight")]
        options: dict[str, Any] = {
            "temporal": "transformer" if layers else "none",
            "temporal_layers": layers or 4,
            "weight_layers": len(scorer) or 2,
        }
        if not scorer:  # ti and dp have the same parameters: none of their own
            options |= {"interaction": "ti", "decorrelation": "matched"}
        table = state[scorer[0]] if scorer else state["frame_position_embeddings.weight"]
        return options, Sizes(table.shape[1], 0, 0)

    @torch.no_grad()
    def init_from_backbone(self, text_tower: Mapping[str, Tensor], logit_scale: Tensor) -> None:
        self.logit_scale.copy_(logit_scale.reshape(()))
        if self.config.temporal == "transformer":
            start_from_text_tower(self.transformerClip, self.frame_position_embeddings, text_tower)

    # ------------------------------------------------------------------------------------------------------- scoring

    def encode_text(self, text: TextFeatures) -> Encoding:
        if self.config.interaction == "dp":
            return Encoding(text.key, {"text": unit(full_precision(text.pooled))})
        words = _words(text)
        logits = self.text_weight_fc(words)[..., 0] if self.config.interaction == "wti" else None
        return Encoding(text.key, kernel.text_side(unit_or_zero(words), real_words(text), self._options, logits))

    def encode_video(self, video: VideoFeatures) -> Encoding:
        return self._video_side(video, self.contextualize(full_precision(video.frames), video.mask()))

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        """Cosines: the authors evaluate without the scale and train with it, which ranks alike."""
        if self.config.interaction == "dp":
            return text["text"] @ video["video"].T
        return kernel.score(text.tensors, video.tensors, self._options)

    def coarse(self, e: Encoding) -> Tensor:
        """The direction of the weighted mean of unit words, or of unit frames; of `dp` what it scores."""
        for name in ("text", "video"):
            if name in e.tensors:
                return e[name]
        vectors = e["rows"] if "rows" in e.tensors else e["frames"]
        return unit((e["weight"][..., None] * vectors).sum(1))

    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        """Each word's softmax over real frames at the scale of the loss, averaged by the words' weights."""
        scale, mask = self.logit_scale.exp(), video["mask"]
        if self.config.interaction == "dp":
            logits = torch.einsum("td,vfd->tvf", text["text"], video["frames"])
            return (scale * logits).masked_fill(~mask, float("-inf")).softmax(-1)
        table = torch.einsum("tld,vfd->tlvf", text["rows"], video["frames"])
        shares = (scale * table).masked_fill(~mask, float("-inf")).softmax(-1)
        return torch.einsum("tl,tlvf->tvf", text["weight"], shares)

    def pair_bytes(self) -> int:
        return 4 * self.sizes.frames * self.sizes.words

    def cost_per_pair(self) -> str:
        rows = 1 if self.config.interaction == "dp" else self.sizes.words * self.sizes.frames
        return f"{rows * self.sizes.dim} MAC"

    # ------------------------------------------------------------------------------------------------------ training

    def loss(self, batch: Batch, *, step: int, draws: Draws) -> LossOutput:
        """InfoNCE at the logit scale + decorrelation_weight * CDCR. Draws nothing."""
        frames = self.contextualize(full_precision(batch.video.frames), batch.video.mask())
        text, video = self.encode_text(batch.text), self._video_side(batch.video, frames)
        contrastive = info_nce(self.logit_scale.exp() * self.score(text, video), batch.positives())
        parts = {"t2v": contrastive.t2v, "v2t": contrastive.v2t, "contrastive": contrastive.total}
        if self.config.decorrelation == "off":
            return LossOutput(contrastive.total, parts)
        parts["cdcr"] = decorrelation(
            self._matched(batch, text, video, frames), self.config.diagonal_weight, self.config.off_diagonal_weight
        )
        return LossOutput(contrastive.total + self.config.decorrelation_weight * parts["cdcr"], parts)

    def _matched(self, batch: Batch, text: Encoding, video: Encoding, frames: Tensor) -> list[Matched]:
        """Return the rows that CDCR compares: the pairs' two vectors, or words with their frames and the reverse."""
        pairs = len(batch)
        if self.config.interaction == "dp":
            return [Matched(text["text"], video["video"], text["text"].new_full((pairs,), 1 / pairs))]
        # Pads with their own directions: a masked cosine of 0 may be the largest (Q2), and its vector is correlated.
        words, frames = unit_or_zero(_words(batch.text)), unit_or_zero(frames)
        real, mask = real_words(batch.text), batch.video.mask()
        pads_win = not self.config.mask_padding
        of_words, of_frames = tokens_and_frames(words, frames, real, mask, pads_win=pads_win)
        pair = torch.arange(pairs, device=words.device)[:, None]
        weighted = self.config.decorrelation == "weighted"
        return [
            Matched(
                own[there],
                other[pair, match][there],
                weight[there] / pairs if weighted else weight.new_full((int(there.sum()),), 1 / int(there.sum())),
            )
            for own, other, match, there, weight in (
                (words, frames, of_words, real, text["weight"]),
                (frames, words, of_frames, mask, video["weight"]),
            )
        ]

    # ------------------------------------------------------------------------------------------------------- private

    def contextualize(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return z [V, F, D]: frames after the temporal transformer, missing slots as masked keys only."""
        if self.config.temporal == "none":
            return frames
        return contextualize_frames(frames, mask, self.transformerClip, self.frame_position_embeddings)

    def _video_side(self, video: VideoFeatures, frames: Tensor) -> Encoding:
        """Return the encoding of clips whose frames [V, F, D] have passed the temporal transformer."""
        mask, directions = video.mask(), unit_or_zero(frames)
        if self.config.interaction == "dp":
            side = {"video": unit(masked_mean(directions, mask)), "frames": directions}
        else:
            logits = self.video_weight_fc(frames)[..., 0] if self.config.interaction == "wti" else None
            side = kernel.video_side(directions, mask, self._options, logits)
        return Encoding(video.key, {**side, "mask": mask})

    @property
    def _options(self) -> kernel.DmaeOptions:
        return kernel.options(mask_padding=self.config.mask_padding)


def _words(text: TextFeatures) -> Tensor:
    if text.tokens is None:
        raise DataError(
            "wti compares single tokens, but the text features have pooled vectors only; "
            f"run {commands.tvr('precompute-features')} with a backbone that provides tokens"
        )
    return full_precision(text.tokens)


def _started(scorer: nn.Module) -> nn.Module:
    """Start a scorer as the authors do: weights from N(0, 0.02), no bias, so that all tokens count nearly alike."""
    for module in scorer.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=INIT_STD)
            nn.init.zeros_(module.bias)
    return scorer
