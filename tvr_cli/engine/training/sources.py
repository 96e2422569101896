"""Where a batch comes from. A method never knows: it sees features, cached or live.

`CachedSource` reads a feature store (backbone frozen). `LiveSource` (`live.py`) runs the backbone inside the step on
stored frames and token ids, so that gradients reach it. Both take captions, clips and plans from a feature store.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from tvr_cli.engine.features.frame_batches import ahead
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.types import Rows, TextFeatures, VideoFeatures

Features = tuple[TextFeatures, VideoFeatures]
_R = TypeVar("_R", bound=Rows)


@dataclass(frozen=True)
class Inputs:
    """One batch before the backbone. pairs: [B, 2] caption and clip rows. raw: what the source encodes.

    Of several ranks each has all pairs here, and what is raw of its own rows alone (`Ranks.own`).
    """

    step: int
    pairs: np.ndarray
    raw: Any

    def __len__(self) -> int:
        return len(self.pairs)


def cat(parts: Sequence[_R]) -> _R:
    """Concatenate features along the items; a field that is None stays None."""
    values = {f.name: [getattr(p, f.name) for p in parts] for f in dataclasses.fields(parts[0])}
    return dataclasses.replace(parts[0], **{k: None if v[0] is None else torch.cat(v) for k, v in values.items()})


class FeatureSource(Protocol):
    """A stream of batches for training, and features without gradients for validation."""

    def stream(self, steps: Iterable[tuple[int, np.ndarray]]) -> Iterator[Inputs]:
        """Yield the inputs of each (step, pairs), in order; may read ahead."""
        ...

    def encode(self, inputs: Inputs, rows: slice) -> Features:
        """Return the features of some pairs of a batch on the training device, with a graph where there is one."""
        ...

    def text(self, index: Tensor | None = None) -> TextFeatures:
        """Return features of captions for validation, as the weights are now."""
        ...

    def video(self, index: Tensor | None = None) -> VideoFeatures:
        """Return features of clips for validation, as the weights are now."""
        ...

    def close(self) -> None:
        """Stop workers, if there are any."""
        ...


class CachedSource:
    """Batches from a feature store; a store that fits `keep_bytes` is held in memory."""

    def __init__(
        self,
        store: FeatureStore,
        device: torch.device,
        *,
        patches: bool = False,
        keep_bytes: int = 2 * 10**9,
        own: Callable[[int], np.ndarray] | None = None,
    ):
        """patches: give those of frames too. own: number of a step's pairs -> rows of them to read, None = all."""
        self._store, self._device, self._patches, self._own = store, device, patches, own
        self._kept: Features | None = None
        if self._needed() <= keep_bytes:
            self._kept = store.text(), store.video(patches=patches)

    def stream(self, steps: Iterable[tuple[int, np.ndarray]]) -> Iterator[Inputs]:
        if self._kept is not None:
            return map(self._inputs, steps)
        return ahead(steps, self._inputs)  # reading shards overlaps with the step

    def _inputs(self, batch: tuple[int, np.ndarray]) -> Inputs:
        step, pairs = batch
        rows = torch.from_numpy(pairs if self._own is None else pairs[self._own(len(pairs))])
        return Inputs(step, pairs, (self.text(rows[:, 0]), self.video(rows[:, 1])))

    def encode(self, inputs: Inputs, rows: slice) -> Features:
        text, video = inputs.raw
        return text.rows(rows).to(self._device), video.rows(rows).to(self._device)

    def text(self, index: Tensor | None = None) -> TextFeatures:
        if self._kept is None:
            return self._store.text(index)
        return self._kept[0] if index is None else self._kept[0].rows(index)

    def video(self, index: Tensor | None = None) -> VideoFeatures:
        if self._kept is None:
            return self._store.video(index, patches=self._patches)
        return self._kept[1] if index is None else self._kept[1].rows(index)

    def close(self) -> None:
        pass

    def _needed(self) -> int:
        """Return the bytes of the store's features in float32."""
        store, sizes = self._store, self._store.sizes
        frames = len(store.clips) * sizes.frames
        if self._patches and len(store.clips):
            one = store.video(torch.tensor([0]), patches=True).patches
            frames *= 1 if one is None else 1 + one.shape[2]
        return 4 * sizes.dim * (frames + len(store.captions) * (sizes.words + 1))
