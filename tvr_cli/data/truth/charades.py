"""Charades-STA (Gao et al., ICCV 2017): `charades_sta_{train,test}.txt`, lines of `VIDEO START END##SENTENCE`."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tvr_cli.data import annotation_files as ann
from tvr_cli.data.truth.question import Moment, Question, Truth
from tvr_cli.errors import DataError

EXAMPLE = "AO8RW 0.0 6.9##a person is putting a book on a shelf."
LINE = re.compile(r"(\S+) (\d+(?:\.\d+)?) (\d+(?:\.\d+)?)##(.+)")


def read(path: Path) -> Truth:
    """Read Charades-STA. Lines that end before they start are left out and counted, as code for it does.

    Raises DataError with file and line.
    """
    counts: Counter[str] = Counter()
    questions, backwards = [], []
    for number, line in ann.read_lines(path):
        where = f"{path}:{number}"
        found = LINE.fullmatch(line)
        if found is None:
            raise DataError(f"{where}: expected a line like {EXAMPLE!r}, found {line[:60]!r}")
        video, start, end = found[1], float(found[2]), float(found[3])
        if end <= start:
            backwards.append(number)
            continue
        key = f"{video}#{counts[video]}"
        counts[video] += 1
        questions.append(Question(key, " ".join(found[4].split()), video, (Moment(video, start, end),), where))
    if not questions:
        raise DataError(f"{str(path)!r} holds no questions; expected lines like {EXAMPLE!r}")
    return Truth("charades-sta", path, tuple(questions), notes=left_out(backwards, "line", "lines"))


def left_out(places: list[int] | list[str], one: str, many: str) -> tuple[str, ...]:
    """Return a note about annotations that end before they start; none where there are none."""
    if not places:
        return ()
    what = (
        f"1 {one} ends before it starts and is"
        if len(places) == 1
        else f"{len(places)} {many} end before they start and are"
    )
    return (f"{what} left out, as code for this data set does (first: {places[0]})",)
