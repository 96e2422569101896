"""What a feature store of a workspace will contain: the options, and the plans checked against backbone and frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from tvr_cli import commands
from tvr_cli.backbones.base import Description
from tvr_cli.engine.features import word_importance
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.stores.frames.store import FrameStore
from tvr_cli.types import WordPlan

DEFAULT_WORDS = 32
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class PrecomputeOptions:
    """How to compute features.

    dtype: how they are stored. shape: `fixed` keeps missing frames and pad tokens, `ragged` the real ones. words: shape
    of the token features, None = as `shape`. max_words: token slots L, None = 32 or the context if shorter. precision:
    arithmetic of the towers. batch: frames a forward pass, None = by device.
    """

    dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    shape: Literal["fixed", "ragged"] = "fixed"
    words: Literal["fixed", "ragged"] | None = None
    max_words: int | None = None
    temporal_shift: bool = False
    word_importance: str = "none"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    batch: int | None = None
    device: str = "auto"
    offline: bool = False


@dataclass(frozen=True)
class FeaturePlan:
    """The plans of a store, checked against backbone and frames. slots: F, None where frames are ragged."""

    shape: str
    slots: int | None
    words: WordPlan
    importance: str

    @staticmethod
    def make(backbone: Description, frames: FrameStore, options: PrecomputeOptions) -> FeaturePlan:
        size, needed = frames.plan.size, backbone.image_size
        again = commands.tvr("extract-frames", "VIDEOS", size=needed, overwrite=True, workspace=frames.workspace)
        if size < needed:
            raise DataError(
                f"the frames in {str(frames.root)!r} are {size} px, but the backbone {backbone.name} takes {needed} "
                f"px; run: {again}"
            )
        if options.shape == "fixed" and frames.plan.slots is None:
            raise ConfigError(
                "--shape fixed needs a largest number of frames a clip, and these frames have none; use --shape "
                "ragged, or run: "
                + commands.tvr("extract-frames", "VIDEOS", fps=frames.plan.fps, max_frames=12, overwrite=True)
            )
        if options.temporal_shift and options.shape != "fixed":
            raise ConfigError("--temporal-shift mixes the frames of whole clips; it needs --shape fixed")
        length = options.max_words or min(DEFAULT_WORDS, backbone.context_length)
        if not 3 <= length <= backbone.context_length:
            raise ConfigError(
                f"--max-words: expected 3 to {backbone.context_length}, the context of {backbone.name}, found {length}"
            )
        words = WordPlan(options.words or options.shape, length)
        slots = frames.plan.slots if options.shape == "fixed" else None
        return FeaturePlan(options.shape, slots, words, word_importance.rule_identity(options.word_importance))

    @property
    def extra(self) -> set[str]:
        return set() if self.importance == "none" else {"importance"}

    def identity(self, backbone: dict[str, Any], frames: FrameStore) -> dict[str, Any]:
        return {
            "backbone": backbone,
            "frames": dict(frames.identity),
            "shape": self.shape,
            "words": {"shape": self.words.shape, "length": self.words.length},
            "importance": self.importance,
        }
