"""Retrieval metrics: pure functions of a score matrix and of which video each caption describes. numpy only.

Ties are never decided by luck or by position. For a query with `better` wrong items strictly above its best positive,
`tied` wrong items equal to it and `positives` positives at that value, all orders of the tied items are equally likely:

    P(hit@k) = 1 - C(tied, j) / C(tied + positives, j),  j = clamp(k - better, 0, tied + positives)
    E[rank]  = better + (tied + positives + 1) / (positives + 1)

R@k is the mean of P(hit@k) in percent, MnR the mean and MdR the median of the expected ranks (1 = first), MRR the mean
of E[1 / rank], nDCG@10 the mean of the expected gain. So a constant matrix scores exactly chance, and NaN is an error,
never a rank. Every definition is worked through on one 4 x 8 example in docs/evaluation.md.

Intervals and tests are in `significance.py`, the counting of older code in `clip4clip.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tvr_cli.errors import DataError

CUTOFFS = (1, 5, 10, 50)
RSUM_CUTOFFS = (1, 5, 10)
NDCG_CUTOFF = 10
_ROWS = 1000  # looked at together
V2TProtocol = Literal["max", "best-caption", "mean-rank"]
V2T_PROTOCOLS: tuple[V2TProtocol, ...] = ("max", "best-caption", "mean-rank")

Scores = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranks:
    """Where the best positive of each of N queries stands.

    better: [N] wrong items strictly above it. tied: [N] wrong items equal to it. positives: [N] positives at its value.
    video: [N] the video that each query belongs to, the unit of every interval. gain: [N] expected nDCG@10.
    averaged: the queries of a video are averaged before anything else (protocol mean-rank).
    """

    better: Ints
    tied: Ints
    positives: Ints
    video: Ints
    gain: Floats
    averaged: bool = False

    def __len__(self) -> int:
        return len(self.better)

    def expected(self) -> Floats:
        """Return [N] expected ranks, 1 = first."""
        return np.asarray(self.better + (self.tied + self.positives + 1) / (self.positives + 1), dtype=np.float64)

    def optimistic(self) -> Floats:
        """Return [N] ranks if every tie fell out well."""
        return np.asarray(self.better + 1.0, dtype=np.float64)

    def pessimistic(self) -> Floats:
        """Return [N] ranks if every tie fell out badly."""
        return np.asarray(self.better + self.tied + 1.0, dtype=np.float64)

    def hit(self, k: int) -> Floats:
        """Return [N] probabilities that a positive is among the first k."""
        total = self.tied + self.positives
        drawn = np.clip(k - self.better, 0, total)
        miss = np.ones(len(self))
        for i in range(1, int(self.positives.max(initial=0)) + 1):
            # C(e, j) / C(e + m, j) is the product over i = 1..m of (e - j + i) / (e + i).
            factor = np.clip(self.tied - drawn + i, 0, None) / (self.tied + i)
            miss = np.where(i <= self.positives, miss * factor, miss)
        return np.asarray(1.0 - miss, dtype=np.float64)

    def reciprocal(self) -> Floats:
        """Return [N] expected reciprocal ranks."""
        result = np.asarray(1.0 / (self.better + 1.0), dtype=np.float64)
        for n in np.flatnonzero(self.tied):
            e, m, g = int(self.tied[n]), int(self.positives[n]), int(self.better[n])
            first = np.arange(1, e + 2)  # position of the first positive among e + m tied items
            chance = np.array([math.comb(e + m - x, m - 1) for x in first.tolist()]) / math.comb(e + m, m)
            result[n] = float((chance / (g + first)).sum())
        return result


# --------------------------------------------------------------------------------------------------------- directions


def text_to_video(scores: Scores, video_of_caption: Ints) -> Ranks:
    """Rank all V videos for each of T captions.

    scores: [T, V], larger = more similar. video_of_caption: [T], the column of each caption's video.
    """
    scores = checked(scores, video_of_caption)
    target = scores[np.arange(len(scores)), video_of_caption]
    return _single(*_count(scores, target), video_of_caption)


def video_to_text(scores: Scores, video_of_caption: Ints, protocol: V2TProtocol = "max") -> Ranks:
    """Rank captions for each video that has one, by a named protocol.

    max: a video's captions are one group that scores as its best caption; groups are ranked (CLIP4Clip's way).
    best-caption: all T captions are ranked, the video's best one counts (collaborative-experts' way).
    mean-rank: all T captions are ranked; every caption of the video counts, its siblings are not in its way. Here the
    queries are (video, caption) pairs; `summary` averages the pairs of a video first.
    """
    scores = checked(scores, video_of_caption)
    if protocol == "max":
        videos, grouped = group_by_video(scores, video_of_caption)
        candidates = grouped if len(videos) == scores.shape[1] else grouped[:, videos]  # [G candidates, G queries]
        best = candidates.diagonal()
        better = (candidates > best).sum(0, dtype=np.int64)
        return _single(better, (candidates == best).sum(0, dtype=np.int64) - 1, np.arange(len(videos)))
    own = [np.flatnonzero(video_of_caption == v) for v in np.unique(video_of_caption)]
    if protocol == "best-caption":
        return _stack([_best_of(scores[:, video_of_caption[rows[0]]], rows) for rows in own])
    if protocol == "mean-rank":
        return _stack([_each_of(scores[:, video_of_caption[rows[0]]], rows) for rows in own], averaged=True)
    raise DataError(f"unknown video-to-text protocol {protocol!r}; there are: {', '.join(V2T_PROTOCOLS)}")


def first_places(scores: Scores) -> Floats:
    """Return [V] how many of the captions' first places each video takes; a tied first place is shared."""
    places = np.zeros(scores.shape[1])
    for start in range(0, len(scores), _ROWS):  # blocks, so that no second matrix is held
        block = scores[start : start + _ROWS]
        first = block == block.max(1, keepdims=True)
        rows, columns = np.nonzero(first)
        places += np.bincount(columns, 1.0 / first.sum(1)[rows], minlength=len(places))
    return places


