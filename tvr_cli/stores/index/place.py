"""Where an index stands: knowing one by its mark, and putting a new one in the place of an old one.

    index/            the index that counts
    index.building/   the one that is being written; its store.json is written first, with `"building": true`
    index.replaced/   the one before, for the moment between two renames and until its files are gone

The mark is a readable store.json of the index's format. A folder without it, or with anything beside the files that it
names, is never removed, replaced or written into. The order (`index` to `index.replaced`, `index.building` to `index`,
then removing) leaves at every moment a whole index under one of the three names: `standing` finds it, and the next
writer (`prepare`) puts it back in its place. Writers hold the workspace's lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvr_cli import commands, files
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.removal import remove_folder, require_own

INDEX_FORMAT = 1
HEAD = "store.json"
# Heads that were read or written, by what tells a file wherever it is moved: a query looks at one several times.
_read: dict[tuple[int, int, int], dict[str, Any]] = {}
_KEYS = {"identity", "clips", "coarse", "encodings"}
_WHAT = "a search index of tvr"
_FIX = "Move the folder elsewhere, or choose another workspace with -o"


def read_head(folder: Path) -> dict[str, Any]:
    """Read the store.json of an index: its mark. One without a `kind` was written by tvr 0.1.0.

    Raises DataError when there is none or it cannot be an index's, StoreMismatch for another kind or format.
    """
    path = folder / HEAD
    if (kept := _read.get(_which(path))) is not None:
        return kept
    if not path.is_file():
        raise DataError(f"expected an index at {str(folder)!r}, found none; build it with: {commands.tvr('index')}")
    head = files.read_json(path, fix=f"nothing of it was changed. {_FIX}")
    if not isinstance(head, dict):
        raise DataError(f"{str(path)!r} is not the head of an index; nothing of it was changed. {_FIX}")
    if (kind := head.get("kind", "index")) != "index":
        raise StoreMismatch(f"{str(folder)!r} holds a store of kind {kind!r}, not an index. {_FIX}")
    if head.get("format") != INDEX_FORMAT:
        raise StoreMismatch(
            f"the index at {str(folder)!r} has format {head.get('format')}, this tvr reads {INDEX_FORMAT}; "
            f"it is left as it is. {_FIX}, or use the tvr that wrote it"
        )
    if lacking := _KEYS - set(head):
        raise DataError(f"the index at {str(folder)!r} is damaged: it lacks {sorted(lacking)}. {_FIX}")
    try:
        records = [head["coarse"], head["clips"], *head["encodings"]]
        names = [(files.bare_name(record["name"], path), record["sha256"]) for record in records]
    except (TypeError, KeyError) as e:
        raise DataError(f"the head {str(path)!r} is damaged ({type(e).__name__}: {e}). {_FIX}") from e
    if not all(isinstance(part, dict) for part in (head["identity"], head.get("asked", {}))) or not names:
        raise DataError(f"the head {str(path)!r} is damaged (its identity is none). {_FIX}")
    _read[_which(path)] = head
    return head


def write_head(folder: Path, head: Mapping[str, Any]) -> None:
    """Write the store.json of an index that is being built."""
    files.write_json(folder / HEAD, head)
    _read[_which(folder / HEAD)] = dict(head)


def _which(path: Path) -> tuple[int, int, int]:
    """Return what tells a file even after its folder was renamed: inode, size, mtime_ns. Zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def require_free(folder: Path) -> None:
    """Raise DataError (StoreMismatch) unless `folder` is absent, empty, or an index with nothing beside its files."""
    require_own(folder, _own(folder), what=_WHAT, fix=_FIX)


def standing(folder: Path) -> Path:
    """Return where the index can be opened: `folder`, or beside it after a stop in the middle of a replacement."""
    if not folder.is_dir() or not any(folder.iterdir()):
        for beside in (_building(folder), _replaced(folder)):
            if _whole(beside):
                return beside
    return folder


def prepare(folder: Path, head: Mapping[str, Any]) -> Path:
    """Return an empty `index.building` that holds only its head, after mending what a stopped writer left.

    Raises DataError, before anything is changed, when one of the three folders is not tvr's.
    """
    building, replaced = _building(folder), _replaced(folder)
    for place in (folder, building, replaced):
        require_free(place)
    if (at := standing(folder)) != folder:
        _move(at, folder)
    _remove(building)
    _remove(replaced)
    write_head(building, {**head, "building": True})
    return building


def replace(folder: Path) -> None:
    """Put `index.building`, which is whole, in the place of `folder`; the old one stands until the new one does."""
    replaced = _replaced(folder)
    if (folder / HEAD).is_file():
        _move(folder, replaced)
    _move(_building(folder), folder)
    _remove(replaced)


def _building(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.building")


def _replaced(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.replaced")


def _whole(folder: Path) -> bool:
    try:
        return not read_head(folder).get("building")
    except DataError:
        return False


def _own(folder: Path) -> set[str]:
    """Return the files of an index, temporary ones of a killed writer included. Raises DataError without its mark."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    # Killed before the head had its name: there is nothing in it yet.
    if all(files.temporary_of(HEAD).fullmatch(name) for name in there):
        return there
    if HEAD not in there:
        return set()
    head = read_head(folder)
    names = {HEAD, *(record["name"] for record in (head["coarse"], head["clips"], *head["encodings"]))}
    patterns = [files.temporary_of(name) for name in names]
    return names | {name for name in there if any(pattern.fullmatch(name) for pattern in patterns)}


def _remove(folder: Path) -> None:
    remove_folder(folder, _own(folder), last=HEAD, what=_WHAT, fix=_FIX)


def _move(old: Path, new: Path) -> None:
    """Rename a folder; `new` is not there, or a folder without an index, which gives way if it is as good as empty."""
    if not (new / HEAD).exists():
        _remove(new)
    with files.disk_errors(new):
        old.rename(new)
