"""Retrieval metrics: pure functions of a score matrix and of which video each caption describes. numpy only.

Ties are never decided by luck or by position. For a query with `better` wrong items strictly above its best positive,
`tied` wrong items equal to it and `positives` positives at that value, all orders of the tied items are equally likely:

    P(hit@k) = 1 - C(tied, j) / C(tied + positives, j),  j = clamp(k - better, 0, tied + positives)
    E[rank]  = better + (tied + positives + 1) / (positives + 1)

R@k is the mean of P(hit@k) in percent, MnR the mean and MdR the median of the expected ranks (1 = first). So a constant
matrix scores exactly chance. NaN is an error, never a rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvr_cli.errors import DataError

CUTOFFS = (1, 5, 10)
Scores = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ranks:
    """Where the best positive of each of N queries stands.

    better: [N] wrong items strictly above it. tied: [N] wrong items equal to it. positives: [N] positives at its value.
    """

    better: Ints
    tied: Ints
    positives: Ints

    def __len__(self) -> int:
        return len(self.better)

    def expected(self) -> NDArray[np.float64]:
        """Return [N] expected ranks, 1 = first."""
        return self.better + (self.tied + self.positives + 1) / (self.positives + 1)

    def hit(self, k: int) -> NDArray[np.float64]:
        """Return [N] probabilities that a positive is among the first k."""
        total = self.tied + self.positives
        drawn = np.clip(k - self.better, 0, total)
        miss = np.ones(len(self), dtype=np.float64)
        for i in range(1, int(self.positives.max(initial=0)) + 1):
            # C(e, j) / C(e + m, j) is the product over i = 1..m of (e - j + i) / (e + i).
            active = i <= self.positives
            miss = np.where(active, miss * np.clip(self.tied - drawn + i, 0, None) / (self.tied + i), miss)
        return 1.0 - miss


def text_to_video(scores: Scores, video_of_caption: Ints) -> Ranks:
    """Rank all V videos for each of T captions.

    scores: [T, V], larger = more similar. video_of_caption: [T], the column of each caption's video.
    """
    scores = checked(scores, video_of_caption)
    target = scores[np.arange(len(scores)), video_of_caption][:, None]
    better = (scores > target).sum(1, dtype=np.int64)
    tied = (scores == target).sum(1, dtype=np.int64) - 1
    return Ranks(better, tied, np.ones_like(better))


def video_to_text_max(scores: Scores, video_of_caption: Ints) -> Ranks:
    """Rank videos' caption groups for each video: a group scores as its best caption (protocol `max`, CLIP4Clip's).

    scores: [T, V]. Videos without a caption are no query and no candidate.
    """
    scores = checked(scores, video_of_caption)
    videos, group = np.unique(video_of_caption, return_inverse=True)
    grouped = np.full((len(videos), scores.shape[1]), -np.inf, dtype=scores.dtype)
    np.maximum.at(grouped, group, scores)  # [G, V]
    return text_to_video(np.ascontiguousarray(grouped[:, videos].T), np.arange(len(videos)))


def summary(ranks: Ranks, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Return R@k in percent, MdR and MnR."""
    expected = ranks.expected()
    recalls = {f"R@{k}": 100.0 * float(ranks.hit(k).mean()) for k in cutoffs}
    return {**recalls, "MdR": float(np.median(expected)), "MnR": float(expected.mean())}


def evaluate(scores: Scores, video_of_caption: Ints) -> dict[str, Any]:
    """Return `t2v`, `v2t` (protocol max), `rsum` (the six R@1/5/10) and the number of queries whose rank is tied."""
    forward, backward = text_to_video(scores, video_of_caption), video_to_text_max(scores, video_of_caption)
    t2v, v2t = summary(forward), summary(backward)
    return {
        "t2v": t2v,
        "v2t": v2t,
        "rsum": rsum(t2v, v2t),
        "ties": {"t2v": int((forward.tied > 0).sum()), "v2t": int((backward.tied > 0).sum())},
    }


def rsum(t2v: Mapping[str, float], v2t: Mapping[str, float]) -> float:
    """Return the sum of R@1, R@5 and R@10 of both directions."""
    return sum(side[f"R@{k}"] for side in (t2v, v2t) for k in CUTOFFS)


def checked(scores: Scores, video_of_caption: Ints) -> Scores:
    """Return the scores as fp32 or fp64. Raises DataError for NaN, wrong shapes or a caption without its video."""
    if scores.ndim != 2 or len(scores) != len(video_of_caption) or scores.size == 0:
        raise DataError(
            f"expected scores [T, V] with T = {len(video_of_caption)} captions, found shape {tuple(scores.shape)}"
        )
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float32)
    bad = np.isnan(scores).any(1)
    if bad.any():
        raise DataError(
            f"the scores of {int(bad.sum())} of {len(scores)} captions hold NaN (first: row {int(bad.argmax())}); "
            "a NaN has no rank, so no metric is given"
        )
    if video_of_caption.min() < 0 or video_of_caption.max() >= scores.shape[1]:
        raise DataError(f"video_of_caption must name columns 0..{scores.shape[1] - 1} of the scores")
    return scores
