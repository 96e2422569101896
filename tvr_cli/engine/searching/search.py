"""Answering text queries from an index: coarse scan, the method's own score on a shortlist, and where in the video.

Two stages, because a method scores pairs: the best `shortlist` clips by the cosine of coarse vectors are scored again
by the method. `exhaustive` scores every clip. Clips of one file are merged: the file stands where its best clip stands.
What is shown is verified first; of clips with equal scores the one with the smaller id stands first, so that an answer
does not depend on the order in which clips came into the index.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tvr_cli.methods.base import Method
from tvr_cli.stores.index.seam import SearchIndex
from tvr_cli.stores.index.store import ENCODING_ROWS, IndexedClip
from tvr_cli.types import Encoding


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer. start, end: seconds in the file at `path`; the span that the method's frame weights point at."""

    rank: int
    score: float
    video_id: str
    path: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """k files an answer; shortlist = clips that the method scores itself (None = max(200, 0.2 % of all))."""

    k: int = 10
    shortlist: int | None = None
    exhaustive: bool = False
    min_score: float | None = None


@torch.no_grad()
def search(method: Method, index: SearchIndex, text: Encoding, options: SearchOptions) -> list[list[Hit]]:
    """Answer each encoded caption with up to k files, best first. Raises DataError where a hit is damaged on disk."""
    if not len(index):
        return [[] for _ in range(len(text))]
    candidates = index.candidates(method.coarse(text).cpu(), _shortlist(index, options))
    return [
        _answer(method, index, text.rows(slice(i, i + 1)), rows.sort().values, options)
        for i, rows in enumerate(candidates)
    ]


def time_span(weights: Tensor, ts: Tensor, start: float, end: float) -> tuple[float, float]:
    """Return the seconds that a clip's frame weights point at.

    weights, ts: [n] of the real frames. The span is the contiguous frames around the peak with at least half its
    weight; each frame covers half-way to its neighbours, inside the clip (`start`..`end` seconds).
    """
    peak = int(weights.argmax())
    enough, times = (weights >= weights[peak] / 2).tolist(), ts.tolist()
    first = last = peak
    while first > 0 and enough[first - 1]:
        first -= 1
    while last + 1 < len(times) and enough[last + 1]:
        last += 1
    left = start if first == 0 else (times[first - 1] + times[first]) / 2
    right = end if last + 1 == len(times) else (times[last] + times[last + 1]) / 2
    return max(start, left), min(end, right)


def _shortlist(index: SearchIndex, options: SearchOptions) -> int:
    if options.exhaustive:
        return len(index)
    # Several clips of one file are one answer, so a shortlist below k files would starve the second stage.
    return max(options.shortlist or max(200, len(index) // 500), options.k)


def _answer(
    method: Method, index: SearchIndex, text: Encoding, rows: Tensor, options: SearchOptions
) -> list[Hit]:  # fmt: skip
    parts, kept = [], None
    for part in rows.split(ENCODING_ROWS):
        kept = index.encoding(part)
        parts.append(method.score(text, kept)[0].cpu())
    scores = torch.cat(parts)
    found = list(itertools.islice(_best_of_files(index, rows, scores, options.min_score), options.k))
    if not found:
        return []
    at = torch.tensor([position for position, _ in found])
    # A shortlist is read once; of an exhaustive search only the hits are read again.
    video = kept.rows(at) if kept is not None and len(parts) == 1 else index.encoding(rows[at])
    weights = method.explain(text, video)[0].cpu()  # [hits, F]
    hits = []
    for rank, ((position, clip), weight) in enumerate(zip(found, weights, strict=True), start=1):
        ts = torch.tensor(clip.ts, dtype=torch.float64)
        start, end = time_span(weight[: len(ts)], ts, clip.start, clip.end)
        hits.append(Hit(rank, float(scores[position]), clip.file_id, clip.path, start, end))
    return hits


def _best_of_files(
    index: SearchIndex, rows: Tensor, scores: Tensor, least: float | None
) -> Iterator[tuple[int, IndexedClip]]:
    """Yield the best clip of each file and its position in `rows`, best first, down to the score `least`."""
    numbers = index.files(rows).tolist()
    order = scores.argsort(descending=True, stable=True).tolist()
    seen_numbers: set[int] = set()
    seen: set[str] = set()
    for score, group in itertools.groupby(order, key=lambda position: float(scores[position])):
        if least is not None and score < least:
            return
        new = [
            (position, index.clip(int(rows[position]))) for position in group if numbers[position] not in seen_numbers
        ]
        for position, clip in sorted(new, key=lambda found: found[1].id):
            seen_numbers.add(numbers[position])
            if clip.file_id not in seen:  # a file has a number in each segment of the index
                seen.add(clip.file_id)
                yield position, clip


def agreement(method: Method, index: SearchIndex, texts: Encoding, options: SearchOptions) -> float:
    """Return the share of the exhaustive top-k files that the two-stage search also finds, over `texts`."""
    exact = SearchOptions(options.k, exhaustive=True)
    pairs: Sequence[tuple[list[Hit], list[Hit]]] = list(
        zip(search(method, index, texts, exact), search(method, index, texts, options), strict=True)
    )
    found = sum(len({h.video_id for h in a} & {h.video_id for h in b}) for a, b in pairs)
    return found / max(1, sum(len(a) for a, _ in pairs))
