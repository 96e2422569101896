"""What is judged: the moments that answer each question, best first, read from a file of predictions.

JSON lines, or a list of such objects:

    {"query": str, "id"?: name of the query, "video"?: the one video that was asked, "confidence"?: 0 to 1,
     "moments": [{"video"?: name, "start": seconds, "end": seconds, "score"?: number}, …]}

The keys of QVHighlights' submissions are read as well (`qid`, `vid`, `pred_relevant_windows` [[start, end, score], …],
`pred_exist_score`), and so is what `tvr query --json` prints. DiDeMo's may have `segments` [[first, last], …], a
ranking of its pieces, in place of moments. numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import schema
from tvr_cli.data import annotation_files as ann
from tvr_cli.data.truth import checks
from tvr_cli.data.truth.question import Moment, Question, Truth
from tvr_cli.errors import DataError

EXAMPLE = '{"query": "a red car", "moments": [{"video": "street.mp4", "start": 12.5, "end": 15, "score": 0.31}]}'
_NAMES = {"id": "qid", "video": "vid", "moments": "pred_relevant_windows", "confidence": "pred_exist_score"}


@dataclass(frozen=True)
class Answer:
    """The moments that answer a question, best first; their `grade` is their score. None of them = nothing was found.

    confidence: that there is an answer at all, None where nobody says. segments: a ranking of DiDeMo's segments.
    """

    moments: tuple[Moment, ...] = ()
    confidence: float | None = None
    segments: tuple[tuple[int, int], ...] = ()

    @property
    def existence(self) -> float:
        """Return how sure the answer is that there is one: its confidence, else its best score, else 0."""
        if self.confidence is not None:
            return self.confidence
        return max((moment.grade for moment in self.moments), default=0.0)


def read(path: Path, truth: Truth) -> tuple[list[Answer], list[str]]:
    """Return an answer to each question of truth, in its order, and notes about what is missing.

    A question without a prediction is answered with nothing, a prediction of no question is left out. Raises DataError,
    with the place, for what is not as the module's docstring says, for two predictions of one question, and where none
    is about any question.
    """
    if not path.is_file():
        raise DataError(f"expected a file of predictions at {str(path)!r}, found none")
    wanted = _Questions(truth)
    found: dict[int, Answer] = {}
    places: dict[int, str] = {}
    strangers: list[str] = []
    for where, record in _records(path):
        answer, rows = _answer(record, where), wanted.of(record, where)
        if not rows:
            strangers.append(f"{where}: {_named(record)}")
        for row in rows:
            if row in found:
                raise DataError(f"{where}: this question is answered in {places[row]} already")
            found[row], places[row] = answer, where
    missing = [question for row, question in enumerate(truth.questions) if row not in found]
    notes = []
    if not found:
        first = f", such as {strangers[0]}" if strangers else ""
        raise DataError(
            f"{str(path)!r} predicts {len(strangers)} queries, and none of {str(truth.path)!r}{first}; predict the "
            "queries of the truth, by id or by their words"
        )
    if strangers:
        notes.append(f"{len(strangers)} predictions are of queries that the truth has not (first: {strangers[0]})")
    if missing:
        notes.append(
            f"{len(missing)} of {len(truth.questions)} queries have no prediction and count as answered with nothing "
            f"(first: {missing[0].text!r})"
        )
    return [found.get(row, Answer()) for row in range(len(truth.questions))], notes


class _Questions:
    """Which rows of truth a prediction is about: by the query's id, else by its words (and its video, where one is
    asked); several where a file asks the same twice.
    """

    def __init__(self, truth: Truth):
        self._by_id = {question.id: row for row, question in enumerate(truth.questions)}
        self._by_words: dict[tuple[str, str | None], list[int]] = {}
        for row, question in enumerate(truth.questions):
            self._by_words.setdefault(_words(question), []).append(row)

    def of(self, record: Mapping[str, Any], where: str) -> list[int]:
        """Return the rows, none where truth has no such question. Raises DataError where nothing names one."""
        named, said, video = _value(record, "id"), record.get("query"), _value(record, "video")
        if named is not None:
            return [self._by_id[str(named)]] if str(named) in self._by_id else []
        if not isinstance(said, str):
            raise DataError(f"{where}: expected the query's words or its id, found {schema.shown(dict(record))}")
        words = " ".join(said.split())
        return self._by_words.get((words, video)) or self._by_words.get((words, None), [])


def _named(record: Mapping[str, Any]) -> str:
    named = _value(record, "id")
    return repr(record.get("query")) if named is None else f"the id {named!r}"


def _words(question: Question) -> tuple[str, str | None]:
    return question.text, question.video


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield place and object of each prediction, whichever form the file has."""
    text = ann.read_text(path).lstrip()
    if text.startswith("["):
        yield from _listed(ann.read_json(path), path, "prediction")
        return
    first = text.split("\n", 1)[0]
    if '"schema"' in first or first.strip() == "{":
        report = ann.read_json(path)
        if not isinstance(report, dict) or not str(report.get("schema", "")).startswith("tvr/query@"):
            raise DataError(f"{path}: expected lines like {EXAMPLE}, or the JSON of tvr query")
        for where, result in _listed(report.get("results", []), path, "result"):
            hits = [{**hit, "video": hit.get("video_id")} for _, hit in _listed(result.get("hits", []), path, "hit")]
            yield where, {"query": result.get("query"), "confidence": result.get("confidence"), "moments": hits}
        return
    yield from checks.objects(path, EXAMPLE)


