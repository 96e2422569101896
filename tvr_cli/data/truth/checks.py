"""What every format of truth checks of its numbers, and the sentences of what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tvr_cli import schema
from tvr_cli.data import annotation_files as ann
from tvr_cli.data.truth.question import Moment
from tvr_cli.errors import DataError
from tvr_cli.files import parse_json


def objects(path: Path, example: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield place and object of each line of a JSONL file. Raises DataError with file and line."""
    for number, line in ann.read_lines(path):
        where = f"{path}:{number}"
        try:
            record = parse_json(line)
        except ValueError as e:
            raise DataError(f"{where}: expected a JSON object like {example}, found no valid JSON: {e}") from None
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected a JSON object like {example}, found {schema.shown(record)}")
        yield where, record


def text(record: Mapping[str, Any], key: str, where: str) -> str:
    """Return a field that has to be text with words in it. Raises DataError."""
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key}: expected text, found {schema.shown(value)}")
    return " ".join(value.split())


def name(record: Mapping[str, Any], key: str, where: str) -> str:
    """Return a field that has to be a name: text, or a whole number, as text. Raises DataError."""
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(record, key, where)


def seconds(value: Any, what: str, where: str) -> float:
    """Return a number of seconds, 0 or more. Raises DataError."""
    if not schema.number.many([value]) or value < 0:
        raise DataError(f"{where}: {what}: expected seconds (a number, 0 or more), found {schema.shown(value)}")
    return float(value)


def length(value: Any, where: str) -> float:
    """Return the length of a video in seconds, above 0. Raises DataError."""
    found = seconds(value, "duration", where)
    if not found:
        raise DataError(f"{where}: duration: expected seconds above 0, found 0")
    return found


def pair(value: Any, where: str) -> tuple[float, float]:
    """Return two numbers of seconds, in whatever order they stand. Raises DataError."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise DataError(f"{where}: expected [start, end] in seconds, found {schema.shown(value)}")
    return seconds(value[0], "start", where), seconds(value[1], "end", where)


def moment(video: str, start: float, end: float, where: str, *, duration: float | None = None) -> Moment:
    """Return a moment, cut at the end of its video. Raises DataError where it ends before it starts, or lies outside.

    duration: of the video, None where nobody knows it.
    """
    if end <= start:
        raise DataError(f"{where}: expected start < end, found start {start:g} and end {end:g}; correct the line")
    if duration is not None and start >= duration:
        raise DataError(
            f"{where}: expected a moment inside of {video!r}, which ends at {duration:g} s, found one that starts at "
            f"{start:g}"
        )
    return Moment(video, start, end if duration is None else min(end, duration))


def some(path: Path, questions: tuple[Any, ...], example: str) -> None:
    """Raise DataError where a file holds no question."""
    if not questions:
        raise DataError(f"{str(path)!r} holds no questions; expected {example}")
