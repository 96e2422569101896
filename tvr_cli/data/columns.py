"""Captions files of every shape as records with the keys of `jsonl.py`: JSONL, JSON, CSV, TSV, and columns by any name.

    .jsonl       one object a line
    .json        a list of objects; an object that holds one (`sentences`, `annotations`, `captions`, `data`); or
                 video -> caption or list of captions
    .csv .tsv    a header and one caption a row, separated by comma, semicolon or TAB

A key that is not there is looked for by the names that benchmarks use (`text`, `sentence`, `video_id` …), which is said
once; `columns` names it exactly. In JSON a caption that is a list of texts is as many captions. What values mean is not
decided here. Annotation files of data sets about moments: `timed.py`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvr_cli.data.annotation_files import read_json, read_text
from tvr_cli.errors import ConfigError, DataError, did_you_mean
from tvr_cli.log import warn_once

KEYS = ("video", "caption", "id", "split", "path", "start", "end")
_OTHER_NAMES = {
    "video": ("video_id", "videoID", "vid", "clip", "clip_id"),
    "caption": ("text", "sentence", "description"),
}
_LISTS = ("sentences", "annotations", "captions", "data")
_NUMBERS = ("start", "end")


@dataclass(frozen=True)
class CaptionsFile:
    """A captions file and the columns that were named: key -> name of the column or field."""

    path: Path
    columns: Mapping[str, str] = field(default_factory=dict)


def parse_columns(said: str | None) -> dict[str, str]:
    """Read `video=video_id,caption=sentence`. Raises ConfigError for another shape and for an unknown key."""
    columns: dict[str, str] = {}
    for part in (said or "").split(",") if said else []:
        key, equals, name = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise ConfigError(f"--columns: expected KEY=COLUMN,…, like video=video_id,caption=sentence, found {said!r}")
        if key not in KEYS:
            near = did_you_mean(key, KEYS) or f"; there are: {', '.join(KEYS)}"
            raise ConfigError(f"--columns: unknown key {key!r}{near}")
        columns[key] = name
    return columns


def is_table(path: Path) -> bool:
    """Whether a file's name says that it is not one JSON object a line."""
    return path.suffix.lower() in (".json", ".csv", ".tsv")


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return place and record of each row of a JSON, CSV or TSV file. Raises DataError with the place."""
    return _json_records(path) if path.suffix.lower() == ".json" else _rows(path)


def named(record: Mapping[str, Any], columns: Mapping[str, str], path: Path, where: str) -> dict[str, Any]:
    """Return a record with the keys of `jsonl.py`. Raises DataError for a named column that it does not have."""
    found = dict(record)
    for key, name in columns.items():
        if name not in record:
            near = did_you_mean(name, list(record)) or f"; it has {', '.join(map(repr, record))}"
            raise DataError(f"{where}: expected the column {name!r} (--columns {key}={name}), found none{near}")
        found[key] = record[name]
    for key, names in _OTHER_NAMES.items():
        other = next((n for n in names if n in record), None)
        if key not in found and other:
            found[key] = record[other]
            warn_once(f"{path}: {other!r} is read as the {key}; --columns {key}=NAME names another column")
    return found


def captions_in(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return one record a caption of a JSON file: several where its caption is a list of texts."""
    texts = record.get("caption")
    if not isinstance(texts, list) or not texts:
        yield dict(record)
        return
    for i, text in enumerate(texts):
        yield {**record, "caption": text, **({"id": f"{record['id']}#{i}"} if record.get("id") else {})}


def _json_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    data = read_json(path)
    if isinstance(data, dict):
        data = next((data[key] for key in _LISTS if isinstance(data.get(key), list)), data)
    if isinstance(data, dict):
        for video, said in data.items():
            yield f"{path}: {video!r}", {"video": video, "caption": said}
        return
    if not isinstance(data, list):
        raise DataError(f"{path}: expected a list of captions or video -> captions, found {type(data).__name__}")
    for i, record in enumerate(data):
        if not isinstance(record, dict):
            raise DataError(f"{path}: record {i}: expected an object, found {json.dumps(record)[:60]}")
        yield f"{path}: record {i}", record


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = read_text(path).splitlines(keepends=True)
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(lines, delimiter=delimiter)
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if None in row or None in row.values():
            raise DataError(f"{where}: expected {len(reader.fieldnames or ())} columns as in the header, found others")
        yield where, {name.strip(): _number(name.strip(), value) for name, value in row.items() if value != ""}


def _number(name: str, value: str) -> Any:
    """Return seconds as a number, so that a cell is judged as a JSON value is; everything else as it stands."""
    try:
        return float(value) if name in _NUMBERS else value
    except ValueError:
        return value
