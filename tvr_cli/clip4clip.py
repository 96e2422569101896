"""The counting of CLIP4Clip-family code, kept only to reproduce its numbers: `tvr evaluate --metrics clip4clip`.

Ranks are found by looking for the positive's score in the sorted row with float equality. A tied row yields an entry
for every tied position, so there are more ranks than queries, and a constant matrix scores R@k = k / N for N entries a
row while its best entry counts as a hit. Never used for anything else; results carry the label `clip4clip`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tvr_cli.metrics import CUTOFFS, Floats, Ints, Scores, group_by_video, rsum


def square(scores: Scores) -> tuple[dict[str, float], Ints]:
    """Return metrics and 0-based rank entries of a square matrix whose diagonal is right (`compute_metrics`)."""
    ordered = -np.sort(-scores, axis=1)
    entries = np.where(ordered - np.diag(scores)[:, None] == 0)[1]
    return _summary(entries, median=float(np.median(entries)) + 1), entries


def text_to_video(scores: Scores, video_of_caption: Ints) -> tuple[dict[str, float], Ints]:
    """Return metrics and 0-based ranks, every caption a query: ties go to the lower index, MdR is the lower median."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.argmax(order == video_of_caption[:, None], axis=1)
    return _summary(ranks, median=float(np.sort(ranks)[(len(ranks) - 1) // 2]) + 1), ranks


def evaluate(scores: Scores, video_of_caption: Ints) -> dict[str, Any]:
    """Return both directions as that code counts them: diagonal when each video has one caption, else grouped."""
    scores = scores.astype(np.float32) if scores.dtype not in (np.float32, np.float64) else scores
    videos, grouped = group_by_video(scores, video_of_caption)
    if len(videos) == len(video_of_caption):
        diagonal = scores[np.argsort(video_of_caption)][:, np.sort(video_of_caption)]
        (t2v, a), (v2t, b) = square(diagonal), square(np.ascontiguousarray(diagonal.T))
    else:
        t2v, a = text_to_video(scores, video_of_caption)
        v2t, b = square(np.ascontiguousarray(grouped[:, videos].T))
    return {"t2v": t2v, "v2t": v2t, "rsum": rsum(t2v, v2t), "rank_entries": {"t2v": len(a), "v2t": len(b)}}


def _summary(entries: Ints, *, median: float) -> dict[str, float]:
    ranks: Floats = entries.astype(np.float64)
    recalls = {f"R@{k}": 100.0 * float((ranks < k).sum()) / len(ranks) for k in CUTOFFS}
    return {**recalls, "MdR": median, "MnR": float(ranks.mean()) + 1}
