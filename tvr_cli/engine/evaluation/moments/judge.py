"""Judging answers by truth about moments: every number with its interval and its priors. numpy only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvr_cli import significance
from tvr_cli.data.truth import formats
from tvr_cli.data.truth.question import Truth
from tvr_cli.engine.evaluation.moments import answers as predictions
from tvr_cli.engine.evaluation.moments import priors
from tvr_cli.engine.evaluation.moments.answers import Answer
from tvr_cli.engine.evaluation.moments.protocols import counted
from tvr_cli.engine.evaluation.moments.result import Drawn, JudgedAnswers, JudgedTruth, Measure, MomentsReport
from tvr_cli.errors import DataError
from tvr_cli.files import sha256_file
from tvr_cli.metrics import Ints
from tvr_cli.version import __version__

_UNKNOWN_LENGTHS = (
    "of %d videos nobody says how long they are: for query-blind priors they end where the last moment does"
)


@dataclass(frozen=True)
class Answered:
    """What is judged: one answer a question. path, of: who answered. durations: of videos, where they are known.

    notes: what to know of the answers.
    """

    answers: Sequence[Answer]
    path: str
    of: str
    durations: Mapping[str, float]
    notes: Sequence[str] = ()


def judge_file(truth: Truth, path: Path, *, fitted_on: Path | None = None, seed: int = 0) -> MomentsReport:
    """Judge a file of predictions. Raises DataError as `answers.read` does, and as `judge`."""
    found, notes = predictions.read(path, truth)
    return judge(truth, Answered(found, str(path), "predictions", {}, notes), fitted_on=fitted_on, seed=seed)


def judge(truth: Truth, given: Answered, *, fitted_on: Path | None = None, seed: int = 0) -> MomentsReport:
    """Judge answers. fitted_on: another file of truth, of the same format, to fit query-blind windows on.

    DiDeMo's `train_data.json` is taken where it lies beside the truth. Raises DataError where that file is none of the
    format, or a moment that answers a whole library names no video.
    """
    cut = predictions.of_one_video(given.answers, truth)
    durations, unknown = priors.known_durations(truth, given.durations, cut)
    other = fitted_on or _beside(truth)
    fitted = priors.fit(truth, durations) if other is None else _fitted_on(other, truth)
    blind = priors.values(truth, durations, fitted)
    numbers = counted(truth, cut)
    groups, unit = _groups(truth)
    spread = significance.resampled([one.statistic for one in numbers], groups, seed=seed)
    measures = [
        Measure(
            name=one.name,
            of=one.of,
            unit=one.unit,
            value=_known(one.value),
            interval=None if math.isnan(low) else [low, high],
            queries=one.statistic.queries,
            priors={prior: _known(found[one.name]) for prior, found in blind.items()},
        )
        for one, (low, high) in zip(numbers, spread, strict=True)
    ]
    notes = [*truth.notes, *given.notes, *([_UNKNOWN_LENGTHS % unknown] if unknown else [])]
    if truth.format == "didemo" and any(a.moments and not a.segments for a in cut):
        notes.append("moments stand for the segments that they overlap most, which is tvr's own: DiDeMo ranks segments")
    return MomentsReport(
        tvr=__version__,
        truth=_told(truth),
        answers=JudgedAnswers(path=given.path, of=given.of, answered=sum(bool(a.moments or a.segments) for a in cut)),
        measures=measures,
        fitted_on=str(truth.path if other is None else other),
        intervals=Drawn(level=significance.LEVEL, unit=unit, seed=seed),
        notes=notes,
    )


def _told(truth: Truth) -> JudgedTruth:
    return JudgedTruth(
        path=str(truth.path),
        format=truth.format,
        sha256=sha256_file(truth.path),
        queries=len(truth.questions),
        absent=sum(not question.moments for question in truth.questions),
        moments=sum(len(question.moments) for question in truth.questions),
        videos=len(truth.videos),
    )


def _beside(truth: Truth) -> Path | None:
    """Return DiDeMo's file of training annotations where it lies beside the truth and is another one."""
    path = truth.path.with_name("train_data.json")
    return path if truth.format == "didemo" and path != truth.path and path.is_file() else None


def _fitted_on(path: Path, truth: Truth) -> priors.Fitted:
    other = formats.read(path)
    if other.format != truth.format:
        raise DataError(
            f"expected {str(path)!r} to be {truth.format}, as {str(truth.path)!r} is, found {other.format}; windows "
            "are fitted on truth of the same data set"
        )
    return priors.fit(other, priors.known_durations(other, {}, ())[0])


def _groups(truth: Truth) -> tuple[Ints, str]:
    """Return [N] the group that each query is drawn with, and what the groups are.

    A query of a whole library belongs to the video of its first moment; one that is absent stands alone.
    """
    if truth.format == "tvr-ranking":  # graded moments of a query lie in some twenty videos
        return np.arange(len(truth.questions)), "queries"
    numbers: dict[str, int] = {}
    groups = []
    for question in truth.questions:
        video = question.video or (question.moments[0].video if question.moments else f"\0{question.id}")
        groups.append(numbers.setdefault(video, len(numbers)))
    return np.array(groups, dtype=np.int64), "videos"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
