"""Truth of one's own: JSONL, one object a line, about a whole library.

    {"query": str, "video"?: name, "start"?: seconds, "end"?: seconds, "id"?: name of the query, "duration"?: seconds}

Several lines of one query are several moments, of one video or of many. A line without seconds says that nothing shows
the query: in the whole library, or with `video` in that one. Lines belong together by `id`, else by the query's words.
The lines of a captions file will do, too, whose key is `caption`: these have seconds, and belong together by the words.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvr_cli.data.truth import checks
from tvr_cli.data.truth.question import Moment, Question, Truth
from tvr_cli.errors import DataError

EXAMPLE = '{"query": "a red car turns left", "video": "street.mp4", "start": 12.5, "end": 15}'


def read(path: Path) -> Truth:
    """Read truth of one's own.

    Raises DataError, with file and line, for what is not as the module's docstring says, for a moment that stands
    twice, and where one line has a moment and another says that there is none.
    """
    texts: dict[str, str] = {}
    sources: dict[str, str] = {}
    moments: dict[str, dict[Moment, str]] = {}
    absent: dict[tuple[str, str | None], str] = {}  # of a query, and of the video that has nothing of it -> place
    durations: dict[str, float] = {}
    for where, record in checks.objects(path, EXAMPLE):
        is_caption = "caption" in record and "query" not in record
        said = checks.text(record, "caption" if is_caption else "query", where)
        key = checks.name(record, "id", where) if record.get("id") is not None and not is_caption else said
        if texts.setdefault(key, said) != said:
            raise DataError(f"{where}: the query {key!r} has other words than in {sources[key]}: {said!r}")
        sources.setdefault(key, where)
        found = moments.setdefault(key, {})
        video = checks.text(record, "video", where) if record.get("video") is not None else None
        if video is not None and record.get("duration") is not None:
            durations[video] = checks.length(record["duration"], where)
        moment = _moment(record, video, where, durations)
        if moment is None and is_caption:
            raise DataError(f"{where}: expected a caption with start and end to judge by, found none; add the seconds")
        if moment is None:
            absent[key, video] = where
        elif moment in found:
            raise DataError(f"{where}: this moment stands in {found[moment]} already; take one of the lines out")
        else:
            found[moment] = where
    for (key, video), where in absent.items():
        _refuse_contradiction(video, where, moments[key])
    questions = tuple(Question(key, texts[key], None, tuple(moments[key]), sources[key]) for key in texts)
    checks.some(path, questions, f"lines like {EXAMPLE}")
    return Truth("jsonl", path, questions, durations)


def _moment(record: Mapping[str, Any], video: str | None, where: str, durations: Mapping[str, float]) -> Moment | None:
    """Return the moment of a line, None where it says that there is none."""
    start, end = record.get("start"), record.get("end")
    if start is None and end is None:
        return None
    if start is None or end is None or video is None:
        lacking = ", ".join(key for key in ("video", "start", "end") if record.get(key) is None)
        raise DataError(f"{where}: expected video, start and end, or neither start nor end; missing: {lacking}")
    span = checks.seconds(start, "start", where), checks.seconds(end, "end", where)
    return checks.moment(video, *span, where, duration=durations.get(video))


def _refuse_contradiction(video: str | None, where: str, moments: Mapping[Moment, str]) -> None:
    for moment, place in moments.items():
        if video in (None, moment.video):
            raise DataError(f"{where}: this line says that nothing shows the query, {place} has a moment of it")