def _listed(values: Any, path: Path, what: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(values, list):
        raise DataError(f"{path}: expected a list of {what}s, found {schema.shown(values)}")
    for i, value in enumerate(values):
        if not isinstance(value, dict):
            raise DataError(f"{path}: {what} {i}: expected an object like {EXAMPLE}, found {schema.shown(value)}")
        yield f"{path}: {what} {i}", value


def _value(record: Mapping[str, Any], key: str) -> Any:
    """Return a key's value under either of its names."""
    value = record.get(key)
    return record.get(_NAMES[key]) if value is None else value


def _answer(record: Mapping[str, Any], where: str) -> Answer:
    confidence, video = _value(record, "confidence"), _value(record, "video")
    if confidence is not None and not schema.number.many([confidence]):
        raise DataError(f"{where}: confidence: expected a number, found {schema.shown(confidence)}")
    if video is not None and not isinstance(video, str):
        raise DataError(f"{where}: video: expected a name, found {schema.shown(video)}")
    ranked = record.get("segments")
    moments = _value(record, "moments")
    if not isinstance(moments, list) and not (moments is None and ranked is not None):
        raise DataError(f"{where}: expected moments as a list, like {EXAMPLE}, found {schema.shown(moments)}")
    return Answer(
        tuple(_moment(moment, video, where) for moment in moments or ()),
        None if confidence is None else float(confidence),
        () if ranked is None else _segments(ranked, where),
    )


def _moment(value: Any, video: str | None, where: str) -> Moment:
    """Return a predicted moment. One that ends before it starts is kept: it is wrong, and takes a place."""
    if isinstance(value, list) and 2 <= len(value) <= 3:
        value = dict(zip(("start", "end", "score"), value, strict=False))
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a moment with start and end, found {schema.shown(value)}")
    of = value.get("video", video)
    if not isinstance(of, str | None):
        raise DataError(f"{where}: video: expected a name, found {schema.shown(of)}")
    score = 1.0 if value.get("score") is None else value["score"]
    numbers: tuple[Any, ...] = value.get("start"), value.get("end"), score
    for what, number in zip(("start", "end", "score"), numbers, strict=True):
        if not schema.number.many([number]):
            raise DataError(f"{where}: {what}: expected a number, found {schema.shown(number)}")
    return Moment(of or "", *map(float, numbers))


def _segments(values: Any, where: str) -> tuple[tuple[int, int], ...]:
    fits = isinstance(values, list) and all(
        isinstance(value, list) and len(value) == 2 and schema.integer.many(value) for value in values
    )
    if not fits:
        raise DataError(f"{where}: segments: expected [[first, last], …], found {schema.shown(values)}")
    return tuple((first, last) for first, last in values)


def of_one_video(answers: Sequence[Answer], truth: Truth) -> list[Answer]:
    """Return the answers with the moments of the video that was asked alone, and their video named.

    Raises DataError where the whole library was asked and a moment does not say of which video it is.
    """
    cut = []
    for answer, question in zip(answers, truth.questions, strict=True):
        if question.video is None:
            if any(not moment.video for moment in answer.moments):
                raise DataError(
                    f"a moment that answers {question.text!r} names no video, and {str(truth.path)!r} asks a whole "
                    "library; say the video of each moment"
                )
            cut.append(answer)
            continue
        own = tuple(
            Moment(question.video, m.start, m.end, m.grade) for m in answer.moments if m.video in ("", question.video)
        )
        cut.append(Answer(own, answer.confidence, answer.segments))
    return cut
