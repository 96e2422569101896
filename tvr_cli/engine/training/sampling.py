"""Which (caption, clip) pairs make up each batch: a pure function of (seed, epoch).

Nothing is carried from epoch to epoch, so a resumed run needs only the step number. Raw Philox words are sorted instead
of calling a library shuffle, because only the raw stream is the same in every version of numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tvr_cli.engine.training.seeds import derive


class PairSampler:
    """Draw the pairs of each epoch and cut them into batches.

    captions: [N] rows of the captions to train on. positives: for each of them the rows of its clips (the windows of a
    file that was cut; one of them is drawn anew every epoch). per_video "one": one random caption of each video an
    epoch, a video being a set of captions with the same positives; "all": every caption. The last, smaller batch of an
    epoch is left out, unless it is the only one.
    """

    def __init__(
        self,
        captions: Sequence[int],
        positives: Sequence[Sequence[int]],
        *,
        batch_size: int,
        per_video: Literal["one", "all"] = "one",
        seed: int = 0,
    ):
        if len(captions) != len(positives) or not len(captions):
            raise ValueError(
                f"expected clips for each of at least one caption, found {len(positives)}, {len(captions)}"
            )
        self.batch_size, self.seed = batch_size, seed
        self._captions = np.asarray(captions, dtype=np.int64)
        self._n_clips = np.array([len(p) for p in positives], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._n_clips)[:-1]])
        self._clips = np.array([c for p in positives for c in p], dtype=np.int64)
        self._groups = _groups(positives) if per_video == "one" else None

    def __len__(self) -> int:
        """Pairs an epoch, before the last batch is left out."""
        return len(self._captions) if self._groups is None else len(self._groups)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return max(len(self) // self.batch_size, 1)

    def epoch(self, epoch: int) -> np.ndarray:
        """Return the pairs of an epoch in order: [N, 2] int64, caption row and clip row."""
        stream = np.random.Philox(key=[derive(self.seed, "order"), epoch])
        chosen = self._choose_captions(stream)
        chosen = chosen[np.argsort(stream.random_raw(len(chosen)), kind="stable")]
        window = stream.random_raw(len(chosen)) % self._n_clips[chosen].astype(np.uint64)
        clips = self._clips[self._starts[chosen] + window.astype(np.int64)]
        return np.stack([self._captions[chosen], clips], axis=1)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the batches of an epoch, each [B, 2]."""
        pairs = self.epoch(epoch)
        return [pairs[i * self.batch_size : (i + 1) * self.batch_size] for i in range(self.steps)]

    def _choose_captions(self, stream: np.random.Philox) -> np.ndarray:
        if self._groups is None:
            return np.arange(len(self._captions))
        sizes = np.array([len(g) for g in self._groups], dtype=np.uint64)
        drawn = (stream.random_raw(len(sizes)) % sizes).astype(np.int64)
        return np.array([g[i] for g, i in zip(self._groups, drawn, strict=True)], dtype=np.int64)


def hold_out(videos: Sequence[str], fraction: float = 0.1, most: int = 1000) -> frozenset[str]:
    """Choose the videos that a training set without a validation split keeps for selection: by hash, never by chance.

    The same videos whatever their order, the seed or the machine. At least one of two or more, at most `most`.
    """
    distinct = sorted(set(videos), key=lambda v: derive("hold out", v))
    if len(distinct) < 2:
        return frozenset()
    return frozenset(distinct[: max(1, min(most, int(len(distinct) * fraction)))])


def _groups(positives: Sequence[Sequence[int]]) -> list[list[int]]:
    found: dict[tuple[int, ...], list[int]] = {}
    for i, clips in enumerate(positives):
        found.setdefault(tuple(clips), []).append(i)
    return list(found.values())
