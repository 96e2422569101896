"""Which files a search is about, by their names, dates and lengths: decided before anything is ranked. No torch."""

from __future__ import annotations

import fnmatch
import functools
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_cli.errors import ConfigError, DataError
from tvr_cli.workspace import Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.searching.library import LibraryFile

_AGO = re.compile(r"(\d+(?:\.\d+)?)([hdw])")
_SECONDS = {"h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_MOST_BYTES = 64 * 2**20  # of a list of files


@dataclass(frozen=True, slots=True)
class Filters:
    """What files of an answer have to be; what is None or empty asks nothing.

    inside: globs, of which one matches the id or the path. newer, older: than a date, or so long ago (`date_of`).
    longer, shorter: seconds. not_in: a file that lists paths or ids, one a line.
    """

    inside: tuple[str, ...] = ()
    newer: str | None = None
    older: str | None = None
    longer: float | None = None
    shorter: float | None = None
    not_in: Path | None = None

    @property
    def ask_nothing(self) -> bool:
        return self == Filters()


@dataclass(frozen=True, slots=True)
class _Test:
    """One filter. said: as it is typed."""

    said: str
    passes: Callable[[LibraryFile], bool]


def chosen(workspace: Workspace, filters: Filters, *, now: float | None = None) -> frozenset[str] | None:
    """Return the ids of the files that pass all filters, None where nothing is asked. now: seconds since the epoch.

    Raises ConfigError for a date or number that is none, DataError where no file passes, with what each leaves out.
    """
    if filters.ask_nothing:
        return None
    from tvr_cli.engine.searching import library  # all data sets with it, and most queries ask for no files

    tests = list(_tests(filters, time.time() if now is None else now))
    files = library.files_of(workspace)
    passed = [[test.passes(file) for test in tests] for file in files]
    kept = frozenset(file.id for file, passes in zip(files, passed, strict=True) if all(passes))
    if not kept:
        left_out = ", ".join(
            f"{test.said} leaves out {sum(not passes[i] for passes in passed)}" for i, test in enumerate(tests)
        )
        some = f"none of the {len(files)} files" if len(files) != 1 else "not the one file"
        raise DataError(f"{some} of {str(workspace)!r} is left to search: {left_out}")
    return kept


def date_of(flag: str, text: str, now: float) -> float:
    """Return the seconds since the epoch that a date means: `2026-11-01`, `2026-11-01T18:30`, or `7d` ago (h, d, w).

    Dates are those of this machine's time zone. Raises ConfigError.
    """
    if (ago := _AGO.fullmatch(text)) is not None:
        return now - float(ago[1]) * _SECONDS[ago[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"{flag}: expected a date such as 2026-11-01 or 2026-11-01T18:30, or how long ago such as 7d, 12h or 2w, "
            f"found {text!r}"
        ) from None


def _lasts(file: LibraryFile, than: float, sign: int) -> bool:
    """Whether a file is longer than some seconds (sign 1), or shorter."""
    return sign * file.seconds > sign * than


def _tests(filters: Filters, now: float) -> Sequence[_Test]:
    found = []
    if filters.inside:
        said = " ".join(f"--in {glob!r}" for glob in filters.inside)
        found.append(_Test(said, lambda file: any(matches(file, glob) for glob in filters.inside)))
    for flag, text, sign in (("--newer", filters.newer, 1), ("--older", filters.older, -1)):
        if text is not None:
            than = date_of(flag, text, now)
            found.append(_Test(f"{flag} {text}", functools.partial(_is_later, than=than, sign=sign)))
    for flag, seconds, sign in (("--longer", filters.longer, 1), ("--shorter", filters.shorter, -1)):
        if seconds is not None:
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ConfigError(f"{flag}: expected seconds, 0 or more, found {seconds}")
            found.append(_Test(f"{flag} {seconds:g}", functools.partial(_lasts, than=seconds, sign=sign)))
    if filters.not_in is not None:
        names = _listed(filters.not_in)
        found.append(
            _Test(f"--not-in {str(filters.not_in)!r}", lambda file: file.id not in names and file.path not in names)
        )
    return found


def matches(file: LibraryFile, glob: str) -> bool:
    """Return whether a glob is about a file: its id or its path, or, without a slash, its name.

    `*` stands for any letters, slashes too; what ends with a slash is a folder, with all that is in it.
    """
    if glob.endswith("/"):
        glob += "*"
    if "/" not in glob:
        return fnmatch.fnmatchcase(os.path.basename(file.id), glob)
    return any(
        fnmatch.fnmatchcase(name, pattern)
        for name, pattern in ((file.id, glob), (file.path, glob), (file.path, os.path.abspath(glob)))
    )


def _is_later(file: LibraryFile, than: float, sign: int) -> bool:
    """Return whether a file was last written after a moment (sign 1), or before it (-1); one that is gone was neither.

    That is its date on disk now. Containers say when they were made too, but often wrongly, or not at all.
    """
    try:
        written = os.stat(file.path).st_mtime
    except (OSError, ValueError):
        return False
    return written >= than if sign > 0 else written < than


def _listed(path: Path) -> frozenset[str]:
    """Return the paths and ids that a file lists, paths made absolute. Raises DataError."""
    where = f"--not-in: expected a list of paths or ids, one a line, in {str(path)!r}"
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{where}, found {path.stat().st_size} bytes")
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as e:
        raise DataError(f"{where}, which cannot be read ({e.strerror})") from e
    lines = text.split("\0") if "\0" in text else text.splitlines()
    names = [line.strip() for line in lines if line.strip()]
    return frozenset([*names, *(os.path.abspath(name) for name in names)])
