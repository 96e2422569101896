"""Captions with times out of the annotation files of data sets about moments: each sentence with the seconds it is of.

    Charades-STA            charades_sta_train.txt           VIDEO START END##SENTENCE
    ActivityNet Captions    train.json, val_1.json …         {"v_id": {"duration", "timestamps", "sentences"}}
    DiDeMo                  {train,val,test}_data.json       times: [first, last] an annotator, pieces of five seconds
    QVHighlights            highlight_{train,val}_….jsonl    relevant_windows

They are read by what judges moments (`truth/`). A sentence of QVHighlights is a caption for each window; of DiDeMo's
annotators the segment that most of them chose counts, of several the first. A file whose name has a split in it is all
of that split.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tvr_cli.data import annotation_files as ann
from tvr_cli.data.truth import activitynet, charades, didemo, formats, qvhighlights
from tvr_cli.data.truth.question import Format, Moment, Question
from tvr_cli.errors import DataError
from tvr_cli.log import warn_once
from tvr_cli.types import Caption, Split

_READERS = {
    "charades-sta": charades.read,
    "activitynet-captions": activitynet.read,
    "didemo": didemo.read,
    "qvhighlights": qvhighlights.read,
}
_SPLIT = re.compile(r"(?:^|[_\-.])(train|val|test)(?:$|[_\-.]|\d)")
_FIRST = 2**16  # bytes of a file that say whether it may be of such a data set


def format_of(path: Path) -> Format | None:
    """Return which of these data sets a file is of, None for captions of any other kind."""
    suffix = path.suffix.lower()
    if suffix not in (".txt", ".json", ".jsonl") or not path.is_file():
        return None
    with path.open("rb") as f:
        first = f.read(_FIRST).decode("utf-8-sig", "replace").lstrip()
    line = first.partition("\n")[0].strip()
    if suffix == ".txt":
        return "charades-sta" if charades.LINE.fullmatch(line) else None
    if suffix == ".jsonl":
        return "qvhighlights" if '"relevant_windows"' in line else None
    if '"times"' not in first and '"timestamps"' not in first:
        return None
    try:
        found = formats.recognised(path)
    except DataError:  # of another shape, whose own reader says what is wrong with it
        return None
    return found if found in _READERS else None


def captions(path: Path, format: Format) -> Iterator[Caption]:
    """Yield the captions of a file, each with its seconds. Raises DataError with file and place."""
    truth = _READERS[format](path)
    for note in truth.notes:
        warn_once(f"{path}: {note}")
    split = split_of(path)
    for question in truth.questions:
        for i, moment in enumerate(_moments(question)):
            yield Caption(
                f"{question.id}#{i}", moment.video, question.text, split, moment.start, moment.end, question.source
            )


def split_of(path: Path) -> Split | None:
    """Return the split that a file's name has in it, None where it has none, or several."""
    named = {name for name in _SPLIT.findall(path.stem.lower())}
    return next(iter(named)) if len(named) == 1 else None


def as_called(captions: Iterable[Caption], files: Iterable[str]) -> Iterator[Caption]:
    """Yield captions with the ids of the files that are there of their videos, where these are spelled otherwise.

    ActivityNet's `v_` may be missing, and DiDeMo's files have kept their names without the ending.
    """
    stems: dict[str, set[str]] = {}
    for file in files:
        stems.setdefault(ann.video_stem(file), set()).add(file)
    exact = {file for there in stems.values() for file in there}
    for caption in captions:
        names = (caption.video, ann.video_stem(caption.video), caption.video.removeprefix("v_"))
        found = [stems[name] for name in names if caption.video not in exact and len(stems.get(name, ())) == 1]
        yield replace(caption, video=next(iter(found[0]))) if found else caption


def _moments(question: Question) -> Sequence[Moment]:
    if not question.segments or question.video is None:
        return question.moments
    (segment, _), *_ = Counter(question.segments).most_common(1)
    return [didemo.in_seconds(question.video, segment)]
