"""The live source: the backbone runs inside the step, on stored frames and token ids, and gradients reach it.

Captions, clips, splits and plans come from the feature store that the backbone made before it was tuned; its features
are not used. A missing frame counts as the all-zero normalised image, as in the store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tvr_cli import log
from tvr_cli.backbones.base import Backbone
from tvr_cli.config import TrainConfig
from tvr_cli.engine.features.augment import RandAugment
from tvr_cli.engine.features.encode import caption_features, clip_features
from tvr_cli.engine.features.frame_loader import FrameLoader, Pixels
from tvr_cli.engine.training import precision
from tvr_cli.engine.training.ranks import ALONE, Ranks
from tvr_cli.engine.training.seeds import derive
from tvr_cli.engine.training.sources import Features, Inputs, cat
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.types import Rows, TextFeatures, VideoFeatures

_CHUNK = 32  # clips or captions a forward pass of validation
_MOST_WORKERS = 8
_R = TypeVar("_R", bound=Rows)


@dataclass(frozen=True)
class Raw:
    """What this process encodes of a batch. pairs: [B, 2] caption and clip rows.

    pixels: [B, F, 3, S, S] uint8. real: [B, F] bool. marks: [B, L] uint8 or None.
    """

    pairs: np.ndarray
    ids: Tensor
    n_tokens: Tensor
    marks: Tensor | None
    pixels: Tensor
    real: Tensor
    ts: Tensor


class LiveSource:
    """Batches of pixels and token ids, decoded ahead in worker processes; implements `sources.FeatureSource`."""

    def __init__(
        self,
        store: FeatureStore,
        frames: Path,
        backbone: Backbone,
        train: TrainConfig,
        device: torch.device,
        *,
        workers: int | None = None,
        ranks: Ranks = ALONE,
    ):
        self._ranks = ranks
        self._store, self._backbone, self._train, self._device = store, backbone, train, device
        self._clip_key, self._caption_key = store.clips.key, store.captions.key
        self._patches = "video.patches" in store.provides
        self._truncated: set[int] = set()
        self._loader = FrameLoader(
            frames,
            slots=store.sizes.frames,
            view=backbone.about.view,
            augment=RandAugment() if train.augment == "randaugment" else None,
            workers=max(1, default_workers() // ranks.local_world) if workers is None else workers,
        )

    def stream(self, steps: Iterable[tuple[int, np.ndarray]]) -> Iterator[Inputs]:
        asked: list[tuple[int, np.ndarray, np.ndarray]] = []

        def wanted() -> Iterator[tuple[Sequence[str], Sequence[int] | None]]:
            for step, pairs in steps:
                rows = self._ranks.own(len(pairs), self._train.batch_size)
                asked.append((step, pairs, rows))
                yield (
                    self._clips(pairs[rows, 1]),
                    [derive(self._train.seed, "augment", step, i) for i in rows.tolist()],
                )

        for pixels in self._loader.stream(wanted()):
            step, pairs, rows = asked.pop(0)
            yield Inputs(step, pairs, self._raw(pairs[rows], pixels))

    def encode(self, inputs: Inputs, rows: slice) -> Features:
        raw: Raw = inputs.raw
        pairs = torch.from_numpy(raw.pairs[rows])
        marks = None if raw.marks is None else raw.marks[rows]
        text = self._text(pairs[:, 0], raw.ids[rows], raw.n_tokens[rows], marks)
        video = self._video(pairs[:, 1], raw.pixels[rows], raw.real[rows], raw.ts[rows])
        return text, video

    @torch.no_grad()
    def text(self, index: Tensor | None = None) -> TextFeatures:
        def encoded(chunks: Sequence[Tensor]) -> Iterator[TextFeatures]:
            for chunk in chunks:
                ids, n_tokens, marks = self._tokens(chunk.tolist())
                yield self._text(chunk, ids, n_tokens, marks).to("cpu")

        return self._together(torch.arange(len(self._store.captions)) if index is None else index, encoded)

    @torch.no_grad()
    def video(self, index: Tensor | None = None) -> VideoFeatures:
        def encoded(chunks: Sequence[Tensor]) -> Iterator[VideoFeatures]:
            loaded = self._loader.stream((self._clips(chunk.numpy()), None) for chunk in chunks)
            for chunk, pixels in zip(chunks, loaded, strict=True):
                frames, real, ts = _tensors(pixels)
                yield self._video(chunk, frames, real, ts).to("cpu")

        return self._together(torch.arange(len(self._store.clips)) if index is None else index, encoded)

    def close(self) -> None:
        self._loader.close()
        if self._truncated:
            log.logger.warning(
                "%d training caption%s longer than %d tokens %s cut (words.length)",
                len(self._truncated), "" if len(self._truncated) == 1 else "s", self._store.word_plan.length,
                "was" if len(self._truncated) == 1 else "were",
            )  # fmt: skip

    def _together(self, rows: Tensor, encoded: Callable[[Sequence[Tensor]], Iterator[_R]]) -> _R:
        """Encode rows in chunks, each rank its share of them: the same chunks as one process has, so the same bits."""
        chunks = rows.split(_CHUNK)
        mine = chunks[self._ranks.share(len(chunks))]
        made = cat(list(encoded(mine or chunks[:1])))
        left = iter(chunks)
        counts = [sum(map(len, islice(left, n))) for n in self._ranks.counts(len(chunks))]
        return self._ranks.gather(made if mine else made.rows(slice(0, 0)), counts)

    def _clips(self, rows: np.ndarray) -> list[str]:
        return self._store.clips.ids(torch.from_numpy(rows))

    def _raw(self, pairs: np.ndarray, pixels: Pixels) -> Raw:
        ids, n_tokens, marks = self._tokens(pairs[:, 0].tolist())
        return Raw(pairs, ids, n_tokens, marks, *_tensors(pixels))

    def _tokens(self, captions: Sequence[int]) -> tuple[Tensor, Tensor, Tensor | None]:
        texts = self._store.captions.texts(captions)
        length = self._store.word_plan.length
        ids, n_tokens = self._backbone.tokenize(texts, length)
        self._truncated |= {
            i for i, n in zip(captions, self._backbone.count_tokens(texts).tolist(), strict=True) if n > length
        }
        marks = None
        if "importance" in self._store.provides:
            marks = self._store.text(torch.tensor(captions, dtype=torch.int64)).importance
        return ids, n_tokens, marks

    def _text(self, rows: Tensor, ids: Tensor, n_tokens: Tensor, marks: Tensor | None) -> TextFeatures:
        with precision.towers(self._train, self._device):
            pooled, tokens = caption_features(self._backbone, ids, n_tokens, self._store.word_plan)
        provided = tokens if "tokens" in self._store.provides else None
        return TextFeatures(self._caption_key[rows], pooled, provided, n_tokens, marks).to(self._device)

    def _video(self, rows: Tensor, pixels: Tensor, real: Tensor, ts: Tensor) -> VideoFeatures:
        n_frames = real.sum(1)
        pixels, on_device = pixels.to(self._device, non_blocking=True), real.to(self._device)
        with precision.towers(self._train, self._device):
            seen = clip_features(self._backbone, pixels, on_device, self._store.shape, patches=self._patches)
        assert seen.frames is not None, "no method that is trained does without frames"
        pooled, patches = (None if x is None else x.float() for x in (seen.pooled, seen.patches))
        return VideoFeatures(self._clip_key[rows], seen.frames.float(), n_frames, ts, pooled, patches).to(self._device)


def default_workers() -> int:
    """Return how many processes decode frames: all cores but one, at least one, at most eight."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_WORKERS, cores - 1))


def _tensors(pixels: Pixels) -> tuple[Tensor, Tensor, Tensor]:
    frames = torch.from_numpy(pixels.frames).permute(0, 1, 4, 2, 3)  # [B, F, 3, S, S]
    real = torch.arange(frames.shape[1])[None] < torch.from_numpy(pixels.n_frames)[:, None]
    return frames, real, torch.from_numpy(pixels.ts)
