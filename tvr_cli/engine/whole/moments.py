"""`tvr moments`: judging what a file predicts, or what the search of a workspace answers, by truth about moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tvr_cli import log
from tvr_cli.data import jsonl
from tvr_cli.data.jsonl import ClipInfo
from tvr_cli.data.truth import formats
from tvr_cli.data.truth.question import Moment, Question, Truth
from tvr_cli.defaults import FOUND
from tvr_cli.engine.evaluation.moments import judge as judging
from tvr_cli.engine.evaluation.moments.answers import Answer
from tvr_cli.engine.evaluation.moments.graded import CUTOFFS
from tvr_cli.engine.evaluation.moments.judge import Answered
from tvr_cli.engine.evaluation.moments.result import MomentsReport
from tvr_cli.engine.searching import heads, query
from tvr_cli.engine.searching.asked import Asked
from tvr_cli.engine.searching.hits import SearchOptions
from tvr_cli.errors import ConfigError
from tvr_cli.results.found import Hit
from tvr_cli.types import Caption
from tvr_cli.workspace import Workspace

LISTED = 10
_PER_FILE = 3  # as `tvr query` answers
_TOGETHER = 64  # sentences that are answered at a time


@dataclass(frozen=True)
class Searched:
    """How a workspace is asked. k: moments an answer lists where the whole library is asked, None = what the format
    looks at. head: whether one ranks moments by time, the run that is named or one that fits. least: the confidence
    below which a moment of the library is no answer, as for `tvr query`; None = all are.
    """

    flags: Asked = field(default_factory=Asked)
    k: int | None = None
    head: bool = True
    least: float | None = FOUND
    device: str = "auto"
    offline: bool = False


def moments(
    truth: Path,
    workspace: Workspace,
    searched: Searched,
    *,
    format: str | None = None,
    predictions: Path | None = None,
    train: Path | None = None,
    seed: int = 0,
) -> MomentsReport:
    """Judge moments by a file of truth.

    predictions: a file of them, None = the workspace is asked, as `searched` says. train: a file of truth that
    query-blind windows are fitted on. Raises ConfigError where flags of a search stand beside a file, DataError for
    truth or predictions that are not as they should be and for truth about a video that the workspace has not.
    """
    if predictions is not None and searched != Searched():
        raise ConfigError(
            "--predictions judges a file; leave out what a search is asked with (-k, --run, --method, --backbone, "
            "--no-head, --min-confidence, --all, --device, --offline)"
        )
    found = formats.read(truth, format)
    if predictions is not None:
        return judging.judge_file(found, predictions, fitted_on=train, seed=seed)
    clips = _clips(workspace)
    known = in_library(found, clips)
    durations: dict[str, float] = {}
    for clip in clips:
        durations[clip.file_id] = max(durations.get(clip.file_id, 0.0), clip.span[1])
    answers = _asked(known, workspace, searched, len(durations))
    about = Answered(answers, str(workspace), "index", durations)
    return judging.judge(known, about, fitted_on=train, seed=seed)


def in_library(truth: Truth, clips: Sequence[ClipInfo]) -> Truth:
    """Return truth with the videos called as the library calls them, by the rules of a captions file.

    Raises DataError, with the place, for a video that the library has not or that several may be, and for a moment
    outside of its file.
    """
    asked = [
        Caption("", moment.video, question.text, start=moment.start, end=moment.end, source=question.source)
        for question in truth.questions
        for moment in question.moments
    ]
    asked += [
        Caption("", question.video, question.text, source=question.source)
        for question in truth.questions
        if question.video is not None
    ]
    named = {one.caption.video: one.file_id for one in jsonl.resolve(asked, clips)[0]}
    questions = tuple(_renamed(question, named) for question in truth.questions)
    durations = {named[video]: seconds for video, seconds in truth.durations.items() if video in named}
    return replace(truth, questions=questions, durations=durations)


def _renamed(question: Question, named: Mapping[str, str]) -> Question:
    moments = tuple(replace(moment, video=named[moment.video]) for moment in question.moments)
    video = None if question.video is None else named[question.video]
    return replace(question, moments=moments, video=video)


def _clips(workspace: Workspace) -> Sequence[ClipInfo]:
    """Return the clips of a workspace. Raises DataError where it has none, with what to do."""
    if workspace.has_frames:
        return workspace.frames().records
    store = workspace.newest_features()
    if store is None:
        workspace.refuse_without_frames(f"expected frames or features in {str(workspace)!r}, found none")
    return list(store.clips)


def _asked(truth: Truth, workspace: Workspace, searched: Searched, files: int) -> list[Answer]:
    """Ask the workspace each question, each sentence once.

    Where one video is asked, the first `LISTED` moments of that video are the answer, however sure they are: no means
    there that the confidence is low.
    """
    one_video = any(question.video is not None for question in truth.questions)
    listed = searched.k or (max(CUTOFFS) if truth.format == "tvr-ranking" else LISTED)
    rows: dict[str, list[int]] = {}
    for row, question in enumerate(truth.questions):
        rows.setdefault(question.text, []).append(row)
    run, head = heads.split(workspace, searched.flags.run, use=searched.head)
    options = SearchOptions(k=listed, per_file=_PER_FILE, head=head)
    flags = replace(searched.flags, run=run)
    session = query.session(workspace, flags, device=searched.device, offline=searched.offline)
    texts, answers = list(rows), [Answer()] * len(truth.questions)
    with log.progress("asking", total=len(texts), unit="queries") as bar:
        for start in range(0, len(texts), _TOGETHER):
            some = texts[start : start + _TOGETHER]
            if one_video:
                asked = {truth.questions[row].video for text in some for row in rows[text]}
                only = None if None in asked else frozenset(filter(None, asked))
                k = LISTED * (files if only is None else len(only))
                options = SearchOptions(k=k, per_file=LISTED, exhaustive=True, only=only, head=head)
            for text, hits in zip(some, session.answer(some, options), strict=True):
                for row in rows[text]:
                    answers[row] = _answer(hits, truth.questions[row].video, searched.least)
            bar.advance(len(some))
    return answers


def _answer(hits: Sequence[Hit], video: str | None, least: float | None) -> Answer:
    """Return hits as an answer: those of one video where one was asked, else those that are sure enough."""
    if video is not None:
        hits = [hit for hit in hits if hit.video_id == video]
    told = [hit.confidence for hit in hits if hit.confidence is not None]
    if video is None and least is not None:
        hits = [hit for hit in hits if hit.confidence is None or hit.confidence >= least]
    moments = tuple(Moment(hit.video_id, hit.start, hit.end, hit.score) for hit in hits)
    return Answer(moments, max(told, default=None))
