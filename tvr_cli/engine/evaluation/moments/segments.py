"""DiDeMo's counting: a ranking of the 21 segments of a video, ends inclusive, against its annotators. numpy only.

As `utils/eval.py` of LisaAnne/LocalizingMoments counts: of the ranks that the annotators' segments have, the mean of
the three best has to be at most k; the overlap is the mean of the three best of the first segment with each
annotator's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from tvr_cli.data.truth.didemo import PIECES, in_seconds
from tvr_cli.data.truth.question import Moment, Question
from tvr_cli.engine.evaluation.moments.spans import overlaps

Segment = tuple[int, int]
ALL: tuple[Segment, ...] = tuple((first, last) for first in range(PIECES) for last in range(first, PIECES))
_AGREE = 3  # annotators whose segments count


def rank(ranking: Sequence[Segment], annotated: Sequence[Segment]) -> float:
    """Return the mean of the three best ranks, 1 = first, that the annotators' segments have in a ranking of all."""
    place = {segment: number for number, segment in enumerate(ranking, start=1)}
    return float(np.mean(sorted(place[segment] for segment in annotated)[:_AGREE]))


def overlap(first: Segment, annotated: Sequence[Segment]) -> float:
    """Return the mean of the three best overlaps of a segment with the annotators', ends inclusive."""
    return float(np.mean(sorted(_iou(first, segment) for segment in annotated)[-_AGREE:]))


def by_frequency(annotations: Iterable[Sequence[Segment]]) -> tuple[Segment, ...]:
    """Return all segments, those that annotators mark most often first: DiDeMo's query-blind prior.

    Segments that are marked equally often stand in the order in which they were marked first.
    """
    counts = Counter(segment for annotated in annotations for segment in annotated)
    return complete([segment for segment, _ in counts.most_common()])


def ranking_of(moments: Sequence[Moment], question: Question) -> tuple[Segment, ...]:
    """Return a ranking of all segments by moments of any length, best first. This is tvr's own: DiDeMo ranks segments.

    Each moment stands for the segment that it overlaps most (of equal ones the shorter, then the earlier); segments
    that no moment stands for follow by their overlap with the first.
    """
    video = question.video or ""
    spans = [in_seconds(video, segment) for segment in ALL]
    table = overlaps([Moment(video, m.start, m.end) for m in moments], spans)
    order = sorted(range(len(ALL)), key=lambda i: (ALL[i][1] - ALL[i][0], ALL[i][0]))
    ranked = list(dict.fromkeys(ALL[max(order, key=lambda i: row[i])] for row in table if row.any()))
    return complete(ranked)


def complete(ranked: Sequence[Segment]) -> tuple[Segment, ...]:
    """Return a ranking of all segments: those that it lacks follow by their overlap with its first, then from left."""
    known = list(dict.fromkeys(segment for segment in ranked if segment in ALL))
    rest = [segment for segment in ALL if segment not in known]
    if known:
        rest.sort(key=lambda segment: -_iou(known[0], segment))
    return (*known, *rest)


def _iou(a: Segment, b: Segment) -> float:
    inner = max(0, min(a[1], b[1]) + 1 - max(a[0], b[0]))
    return inner / (max(a[1], b[1]) + 1 - min(a[0], b[0]))