def group_by_video(scores: Scores, video_of_caption: Ints) -> tuple[Ints, Scores]:
    """Return the videos that have captions [G], and [G, V] the best score of each one's captions with every video."""
    videos, group = np.unique(video_of_caption, return_inverse=True)
    if len(videos) == len(scores):  # one caption each: nothing to merge, and a matrix in order needs no copy
        in_order = bool((np.diff(group) > 0).all())
        return videos, scores if in_order else scores[np.argsort(group)]
    grouped = np.full((len(videos), scores.shape[1]), -np.inf, dtype=scores.dtype)
    np.maximum.at(grouped, group, scores)
    return videos, grouped


# ------------------------------------------------------------------------------------------------------------ results


def summary(ranks: Ranks, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Return R@k and nDCG@10 in percent, MdR, MnR and MRR."""
    values, _ = per_query(ranks, cutoffs)
    return {name: float(np.median(v) if name == "MdR" else v.mean()) for name, v in values.items()}


def per_query(ranks: Ranks, cutoffs: Sequence[int] = CUTOFFS) -> tuple[dict[str, Floats], Ints]:
    """Return [N] values of every metric and the video of each: what `summary` averages and intervals resample."""
    expected = ranks.expected()
    values = {f"R@{k}": 100.0 * ranks.hit(k) for k in cutoffs}
    values |= {"MdR": expected, "MnR": expected, "MRR": ranks.reciprocal(), f"nDCG@{NDCG_CUTOFF}": 100.0 * ranks.gain}
    if not ranks.averaged:
        return values, ranks.video
    videos, of_query, count = np.unique(ranks.video, return_inverse=True, return_counts=True)
    return {name: np.bincount(of_query, v) / count for name, v in values.items()}, videos


def bounds(ranks: Ranks, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, list[float]]:
    """Return [pessimistic, optimistic] R@k in percent: what the ties could make of it."""
    low, high = ranks.pessimistic(), ranks.optimistic()
    return {f"R@{k}": [100.0 * float((low <= k).mean()), 100.0 * float((high <= k).mean())] for k in cutoffs}


def evaluate(scores: Scores, video_of_caption: Ints, protocol: V2TProtocol = "max") -> dict[str, Any]:
    """Return `t2v`, `v2t`, `rsum` (the six R@1/5/10), `bounds` of both, and how many queries have a tied rank."""
    return summarise(text_to_video(scores, video_of_caption), video_to_text(scores, video_of_caption, protocol))


def summarise(forward: Ranks, backward: Ranks) -> dict[str, Any]:
    """Return what `evaluate` returns, from ranks that were counted before (streamed, for example)."""
    t2v, v2t = summary(forward), summary(backward)
    return {
        "t2v": t2v,
        "v2t": v2t,
        "rsum": rsum(t2v, v2t),
        "ties": {"t2v": int((forward.tied > 0).sum()), "v2t": int((backward.tied > 0).sum())},
        "bounds": {"t2v": bounds(forward), "v2t": bounds(backward)},
    }


def rsum(t2v: Mapping[str, float], v2t: Mapping[str, float]) -> float:
    """Return the sum of R@1, R@5 and R@10 of both directions."""
    return sum(side[f"R@{k}"] for side in (t2v, v2t) for k in RSUM_CUTOFFS)


# ---------------------------------------------------------------------------------------------------------- streaming

Tile = tuple[slice, slice, Scores]  # rows, columns, scores of that block


def streamed(tiles: Callable[[], Iterable[Tile]], video_of_caption: Ints, videos: int) -> tuple[Ranks, Ranks]:
    """Rank both directions (v2t by `max`) from two passes over the tiles of a matrix that is never held.

    tiles: called twice, yields the same blocks both times. Captions of one video must be neighbours and stand in one
    block, as they do when captions are sorted by video and blocks end between videos. Raises DataError otherwise.
    """
    n = len(video_of_caption)
    target = np.full(n, np.nan, dtype=np.float64)
    for rows, columns, block in tiles():
        inside = np.flatnonzero((video_of_caption[rows] >= columns.start) & (video_of_caption[rows] < columns.stop))
        target[rows.start + inside] = block[inside, video_of_caption[rows][inside] - columns.start]
    present = np.unique(video_of_caption)
    group = np.searchsorted(present, video_of_caption)
    best = np.full(len(present), -np.inf)
    np.maximum.at(best, group, target)
    counts = np.zeros((4, max(n, len(present))), dtype=np.int64)  # t2v better, tied; v2t better, tied
    for rows, columns, block in tiles():
        checked(block, np.zeros(len(block), dtype=np.int64))
        counts[0, rows] += (block > target[rows, None]).sum(1)
        counts[1, rows] += (block == target[rows, None]).sum(1)
        _count_groups(counts, block.astype(np.float64), rows, columns, group, present, best)
    forward = _single(counts[0, :n], counts[1, :n] - 1, video_of_caption)
    g = len(present)
    return forward, _single(counts[2, :g], counts[3, :g] - 1, np.arange(g))


class FirstPlaces:
    """Counts `first_places` from the same two passes over tiles: who is best is known after the first."""

    def __init__(self, captions: int, videos: int):
        self.places = np.zeros(videos)
        self._best = np.full(captions, -np.inf)
        self._tied = np.zeros(captions, dtype=np.int64)
        self._passes = 0

    def begin_pass(self) -> None:
        """Say that the tiles come from the beginning."""
        self._passes += 1

    def take(self, rows: slice, columns: slice, block: Scores) -> None:
        """Take one tile."""
        if self._passes == 1:
            best, top = self._best[rows], block.max(1)
            tied = (block == top[:, None]).sum(1)
            self._tied[rows] = np.where(top > best, tied, self._tied[rows] + np.where(top == best, tied, 0))
            self._best[rows] = np.maximum(best, top)
            return
        first = block == self._best[rows, None]
        at, column = np.nonzero(first)
        self.places[columns] += np.bincount(column, 1.0 / self._tied[rows][at], minlength=block.shape[1])


def _count_groups(
    counts: Ints, block: Floats, rows: slice, columns: slice, group: Ints, present: Ints, best: Floats
) -> None:
    first, last = group[rows.start], group[rows.stop - 1]
    split = (rows.start > 0 and group[rows.start - 1] == first) or (rows.stop < len(group) and group[rows.stop] == last)
    if split or (np.diff(group[rows]) < 0).any():
        raise DataError("streaming needs captions sorted by video and tiles that end between videos")
    starts = np.flatnonzero(np.diff(group[rows], prepend=-1))
    grouped = np.maximum.reduceat(block, starts, axis=0)
    queries = np.flatnonzero((present >= columns.start) & (present < columns.stop))
    candidates = grouped[:, present[queries] - columns.start]
    counts[2, queries] += (candidates > best[queries]).sum(0)
    counts[3, queries] += (candidates == best[queries]).sum(0)


# ------------------------------------------------------------------------------------------------------------ private


def checked(scores: Scores, video_of_caption: Ints) -> Scores:
    """Return the scores as fp32 or fp64. Raises DataError for NaN, wrong shapes or a caption without its video."""
    if scores.ndim != 2 or len(scores) != len(video_of_caption) or scores.size == 0:
        turned = scores.ndim == 2 and scores.shape[1] == len(video_of_caption) > 0
        raise DataError(
            f"expected scores [T, V] with T = {len(video_of_caption)} captions and V > 0 videos, found shape "
            f"{tuple(scores.shape)}{'; transpose it: captions are rows' if turned else ''}"
        )
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float32)
    bad = np.isnan(scores).any(1)
    if bad.any():
        raise DataError(
            f"the scores of {int(bad.sum())} of {len(scores)} captions hold NaN (first: row {int(bad.argmax())}); "
            "a NaN has no rank, so no metric is given"
        )
    endless = np.isposinf(scores)
    if endless.any():
        row, column = (int(x) for x in np.unravel_index(int(endless.argmax()), endless.shape))
        raise DataError(
            f"the scores hold +infinity {int(endless.sum())} times (first: row {row}, column {column}): it beats or "
            "ties with everything, as an overflow of half precision does; save the scores as float32"
        )
    if video_of_caption.min() < 0 or video_of_caption.max() >= scores.shape[1]:
        raise DataError(f"video_of_caption must name columns 0..{scores.shape[1] - 1} of the scores")
    return scores


def _count(scores: Scores, target: Scores) -> tuple[Ints, Ints]:
    better = (scores > target[:, None]).sum(1, dtype=np.int64)
    return better, (scores == target[:, None]).sum(1, dtype=np.int64) - 1


def _single(better: Ints, tied: Ints, video: Ints) -> Ranks:
    """Make ranks of queries with one positive each."""
    discount = np.concatenate([[0.0], np.cumsum(_discounts())])  # sum of the first i discounts
    first, last = np.minimum(better, NDCG_CUTOFF), np.minimum(better + tied + 1, NDCG_CUTOFF)
    gain = (discount[last] - discount[first]) / (tied + 1)
    return Ranks(better, tied, np.ones_like(better), np.asarray(video, dtype=np.int64), gain)


def _best_of(column: Scores, own: Ints) -> tuple[Ints, Ints, Ints, Floats]:
    """Count for the best of a video's captions `own` among the scores [T] of all captions."""
    wrong = np.delete(column, own)
    best = column[own].max()
    better, tied = int((wrong > best).sum()), int((wrong == best).sum())
    counts = np.array([[better], [tied], [int((column[own] == best).sum())]], dtype=np.int64)
    return counts[0], counts[1], counts[2], np.array([_expected_gain(column, own)])


def _each_of(column: Scores, own: Ints) -> tuple[Ints, Ints, Ints, Floats]:
    """Count for every caption of a video, without its siblings."""
    wrong, mine = np.delete(column, own)[None], column[own][:, None]
    better, tied = (wrong > mine).sum(1, dtype=np.int64), (wrong == mine).sum(1, dtype=np.int64)
    return better, tied, np.ones_like(better), _single(better, tied, own).gain


def _expected_gain(column: Scores, own: Ints) -> float:
    """Return nDCG@10 with binary relevance; tied items share the mean discount of their places."""
    discount = np.concatenate([[0.0], np.cumsum(_discounts())])
    total = 0.0
    for value in column[own]:
        above, equal = int((column > value).sum()), int((column == value).sum())
        first, last = min(above, NDCG_CUTOFF), min(above + equal, NDCG_CUTOFF)
        total += (discount[last] - discount[first]) / equal
    return float(total / discount[min(len(own), NDCG_CUTOFF)])


def _discounts() -> Floats:
    return 1.0 / np.log2(np.arange(NDCG_CUTOFF) + 2.0)


def _stack(parts: Sequence[tuple[Ints, Ints, Ints, Floats]], *, averaged: bool = False) -> Ranks:
    video = np.repeat(np.arange(len(parts)), [len(p[0]) for p in parts])
    better, tied, positives, gain = (np.concatenate([p[i] for p in parts]) for i in range(4))
    return Ranks(better, tied, positives, video, gain, averaged)
