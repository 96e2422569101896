"""Answers that look at no query: what a number is worth is how far it is above them. numpy only.

- `centred`: one window in the middle of the video, as long as true moments are on the median.
- `fixed`: the window, as shares of the video, that overlaps true moments most on average.
- `grid`: the video cut into n equal windows, those that overlap true moments most first; for each number the best n.
- `frequency`: of DiDeMo, its segments, the most frequent first.
- `nothing`: no answer at all, where some queries are absent.

Where a whole library is asked, videos with the most true moments come first, each with its window. Windows are fitted
on another file of truth where one is given, else on the truth that is judged: no query-blind answer of that shape is
better, then.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tvr_cli.data.truth.question import Moment, Question, Truth
from tvr_cli.engine.evaluation.moments import segments
from tvr_cli.engine.evaluation.moments.answers import Answer
from tvr_cli.engine.evaluation.moments.protocols import counted
from tvr_cli.metrics import Floats

_STEPS = 20  # ends of a fixed window, in shares of the video
_GRIDS = (1, 2, 3, 4, 5, 6, 8, 10)
_LISTED = 40  # videos of a library, as many as any number looks at


@dataclass(frozen=True)
class Fitted:
    """What true moments look like. shares: [M, 2] start and end, as shares of their video. popular: videos, the one
    with the most true moments first. annotations: of DiDeMo.
    """

    shares: Floats
    popular: tuple[str, ...]
    annotations: tuple[tuple[tuple[int, int], ...], ...]


def values(truth: Truth, durations: Mapping[str, float], fitted: Fitted) -> dict[str, dict[str, float]]:
    """Return prior -> number's name -> its value. durations: of every video of the truth."""
    absent = any(not question.moments for question in truth.questions)
    found: dict[str, dict[str, float]] = {}
    if truth.format == "didemo":
        ranking = segments.by_frequency(fitted.annotations)
        found["frequency"] = _of(truth, [Answer(segments=ranking)] * len(truth.questions))
    if len(fitted.shares):
        found["centred"] = _of(truth, _windows(truth, durations, fitted, [_centred(fitted.shares)]))
    if len(fitted.shares) and truth.format != "didemo":  # whose best fixed window is the first by frequency
        found["fixed"] = _of(truth, _windows(truth, durations, fitted, [_best_fixed(fitted.shares)]))
        grids = [_of(truth, _windows(truth, durations, fitted, _grid(fitted.shares, n))) for n in _GRIDS]
        found["grid"] = {name: _best(name, [grid[name] for grid in grids]) for name in grids[0]}
    if absent:
        found["nothing"] = _of(truth, [Answer()] * len(truth.questions))
    return found


def fit(truth: Truth, durations: Mapping[str, float]) -> Fitted:
    """Return what true moments look like, of videos whose length is known."""
    moments = [m for question in truth.questions for m in question.moments if m.grade > 0 and m.video in durations]
    shares = np.array([(m.start, m.end) for m in moments], np.float64).reshape(-1, 2)
    shares /= np.array([durations[m.video] for m in moments]).reshape(-1, 1)
    weights: dict[str, float] = defaultdict(float)
    for m in (m for question in truth.questions for m in question.moments):
        weights[m.video] += m.grade
    popular = sorted(weights, key=lambda video: (-weights[video], video))
    annotated = tuple(question.segments for question in truth.questions if question.segments)
    return Fitted(np.clip(shares, 0.0, 1.0), tuple(popular), annotated)


def known_durations(
    truth: Truth, others: Mapping[str, float], answers: Sequence[Answer]
) -> tuple[dict[str, float], int]:
    """Return the length of every video of a truth, and of how many nobody says it.

    others: lengths that are known better than the file says them. Where nobody says it, the last second that truth or
    an answer names has to do.
    """
    last: dict[str, float] = defaultdict(float)
    for moment in (m for question in truth.questions for m in question.moments):
        last[moment.video] = max(last[moment.video], moment.end)
    for moment in (m for answer in answers for m in answer.moments):
        last[moment.video] = max(last[moment.video], moment.end)
    known = {**truth.durations, **others}
    unknown = [video for video in truth.videos if video not in known]
    return {**known, **{video: last[video] for video in unknown if last[video] > 0}}, len(unknown)


def _of(truth: Truth, answers: Sequence[Answer]) -> dict[str, float]:
    return {one.name: one.value for one in counted(truth, answers)}


def _best(name: str, found: Sequence[float]) -> float:
    """Return the best of a number's values; of seconds the least."""
    known = [value for value in found if not math.isnan(value)]
    if not known:
        return math.nan
    return min(known) if name == "edge" else max(known)


def _windows(
    truth: Truth, durations: Mapping[str, float], fitted: Fitted, shares: Sequence[tuple[float, float]]
) -> list[Answer]:
    """Return the same windows, as shares of a video, as the answer to each question."""
    popular = [v for v in fitted.popular if v in durations] or sorted(durations)
    library = Answer(tuple(_cut(popular[:_LISTED], durations, shares)[:_LISTED]), confidence=1.0)
    return [library if q.video is None else _of_video(q, durations, shares) for q in truth.questions]


def _of_video(question: Question, durations: Mapping[str, float], shares: Sequence[tuple[float, float]]) -> Answer:
    if question.video is None or question.video not in durations:
        return Answer(confidence=1.0)
    return Answer(tuple(_cut([question.video], durations, shares)), confidence=1.0)


def _cut(videos: Sequence[str], durations: Mapping[str, float], shares: Sequence[tuple[float, float]]) -> list[Moment]:
    """Return windows of videos, best first: the first window of each video, then the second of each, …"""
    spans = [(video, *share) for share in shares for video in videos]
    return [
        Moment(video, start * durations[video], end * durations[video], 1.0 - place / len(spans))
        for place, (video, start, end) in enumerate(spans)
    ]


def _centred(shares: Floats) -> tuple[float, float]:
    width = float(np.median(shares[:, 1] - shares[:, 0]))
    return (1.0 - width) / 2, (1.0 + width) / 2


def _best_fixed(shares: Floats) -> tuple[float, float]:
    ends = [(a / _STEPS, b / _STEPS) for a in range(_STEPS) for b in range(a + 1, _STEPS + 1)]
    return max(ends, key=lambda window: _mean_overlap(window, shares))


def _grid(shares: Floats, n: int) -> list[tuple[float, float]]:
    windows = [(i / n, (i + 1) / n) for i in range(n)]
    return sorted(windows, key=lambda window: -_mean_overlap(window, shares))


def _mean_overlap(window: tuple[float, float], shares: Floats) -> float:
    start, end = window
    inner = np.clip(np.minimum(shares[:, 1], end) - np.maximum(shares[:, 0], start), 0.0, None)
    return float((inner / (shares[:, 1] - shares[:, 0] + (end - start) - inner)).mean())
