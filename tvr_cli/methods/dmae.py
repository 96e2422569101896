"""DMAE: token–frame scores with important words and neighbour frames; trained with NegNCE and TPM-CL.

A caption scores a clip by the best frame of each token, to which that frame's closest other frame adds (the visual
clue), averaged with content words counting double (the textual clue). The pair part is the op `tvr_kernels.dmae`;
NegNCE is `nn/negnce.py`, TPM-CL `_dmae_tpm.py`; equations and quirks: docs/methods/dmae.md.

Source: Chen Jiang et al., arXiv 2309.11082, from the authors' port at e7b7dc7, which by their own word cannot reproduce
the paper's numbers. The mapping to CLIP features is the spec's (section 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from tvr_kernels import dmae as kernel

from tvr_cli.errors import DataError
from tvr_cli.methods import base
from tvr_cli.methods._dmae_tpm import Eraser, PartialMargin, Tokens, TokenWeights
from tvr_cli.methods.base import full_precision, setting, unit, unit_or_zero
from tvr_cli.nn.losses import info_nce
from tvr_cli.nn.negnce import neg_nce
from tvr_cli.nn.temporal import TemporalTransformer, contextualize_frames, frame_positions, start_from_text_tower
from tvr_cli.nn.words import real_words, token_scorer
from tvr_cli.types import Batch, Draws, Encoding, LossOutput, Sizes, TextFeatures, VideoFeatures

README = "authors' README recipe"
CODE = "authors' code"


class Method(base.Method):
    """Score tokens against frames; train with NegNCE and margins to partly erased pairs."""

    needs: ClassVar[frozenset[str]] = frozenset({"frames", "pooled", "tokens", "importance"})
    fidelity = "authors-port@e7b7dc7"
    summary = "best frame of each token and its neighbour frame; hard negatives, partial margins"
    paper = "arXiv 2309.11082, ACM MM 2023"
    trainable_preset = "dmae-frozen"
    # Keys of the authors' checkpoints (below `dmae_utils.`) that nothing reads.
    ignored_keys: ClassVar[tuple[str, ...]] = ("*_linear_xwp.q_proj.*", "*_linear_xwp.k_proj.*")
    checkpoint_prefix = "dmae_utils."
    bibtex = """@inproceedings{jiang2023dual,
  title     = {Dual-Modal Attention-Enhanced Text-Video Retrieval with Triplet Partial Margin Contrastive Learning},
  author    = {Jiang, Chen and Liu, Hong and Yu, Xuzheng and Wang, Qing and Cheng, Yuan and Xu, Jia and Liu, Zhongyi
               and Guo, Qingpei and Chu, Wei and Yang, Ming and Qi, Yuan},
  booktitle = {Proceedings of the 31st ACM International Conference on Multimedia},
  year      = {2023},
  note      = {arXiv:2309.11082}
}"""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Options of DMAE; the defaults are the recipe that the authors' README recommends, with all of TPM-CL."""

        interaction: Literal["ti", "wti", "att_ti", "att_wti"] = setting(
            "att_ti", symbol="l3_interaction", source=README, note="att_ adds the word branch, w learned token weights"
        )
        neighbours: bool = setting(True, symbol="l3_with_nfc", source=README, note="the visual clue")
        word_importance: bool = setting(True, symbol="l3_use_twm", source=README, note="the textual clue")
        loss: Literal["negnce", "cross_entropy"] = setting("negnce", symbol="l3_loss_type", source=README)
        scale: float = setting(100.0, symbol="tau", source=CODE, note="fixed factor of the logits, not CLIP's")
        negative_weight: float = setting(0.5, source=CODE, note="of NegNCE's second term")
        partial_type: Literal[-1, 2, 3, 4] = setting(4, symbol="l3_partial_type", source=CODE, note="-1 = no TPM-CL")
        erase_share: float = setting(0.6, symbol="theta", source=CODE)
        margin: float = setting(0.6, source=CODE)
        temporal: Literal["meanP", "seqTransf"] = setting("meanP", symbol="l3_sim_header", source=CODE)
        temporal_layers: int = setting(4, source=CODE)
        temporal_init: Literal["random", "backbone"] = setting(
            "random", source=CODE, note="backbone (ours): from CLIP's text tower, as the other methods do"
        )
        normalize: Literal["before-head", "behind-head"] = setting(
            "before-head", source=CODE, note="behind-head (ours): raw frames pass the temporal head, as in CLIP4Clip"
        )
        weight_layers: Literal[1, 2, 3] = setting(1, symbol="l3_wti_arch", source=CODE)
        mask_padding: bool = setting(
            False, source="ours", note="true: pads and missing frames never win a maximum; the authors give them 0"
        )
        reference_bugs: bool = setting(
            False,
            source=CODE,
            note="TPM-CL as released: pairs mixed within blocks (Q1), weights summed over pairs (Q2)",
        )

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config, sizes)
        unneeded = set() if config.word_importance else {"importance"}
        if not self._words and config.partial_type < 0:
            unneeded |= {"tokens", "importance"}
        self.needs = type(self).needs - unneeded  # type: ignore[misc]
        if self._learned:
            self.text_weight_fc = token_scorer(sizes.dim, config.weight_layers)
            self.video_weight_fc = token_scorer(sizes.dim, config.weight_layers)
        if config.temporal == "seqTransf":
            self.transformerClip = TemporalTransformer(sizes.dim, config.temporal_layers)
            self.frame_position_embeddings = frame_positions(sizes.dim)
            if config.temporal_init == "random":
                _torch_defaults(self.transformerClip, self.frame_position_embeddings)
        if config.partial_type > 0:
            self.v2t_linear_xwp = TokenWeights(sizes.frames, sizes.words, sizes.dim)
            self.t2v_linear_xwp = TokenWeights(1, sizes.frames, sizes.dim)
            self.tis_selector = Eraser(config.erase_share)

    @property
    def trains(self) -> bool:
        """False where no parameter reaches the score: with plain means, only TPM-CL's own predictors are trained."""
        return self._learned or self.config.temporal == "seqTransf"

    def dead(self) -> frozenset[str]:
        """The frame-erasing predictor (Q3), word weights without a word branch, and biases that a softmax cancels."""
        names = {name for name, _ in self.named_parameters()}
        last = "bias" if self.config.weight_layers == 1 else f"{2 * (self.config.weight_layers - 1)}.bias"
        dead = {f"text_weight_fc.{last}", f"video_weight_fc.{last}"}
        dead |= {name for name in names if name.startswith("t2v_linear_xwp.")}
        if not self._words:
            dead |= {name for name in names if name.startswith("text_weight_fc.")}
        return frozenset(dead & names)

    @classmethod
    def read_checkpoint(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Sizes]:
        layers, partial = base.temporal_layers(state), "v2t_linear_xwp.qk_proj.weight" in state
        fc = [name for name in state if name.startswith("text_weight_fc.") and name.endswith("weight")]
        options: dict[str, Any] = {
            "temporal": "seqTransf" if layers else "meanP",
            "temporal_layers": layers or 4,
            "interaction": "att_wti" if fc else "att_ti",
            "weight_layers": len(fc) or 1,
        }
        words, frames, dim = 0, 0, 0
        if partial:
            words, frames = state["v2t_linear_xwp.qk_proj.weight"].shape
            dim = state["v2t_linear_xwp.attn_proj.0.weight"].shape[1] // 2
        else:
            options["partial_type"] = -1
            dim = state[fc[0]].shape[1] if fc else 0
        return options, Sizes(dim, frames, words)

    @torch.no_grad()
    def init_from_backbone(self, text_tower: Mapping[str, Tensor], logit_scale: Tensor) -> None:
        if self.config.temporal == "seqTransf" and self.config.temporal_init == "backbone":
            start_from_text_tower(self.transformerClip, self.frame_position_embeddings, text_tower)

    # ------------------------------------------------------------------------------------------------------- scoring

    def encode_text(self, text: TextFeatures) -> Encoding:
        return Encoding(text.key, self.text_side(unit(full_precision(text.pooled)), *self._word_features(text)))

    def encode_video(self, video: VideoFeatures) -> Encoding:
        mask = video.mask()
        return Encoding(video.key, {**self.video_side(full_precision(video.frames), mask), "mask": mask})

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        return kernel.score(text.tensors, video.tensors, self._options)

    def coarse(self, e: Encoding) -> Tensor:
        """Unit sentence, and unit weighted mean of frames: half of the sentence branch."""
        if "rows" in e.tensors:
            return e["rows"][:, 0]
        return unit((e["weight"][..., None] * e["frames"]).sum(1))

    @property
    def rough_needs(self) -> tuple[str, ...]:
        names = ("frames", "weight", "closeness", "neighbour", "length")
        return (*names, "bias") if self.config.mask_padding else names

    def rough(self, text: Encoding, video: Encoding) -> Tensor:
        """The sentence branch, without the words'."""
        alone = {"rows": text["rows"][:, :1], "weight": text["weight"][:, :1], "floor": text["floor"]}
        alone["length"] = torch.ones_like(text["length"])
        if self.config.mask_padding:
            alone["bias"] = text["bias"][:, :1]
        own = {name: x.float() if x.dtype == torch.float16 else x for name, x in video.tensors.items()}
        return kernel.score(alone, own, self._options._replace(words=False))

    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        """The softmax of the sentence's frame scores at the loss's scale, over real frames."""
        scores = torch.einsum("td,vfd->tvf", text["rows"][:, 0], video["frames"])
        return (self.config.scale * scores).masked_fill(~video["mask"], float("-inf")).softmax(-1)

    def cost_per_pair(self) -> str:
        rows = 1 + (self.sizes.words if self._words else 0)
        return f"{rows * self.sizes.frames * self.sizes.dim} MAC"

    # ------------------------------------------------------------------------------------------------------ training

    def loss(self, batch: Batch, *, step: int, draws: Draws) -> LossOutput:
        """Draws nothing: the method has no dropout and no noise."""
        words, importance = self._word_features(batch.text)
        positives = None if batch.video_id is None else batch.positives()
        frames, mask = full_precision(batch.video.frames), batch.video.mask()
        return self.objective(unit(full_precision(batch.text.pooled)), words, importance, frames, mask, positives)

    def objective(
        self,
        sentence: Tensor,
        words: Tensor,
        importance: Tensor,
        frames: Tensor,
        mask: Tensor,
        positives: Tensor | None = None,
    ) -> LossOutput:
        """Return the loss of B pairs.

        sentence: [B, D] unit vectors; words: [B, L, D] and frames: [B, F, D] of any length; importance: [B, L] in
        {0, 1, 2}; mask: [B, F] bool; positives: [B, B] bool, None = the authors' diagonal.
        """
        scores = kernel.score(self.text_side(sentence, words, importance), self.video_side(frames, mask), self._options)
        parts = self._contrastive(scores, positives)
        total = parts["contrastive"]
        if self.config.partial_type > 0:
            tokens = self.tokens(sentence, words, frames, mask)
            terms = self.partial_margin().loss(tokens)
            parts |= {**terms, "tpm": sum(terms.values(), scores.new_zeros(()))}
            total = total + parts["tpm"]
        return LossOutput(total, parts)

    def _contrastive(self, scores: Tensor, positives: Tensor | None) -> dict[str, Tensor]:
        if self.config.loss == "cross_entropy":
            plain = info_nce(self.config.scale * scores, positives)
            return {"contrastive": plain.total, "t2v": plain.t2v, "v2t": plain.v2t}
        found = neg_nce(scores, self.config.scale, positives=positives, negative_weight=self.config.negative_weight)
        return {
            "contrastive": found.total,
            "t2v": found.t2v,
            "v2t": found.v2t,
            "positive_t2v": found.positive_t2v,
            "positive_v2t": found.positive_v2t,
            "negative_t2v": found.negative_t2v,
            "negative_v2t": found.negative_v2t,
        }

    def partial_margin(self) -> PartialMargin:
        """Return TPM-CL with this method's modules; only with `partial_type` 2, 3 or 4."""
        return PartialMargin(
            word_weights=self.v2t_linear_xwp,
            frame_weights=self.t2v_linear_xwp,
            eraser=self.tis_selector,
            head=self._contextual if self.config.normalize == "before-head" else lambda erased, mask: erased,
            frame_logits=(lambda x: self.video_weight_fc(x)[..., 0]) if self._learned else None,
            partial_type=self.config.partial_type,
            margin=self.config.margin,
            reference_bugs=self.config.reference_bugs,
        )

    def tokens(self, sentence: Tensor, words: Tensor, frames: Tensor, mask: Tensor) -> Tokens:
        """Return the batch as TPM-CL takes it: unit vectors, padded to the sizes that its predictors were built for.

        With `normalize: behind-head` its frames have passed the temporal head, and erased ones do not pass it again.
        """
        more_words, more_frames = self.sizes.words - words.shape[1], self.sizes.frames - frames.shape[1]
        if more_words < 0 or more_frames < 0:
            raise DataError(
                f"dmae was built for {self.sizes.words} words and {self.sizes.frames} frames, the batch has "
                f"{words.shape[1]} and {frames.shape[1]}; train on the store that the run was made for, or set "
                "method.dmae.partial_type=-1 (TPM-CL's predictors have fixed sizes)"
            )
        frames = unit_or_zero(frames) if self.config.normalize == "before-head" else self._frames(frames, mask)
        return Tokens(
            sentence,
            pad(unit_or_zero(words), (0, 0, 0, more_words)),
            pad(frames, (0, 0, 0, more_frames)),
            pad(mask, (0, more_frames)),
        )

    # ----------------------------------------------------------------------------------------------------- the sides

    def text_side(self, sentence: Tensor, words: Tensor, importance: Tensor) -> dict[str, Tensor]:
        """Return the caption's part of the op from unit sentences, words of any length and their importance."""
        words = unit_or_zero(words)
        logits = self.text_weight_fc(words)[..., 0] if self._learned and self._words else None
        return kernel.text_side(sentence, words, importance, self._options, logits)

    def video_side(self, frames: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return the clip's part of the op from frames of any length."""
        frames = self._frames(frames, mask)
        logits = self.video_weight_fc(frames)[..., 0] if self._learned else None
        return kernel.video_side(frames, mask, self._options, logits)

    def _frames(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return the frames that scores are made of; normalised before the head, they are not of length 1 behind it."""
        if self.config.normalize == "before-head":
            return self._contextual(unit_or_zero(frames), mask)
        return unit_or_zero(self._contextual(frames, mask))

    def _contextual(self, frames: Tensor, mask: Tensor) -> Tensor:
        """The temporal head with its input residual, or nothing."""
        if self.config.temporal == "meanP":
            return frames
        return contextualize_frames(frames, mask, self.transformerClip, self.frame_position_embeddings)

    def _word_features(self, text: TextFeatures) -> tuple[Tensor, Tensor]:
        """Return words [T, L, D] and importance [T, L]; without tokens (and no use for them) no word at all."""
        if text.tokens is None:
            return text.pooled.new_zeros(len(text), 0, text.pooled.shape[1]), text.n_tokens.new_zeros(len(text), 0)
        if self.config.word_importance and text.importance is not None:
            return full_precision(text.tokens), text.importance
        return full_precision(text.tokens), real_words(text).long()

    @property
    def _words(self) -> bool:
        return self.config.interaction.startswith("att_")

    @property
    def _learned(self) -> bool:
        return self.config.interaction.endswith("wti")

    @property
    def _options(self) -> kernel.DmaeOptions:
        return kernel.DmaeOptions(self._words, self.config.neighbours, self.config.mask_padding)


def _torch_defaults(transformer: TemporalTransformer, positions: nn.Embedding) -> None:
    """Start as torch's modules do, like the authors (Q15: positions from N(0, 1) swamp unit vectors)."""
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    for name, parameter in transformer.named_parameters():
        if name.endswith("in_proj_weight"):
            nn.init.xavier_uniform_(parameter)
        if name.endswith("out_proj.bias"):
            nn.init.zeros_(parameter)
    nn.init.normal_(positions.weight)
