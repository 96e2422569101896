"""TVR-Ranking (arXiv 2407.06597): `val.json`, `test.json`, a list of pairs of a query and a moment of any video, with
`query_id`, `query`, `video_name`, `timestamp` [start, end], `duration` and `relevance` (0 to 4). JSON lines will do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tvr_cli import schema
from tvr_cli.data import annotation_files as ann
from tvr_cli.data.truth import checks
from tvr_cli.data.truth.question import Moment, Question, Truth
from tvr_cli.errors import DataError

EXAMPLE = '{"query_id": 1, "query": "a man lies", "video_name": "a", "timestamp": [3, 7], "relevance": 4}'
MOST = 4


def read(path: Path) -> Truth:
    """Read TVR-Ranking. Raises DataError with file and record."""
    texts: dict[str, str] = {}
    sources: dict[str, str] = {}
    moments: dict[str, list[Moment]] = {}
    durations: dict[str, float] = {}
    for where, record in _records(path):
        key, video = checks.name(record, "query_id", where), checks.text(record, "video_name", where)
        if texts.setdefault(key, checks.text(record, "query", where)) != checks.text(record, "query", where):
            raise DataError(f"{where}: the query {key} has other words than in {sources[key]}")
        sources.setdefault(key, where)
        grade = record.get("relevance")
        if not schema.number.many([grade]) or not 0 <= float(grade or 0) <= MOST:
            raise DataError(f"{where}: relevance: expected a number from 0 to {MOST}, found {schema.shown(grade)}")
        span = checks.pair(record.get("timestamp"), where)
        if record.get("duration") is not None:
            durations[video] = checks.length(record["duration"], where)
        found = checks.moment(video, *span, where, duration=durations.get(video))
        moments.setdefault(key, []).append(Moment(video, found.start, found.end, float(grade or 0)))
    questions = tuple(Question(key, texts[key], None, tuple(moments[key]), sources[key]) for key in texts)
    checks.some(path, questions, f"a list of objects like {EXAMPLE}")
    return Truth("tvr-ranking", path, questions, durations)


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not ann.read_text(path).lstrip().startswith("["):
        yield from checks.objects(path, EXAMPLE)
        return
    for i, record in enumerate(ann.read_json(path)):
        if not isinstance(record, dict):
            raise DataError(f"{path}: pair {i}: expected an object like {EXAMPLE}, found {schema.shown(record)}")
        yield f"{path}: pair {i}", record
