"""One look at the sources: which files there are, by path, and what could not be looked at. Opens no video."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvr_cli import files
from tvr_cli.engine.extraction import discover, tree
from tvr_cli.engine.extraction.difference import is_missing
from tvr_cli.errors import DataError


@dataclass(frozen=True, slots=True)
class Mark:
    """What a file is known by. device: of the folder that it lies in."""

    stamp: files.Stamp
    device: int


@dataclass(frozen=True, slots=True)
class Flaw:
    """What does not go as it should, a video, a folder or a step of the work, and why."""

    what: str
    reason: str


@dataclass(frozen=True)
class Look:
    """files: all that sources name, but hidden ones. sources: those that are there. flaws: what was not looked at."""

    files: Mapping[Path, Mark]
    sources: tuple[Path, ...] = ()
    flaws: tuple[Flaw, ...] = ()


def look(sources: Sequence[Path], *, follow: bool = False, besides: Path | None = None) -> Look:
    """Look at folders, files and manifests. follow: also links that lead out of a folder.

    besides: a folder that is none of the videos although it may lie among them, which the workspace is.
    """
    found: dict[Path, Mark] = {}
    there, flaws, devices = list[Path](), list[Flaw](), dict[Path, int]()
    own = None if besides is None else Path(os.path.realpath(besides))
    for source in sources:
        path = Path(os.path.abspath(source))
        if not path.exists():
            flaws.append(Flaw(str(source), "there is no such file or folder now; what is known of it is kept"))
            continue
        there.append(source)
        for file in _named_by(path, follow, flaws):
            if own is not None and own in Path(os.path.realpath(file)).parents:
                continue
            mark = _mark(file, devices)
            if mark is not None:
                found[file] = mark
    return Look(found, tuple(there), tuple(flaws))


def surely_gone(path: Path, device: int) -> bool:
    """Whether a file that was there has been deleted or moved away, and not the disk, the share or the right to see it.

    device: of the folder that it lay in. The nearest folder that is still there has to lie on the same: where a disk
    was taken out, its folder has gone as well or is an empty one of another disk.
    """
    if not is_missing(path):
        return False
    for folder in path.parents:
        try:
            return os.stat(folder).st_dev == device
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return False
    return False


def _named_by(path: Path, follow: bool, flaws: list[Flaw]) -> Iterator[Path]:
    if path.is_dir():
        walk = tree.walk(path, follow=follow)
        kept = "what is known of its files is kept"
        flaws += [Flaw(folder, f"cannot be looked through ({why}); {kept}") for folder, why in walk.unreadable]
        yield from (file for _, file in walk.files)
        return
    if path.suffix.lower() != ".jsonl":
        yield path.resolve()
        return
    yield path
    try:
        yield from (video.path for video in discover.discover([path]).videos)
    except DataError as e:  # it may be half written
        flaws.append(Flaw(str(path), str(e)))


def _mark(file: Path, devices: dict[Path, int]) -> Mark | None:
    stamp = files.stamp(file)
    if stamp is None:
        return None
    if file.parent not in devices:
        try:
            devices[file.parent] = os.stat(file.parent).st_dev
        except OSError:  # it went in between
            return None
    return Mark(stamp, devices[file.parent])
