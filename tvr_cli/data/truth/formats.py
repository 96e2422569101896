"""Which format a file of truth has, and reading it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tvr_cli.data import annotation_files as ann
from tvr_cli.data.truth import activitynet, charades, didemo, own, qvhighlights, tvr_ranking
from tvr_cli.data.truth.question import FORMATS, Format, Truth
from tvr_cli.errors import ConfigError, DataError, did_you_mean
from tvr_cli.files import parse_json

_READERS: Mapping[Format, Callable[[Path], Truth]] = {
    "jsonl": own.read,
    "qvhighlights": qvhighlights.read,
    "charades-sta": charades.read,
    "activitynet-captions": activitynet.read,
    "didemo": didemo.read,
    "tvr-ranking": tvr_ranking.read,
}


def read(path: Path, named: str | None = None) -> Truth:
    """Read a file of truth. named: its format, None = as it looks.

    Raises ConfigError for an unknown format, DataError for a file that is not there or not of the format.
    """
    if named is not None and named not in FORMATS:
        near = did_you_mean(named, FORMATS) or f"; there are: {', '.join(FORMATS)}"
        raise ConfigError(f"--format: unknown format of truth {named!r}{near}")
    if not path.is_file():
        raise DataError(f"expected a file of truth at {str(path)!r}, found none")
    format = next(known for known in FORMATS if known == named) if named is not None else recognised(path)
    return _READERS[format](path)


def recognised(path: Path) -> Format:
    """Return the format that a file looks like. Raises DataError where it looks like none."""
    text = ann.read_text(path).lstrip()
    if not text:
        raise DataError(f"{str(path)!r} is empty; expected truth about moments: lines like {own.EXAMPLE}")
    first = text.split("\n", 1)[0].strip()
    if charades.LINE.fullmatch(first):
        return "charades-sta"
    record = _parsed(first)
    if record is None:  # no object in its first line: one JSON text
        record = _parsed(text)
    if isinstance(record, list):
        record = record[0] if record else None
        if isinstance(record, dict) and "times" in record:
            return "didemo"
    if isinstance(record, dict):
        if "relevant_windows" in record:
            return "qvhighlights"
        if "relevance" in record and "timestamp" in record:
            return "tvr-ranking"
        if "query" in record or "caption" in record:
            return "jsonl"
        if any(isinstance(value, dict) and "timestamps" in value for value in record.values()):
            return "activitynet-captions"
    raise DataError(
        f"{str(path)!r} looks like no known truth about moments; expected lines like {own.EXAMPLE}, or a file of "
        f"{', '.join(FORMATS[1:])}; --format says which"
    )


def _parsed(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return None
