"""Methods whose score is a few matrix products, in numpy: what answers a query without importing torch.

Each is equal to the method of its name to rounding, on what an index keeps of clips (a test holds it). A method with
parameters, or with more arithmetic than this, is not here; a query of it takes the ordinary way.

Letters: T sentences, V clips, F frame slots, D features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

_EXPLAIN_TEMPERATURE = 0.01  # as in `mean`
Arrays = Mapping[str, np.ndarray]


class LightMethod(Protocol):
    """The part of a `Method` that a query needs. scores_with, explains_with: tensors of a clip's encoding.

    counts_on_length: as in `Method`; sentences are then given with the factor that they need.
    """

    @property
    def counts_on_length(self) -> bool: ...

    @property
    def scores_with(self) -> tuple[str, ...]: ...
    @property
    def explains_with(self) -> tuple[str, ...]: ...

    def coarse(self, text: np.ndarray) -> np.ndarray:
        """Return [T, D] unit vectors of sentences' pooled features [T, D]."""

    def score(self, text: np.ndarray, video: Arrays) -> np.ndarray:
        """Return [T, V] scores of pooled features [T, D] with clips."""

    def explain(self, text: np.ndarray, video: Arrays) -> np.ndarray:
        """Return weights [V, F] over frame slots for one sentence's pooled features [1, D], zero on missing frames."""


@dataclass(frozen=True, kw_only=True)
class Mean:
    """See `mean.py`. It has no options."""

    counts_on_length = False
    scores_with = ("video",)
    explains_with = ("frames", "mask")

    def coarse(self, text: np.ndarray) -> np.ndarray:
        return _unit(text)

    def score(self, text: np.ndarray, video: Arrays) -> np.ndarray:
        return (video["video"] @ _unit(text).T).T

    def explain(self, text: np.ndarray, video: Arrays) -> np.ndarray:
        return _softmax(video["frames"] @ _unit(text)[0] / np.float32(_EXPLAIN_TEMPERATURE), video["mask"])


@dataclass(frozen=True, kw_only=True)
class TextGuided:
    """See `text_guided.py`, whose options these are, and `tvr_kernels.text_pooling`."""

    temperature: float = 5.0
    normalize: bool = False
    mask_padding: bool = True

    counts_on_length = True
    scores_with = ("frames", "gram", "frame_mask")
    explains_with = ("frames", "real")

    def coarse(self, text: np.ndarray) -> np.ndarray:
        return _unit(text)

    def score(self, text: np.ndarray, video: Arrays) -> np.ndarray:
        text = self._of_length(text)
        frames, mask = video["frames"], video["frame_mask"][..., None]
        s = (frames.reshape(-1, frames.shape[-1]) @ text.T).reshape(*frames.shape[:2], len(text))  # [V, F, T]
        e = np.where(mask, s, np.float32(-np.inf))
        e -= e.max(1, keepdims=True)
        e *= np.float32(1 / self.temperature)
        np.exp(e, out=e)
        length = np.sqrt(((video["gram"] @ e) * e).sum(1))
        return ((e * s).sum(1) / length).T / np.linalg.norm(text, axis=-1, keepdims=True)

    def explain(self, text: np.ndarray, video: Arrays) -> np.ndarray:
        return _softmax(video["frames"] @ self._of_length(text)[0] / np.float32(self.temperature), video["real"])

    def _of_length(self, text: np.ndarray) -> np.ndarray:
        return _unit(text) if self.normalize else text


METHODS: Mapping[str, type[Mean] | type[TextGuided]] = {"mean": Mean, "text_guided": TextGuided}


def options_of(method: Mean | TextGuided) -> dict[str, object]:
    """Return a method's options by name, as its preset has them."""
    return dataclasses.asdict(method)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _softmax(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    e = np.where(mask, logits, np.float32(-np.inf))
    e = np.exp(e - e.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
