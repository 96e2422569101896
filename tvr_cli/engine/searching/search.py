"""Answering text queries from an index: coarse scan, the method's own score on a shortlist, and where in the video.

Two stages, because a method scores pairs: the best `shortlist` clips by the cosine of coarse vectors are scored again
by the method. `exhaustive` scores every clip. Clips of one file are merged: the file stands where its best clip stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tvr_cli.methods.base import Method
from tvr_cli.stores.index.store import ENCODING_ROWS, Index
from tvr_cli.types import Encoding

_SCAN_ROWS = 65_536


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
def search(method: Method, index: Index, text: Encoding, options: SearchOptions) -> list[list[Hit]]:
    """Answer each encoded caption with up to k files, best first."""
    return [_answer(method, index, text.rows(slice(i, i + 1)), options) for i in range(len(text))]


def coarse_scan(query: Tensor, coarse: Tensor, n: int) -> Tensor:
    """Return the rows of the n clips whose coarse vectors are nearest to `query` [D], best first.

    coarse: [V, D] bf16 or fp32. The scan runs block by block, so memory does not grow with V.
    """
    n = min(n, len(coarse))
    best, where = torch.empty(0), torch.empty(0, dtype=torch.long)
    for start in range(0, len(coarse), _SCAN_ROWS):
        block = coarse[start : start + _SCAN_ROWS]
        scores = torch.cat([best, (block @ query.to(block.dtype)).float()])
        rows = torch.cat([where, torch.arange(start, start + len(block))])
        best, keep = scores.topk(min(n, len(scores)))
        where = rows[keep]
    return where


def time_span(weights: Tensor, ts: Tensor, start: float, end: float) -> tuple[float, float]:
    """Return the seconds that a clip's frame weights point at.

    weights, ts: [n] of the real frames. The span is the contiguous frames around the peak with at least half its
    weight; each frame covers half-way to its neighbours, inside the clip (`start`..`end` seconds).
    """
    peak = int(weights.argmax())
    enough = weights >= weights[peak] / 2
    first = last = peak
    while first > 0 and enough[first - 1]:
        first -= 1
    while last + 1 < len(ts) and enough[last + 1]:
        last += 1
    left = start if first == 0 else float(ts[first - 1] + ts[first]) / 2
    right = end if last + 1 == len(ts) else float(ts[last] + ts[last + 1]) / 2
    return max(start, left), min(end, right)


def _answer(method: Method, index: Index, text: Encoding, options: SearchOptions) -> list[Hit]:
    if len(index) == 0:
        return []
    rows = _candidates(method, index, text, options)
    scores = torch.cat([method.score(text, index.encoding(r))[0].cpu() for r in rows.split(ENCODING_ROWS)])
    order = scores.argsort(descending=True, stable=True)
    hits: list[Hit] = []
    seen: set[str] = set()
    for position in order.tolist():
        clip = index.clips[int(rows[position])]
        score = float(scores[position])
        if options.min_score is not None and score < options.min_score:
            break
        if clip.file_id in seen:
            continue
        seen.add(clip.file_id)
        start, end = _span(method, index, text, int(rows[position]))
        hits.append(Hit(len(hits) + 1, score, clip.file_id, clip.path, start, end))
        if len(hits) == options.k:
            break
    return hits


def _candidates(method: Method, index: Index, text: Encoding, options: SearchOptions) -> Tensor:
    n = options.shortlist or max(200, len(index) // 500)
    if options.exhaustive or len(index) <= n:
        return torch.arange(len(index))
    # Several clips of one file are one answer, so a shortlist below k files would starve the second stage.
    return coarse_scan(method.coarse(text)[0].cpu(), index.coarse, max(n, options.k)).sort().values


def _span(method: Method, index: Index, text: Encoding, row: int) -> tuple[float, float]:
    clip, n = index.clips[row], int(index.n_frames[row])
    weights = method.explain(text, index.encoding(torch.tensor([row])))[0, 0, :n].cpu()
    return time_span(weights, index.ts[row, :n], clip.start, clip.end)


def agreement(method: Method, index: Index, texts: Encoding, options: SearchOptions) -> float:
    """Return the share of the exhaustive top-k files that the two-stage search also finds, over `texts`."""
    exact = SearchOptions(options.k, exhaustive=True)
    pairs: Sequence[tuple[list[Hit], list[Hit]]] = list(
        zip(search(method, index, texts, exact), search(method, index, texts, options), strict=True)
    )
    found = sum(len({h.video_id for h in a} & {h.video_id for h in b}) for a, b in pairs)
    return found / max(1, sum(len(a) for a, _ in pairs))
