"""Overlap of spans of time, and which span answers which: what every count of moments is made of. numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvr_cli.data.truth.question import Moment
from tvr_cli.metrics import Floats


def overlaps(found: Sequence[Moment], true: Sequence[Moment]) -> Floats:
    """Return [P, G] intersections over unions of two lists of moments; those of two videos do not overlap.

    A span without length, or that ends before it starts, overlaps nothing.
    """
    # Lists are short (ten found, one true is usual), where plain numbers take a fifth of the time of arrays.
    table = [[_overlap(one, other) for other in true] for one in found]
    return np.array(table, np.float64).reshape(len(found), len(true))


def _overlap(a: Moment, b: Moment) -> float:
    inner = min(a.end, b.end) - max(a.start, b.start)
    if inner <= 0 or a.video != b.video or a.end <= a.start or b.end <= b.start:
        return 0.0
    return inner / ((a.end - a.start) + (b.end - b.start) - inner)


def matched(iou: Floats, least: float) -> list[float]:
    """Return the overlaps of a greedy matching, one to one: each found span, in order, takes the best true one left.

    iou: [P, G]. least: a match needs this much; 0 lets spans match that do not overlap at all.
    """
    free = np.ones(iou.shape[1], dtype=bool)
    taken = []
    for row in iou:
        if not free.any():
            break
        best = int(np.argmax(np.where(free, row, -1.0)))
        if row[best] >= least:
            free[best] = False
            taken.append(float(row[best]))
    return taken


def average_precisions(iou: Floats, levels: Sequence[float]) -> list[float]:
    """Return the interpolated average precision, in 0..1, of found spans in the order of their scores at each level.

    iou: [P, G], G of 1 or more. A found span is right when it overlaps a true one, which no better one took, by the
    level; it takes the one that it overlaps most. Precision is made falling before it is summed over recall (as the
    PASCAL VOC kit of 2011 does, which the code of ActivityNet and QVHighlights follows).
    """
    wanted = iou.shape[1]
    most = float(iou.max(initial=0.0))
    rows = [(row, np.argsort(row, kind="stable")[::-1].tolist()) for row in iou]
    return [_average_precision(rows, wanted, level) if most >= level else 0.0 for level in levels]


def _average_precision(rows: Sequence[tuple[Floats, list[int]]], wanted: int, level: float) -> float:
    free = [True] * wanted
    right: list[int] = []  # places of right spans, 1 = first
    for place, (row, order) in enumerate(rows, start=1):
        for candidate in order:
            if row[candidate] < level:
                break
            if free[candidate]:
                free[candidate] = False
                right.append(place)
                break
        if len(right) == wanted:
            break
    precision, total = 0.0, 0.0
    for hits in range(len(right), 0, -1):  # from the last on, so that precision only rises
        precision = max(precision, hits / right[hits - 1])
        total += precision
    return total / wanted
