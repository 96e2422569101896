"""The files below a folder: by their real names, each once, and no further than the folder unless that is wanted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Walk:
    """files: (path below the folder, path) of each file. outside: links, below the folder, that lead out of it.
    unreadable: (path, why) of each folder that could not be looked through.

    What a link inside of the folder leads to has its real name; what one leads to outside, which is there only where
    links are followed, has that of the link. A link to nothing is a file by its own name.
    """

    files: tuple[tuple[str, Path], ...]
    outside: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...] = ()


def walk(folder: Path, *, follow: bool = False) -> Walk:
    """Look through a folder, hidden names left out. follow: also links that lead out of it."""
    root = os.path.realpath(folder)
    found: dict[str, tuple[str, Path]] = {}  # by real path
    links: list[tuple[str, str]] = []
    unread: list[OSError] = []
    for relative, real in _below(root, "", links, unread):
        found[real] = (relative, folder / relative)
    outside = []
    entered = {root}
    while links:
        name, link = links.pop(0)
        real = os.path.realpath(link)
        inside = real == root or real.startswith(root.rstrip(os.sep) + os.sep)
        if not (inside or follow):
            outside.append(name)
            continue
        place = Path(os.path.relpath(real, root)).as_posix() if inside else name
        if not os.path.isdir(real):
            known = os.path.exists(real)
            found.setdefault(real, (place, folder / place if inside else Path(real)) if known else (name, Path(link)))
        elif real not in entered:
            entered.add(real)
            for relative, file in _below(real, "" if place == "." else place, links, unread):
                found.setdefault(file, (relative, folder / relative if inside else Path(file)))
    unreadable = sorted((str(e.filename), e.strerror or str(e)) for e in unread)
    return Walk(tuple(sorted(found.values())), tuple(sorted(outside)), tuple(unreadable))


def _below(real: str, prefix: str, links: list[tuple[str, str]], unread: list[OSError]) -> Iterator[tuple[str, str]]:
    """Yield (name below the folder, real path) of each file that no link leads to; note links and unread folders.

    real: a folder without links in its path. prefix: what it is called below the folder that was named.
    """
    for current, folders, names in os.walk(real, onerror=unread.append):
        front = Path(prefix, os.path.relpath(current, real)).as_posix()
        front = "" if front == "." else f"{front}/"
        plain = []
        for name in sorted(folders):
            if name.startswith("."):
                continue
            path = os.path.join(current, name)
            if os.path.islink(path):
                links.append((front + name, path))
            else:
                plain.append(name)
        folders[:] = plain
        for name in sorted(names):
            path = os.path.join(current, name)
            if name.startswith("."):
                continue
            if os.path.islink(path):
                links.append((front + name, path))
            else:
                yield front + name, path
