"""DiDeMo (Hendricks et al., ICCV 2017): `{train,val,test}_data.json`, a list of `description`, `video`, `times` (one
[first, last] an annotator, pieces of five seconds, ends inclusive), `num_segments` (5 or 6) and `annotation_id`.

As seconds a segment is 5·first to 5·(last + 1); the last piece of a video may be shorter than five seconds, and nothing
in the file says how long it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvr_cli import schema
from tvr_cli.data import annotation_files as ann
from tvr_cli.data.truth import checks
from tvr_cli.data.truth.question import Moment, Question, Truth
from tvr_cli.errors import DataError

PIECE_S = 5.0
PIECES = 6


def read(path: Path) -> Truth:
    """Read DiDeMo. Raises DataError with file and record."""
    data = ann.read_json(path)
    if not isinstance(data, list):
        raise DataError(f"{path}: expected a list of annotations, found {type(data).__name__}")
    questions: dict[str, Question] = {}
    durations: dict[str, float] = {}
    for i, record in enumerate(data):
        where = f"{path}: annotation {i}"
        video = ann.field(record, "video", str, path, f"annotation {i}")
        key = checks.name(record, "annotation_id", where)
        if key in questions:
            raise DataError(f"{where}: the annotation_id {key} is that of {questions[key].source} already")
        pieces = record.get("num_segments", PIECES)
        segments = tuple(_segment(time, where, pieces) for time in ann.field(record, "times", list, path, where))
        if not segments:
            raise DataError(f"{where}: times: expected one [first, last] an annotator, found none")
        durations[video] = PIECE_S * pieces
        moments = tuple(in_seconds(video, segment) for segment in dict.fromkeys(segments))
        questions[key] = Question(key, checks.text(record, "description", where), video, moments, where, segments)
    found = tuple(questions.values())
    checks.some(path, found, "a list of annotations")
    return Truth("didemo", path, found, durations)


def in_seconds(video: str, segment: tuple[int, int]) -> Moment:
    """Return a segment, ends inclusive, as seconds."""
    return Moment(video, PIECE_S * segment[0], PIECE_S * (segment[1] + 1))


def _segment(time: Any, where: str, pieces: Any) -> tuple[int, int]:
    if not schema.integer.many([pieces]) or not 1 <= pieces <= PIECES:
        raise DataError(f"{where}: num_segments: expected 1 to {PIECES}, found {schema.shown(pieces)}")
    if not isinstance(time, list) or len(time) != 2 or not schema.integer.many(time):
        raise DataError(f"{where}: times: expected [first, last], whole numbers, found {schema.shown(time)}")
    first, last = time
    # A few videos of five pieces have annotators who marked the sixth: it exists for whoever counts.
    if not 0 <= first <= last < PIECES:
        raise DataError(f"{where}: times: expected 0 <= first <= last < {PIECES}, found {first} and {last}")
    return first, last
