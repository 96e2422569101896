"""CLIP4Clip with a sequential head: frames mixed in time, averaged, and compared with the caption.

A temporal transformer ("seqTransf") or an LSTM ("seqLSTM") is added to the frames; the mean direction of the real ones
is the clip's one vector, so a score is one dot product. Without either it is `mean`. docs/methods/clip4clip_seq.md.

Source: CLIP4Clip, arXiv 2104.08860; the authors' code at 508ffa3 decides where the paper differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tvr_cli.errors import ConfigError
from tvr_cli.methods import base
from tvr_cli.methods.base import full_precision, masked_mean, setting, unit
from tvr_cli.nn.losses import info_nce
from tvr_cli.nn.temporal import TemporalTransformer, contextualize_frames, frame_positions, start_from_text_tower
from tvr_cli.types import Batch, Draws, Encoding, LossOutput, Sizes, TextFeatures, VideoFeatures

TABLE = "frame_position_embeddings.weight"


class Method(base.Method):
    """Score by the cosine with the mean of frames that have seen each other; train with a symmetric InfoNCE."""

    fidelity = "authors-code@508ffa3"
    summary = "frames mixed by a temporal transformer or an LSTM, then their mean; one vector a clip"
    paper = "CLIP4Clip, arXiv 2104.08860 (sequential type)"
    bibtex = """@article{Luo2021CLIP4Clip,
  author  = {Huaishao Luo and Lei Ji and Ming Zhong and Yang Chen and Wen Lei and Nan Duan and Tianrui Li},
  title   = {{CLIP4Clip}: An Empirical Study of {CLIP} for End to End Video Clip Retrieval},
  journal = {arXiv preprint arXiv:2104.08860},
  year    = {2021}
}"""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Options of CLIP4Clip's sequential heads."""

        head: Literal["transformer", "lstm"] = setting(
            "transformer", symbol="sim_header", source="authors' parser", note="seqTransf or seqLSTM; meanP is `mean`"
        )
        temporal_layers: int = setting(
            4, symbol="cross_num_hidden_layers", source="authors' parser", note="of the transformer"
        )

        def __post_init__(self) -> None:
            if self.temporal_layers < 1:
                raise ConfigError(f"clip4clip_seq: temporal_layers must be at least 1, found {self.temporal_layers}")

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__(config, sizes)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(100.0)))  # where OpenAI's checkpoints start
        self.frame_position_embeddings = frame_positions(sizes.dim)
        if config.head == "transformer":
            self.transformerClip = TemporalTransformer(sizes.dim, config.temporal_layers)
        else:
            self.lstm_visual = nn.LSTM(sizes.dim, sizes.dim, batch_first=True)

    def dead(self) -> frozenset[str]:
        """The LSTM reads no positions; the authors' files have the table all the same."""
        return frozenset() if self.config.head == "transformer" else frozenset({TABLE})

    @classmethod
    def read_checkpoint(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Sizes]:
        layers = base.temporal_layers(state)
        if not layers and "lstm_visual.weight_ih_l0" not in state:
            raise ConfigError(
                "expected the temporal blocks (transformerClip.*) or the LSTM (lstm_visual.*) of a sequential head, "
                "found neither: CLIP4Clip's meanP has no weights but CLIP's, and is the method mean here"
            )
        head = "transformer" if layers else "lstm"
        return {"head": head, "temporal_layers": layers or 4}, Sizes(state[TABLE].shape[1], 0, 0)

    @torch.no_grad()
    def init_from_backbone(self, text_tower: Mapping[str, Tensor], logit_scale: Tensor) -> None:
        self.logit_scale.copy_(logit_scale.reshape(()))
        if self.config.head == "transformer":
            start_from_text_tower(self.transformerClip, self.frame_position_embeddings, text_tower)

    # ------------------------------------------------------------------------------------------------------- scoring

    def encode_text(self, text: TextFeatures) -> Encoding:
        return Encoding(text.key, {"text": unit(full_precision(text.pooled))})

    def encode_video(self, video: VideoFeatures) -> Encoding:
        mask = video.mask()
        z = self.contextualize(full_precision(video.frames), mask)
        frames = unit(z.masked_fill(~mask[..., None], 1.0))  # a missing slot must not divide by zero
        return Encoding(video.key, {"video": unit(masked_mean(frames, mask)), "frames": frames, "mask": mask})

    def score(self, text: Encoding, video: Encoding) -> Tensor:
        return self.logit_scale.exp() * (text["text"] @ video["video"].T)

    def score_scale(self) -> float:
        return float(self.logit_scale.detach().exp())

    def coarse(self, e: Encoding) -> Tensor:
        return e["text"] if "text" in e.tensors else e["video"]

    def explain(self, text: Encoding, video: Encoding) -> Tensor:
        return base.frame_cosines(text["text"], video["frames"], video["mask"])

    def pair_bytes(self) -> int:
        return 8

    def cost_per_pair(self) -> str:
        return f"{self.sizes.dim} MAC"

    # ------------------------------------------------------------------------------------------------------ training

    def loss(self, batch: Batch, *, step: int, draws: Draws) -> LossOutput:
        """Symmetric InfoNCE of the score. Draws nothing."""
        found = info_nce(self.score(self.encode_text(batch.text), self.encode_video(batch.video)), batch.positives())
        return LossOutput(found.total, {"t2v": found.t2v, "v2t": found.v2t})

    # ------------------------------------------------------------------------------------------------------- private

    def contextualize(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return z [V, F, D] of frames [V, F, D], mask [V, F] bool, True = real; what is missing stays out of it."""
        if self.config.head == "transformer":
            return contextualize_frames(frames, mask, self.transformerClip, self.frame_position_embeddings)
        # Packed: the LSTM runs over each clip's own frames, which stand first. cuDNN wants the lengths on the CPU.
        lengths = mask.sum(1).clamp_min(1).cpu()
        packed = pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.lstm_visual(packed)[0], batch_first=True, total_length=frames.shape[1])
        return frames + hidden
