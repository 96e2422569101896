"""Taking files and folders away: the one place that does, and only what is known to be tvr's own.

A leaf module. A folder is never emptied by walking it: whoever calls says which files are its own, and a folder that
holds anything else stays as it is. `tests/test_layers.py` holds that nothing else in the code removes a folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from tvr_cli.errors import DataError
from tvr_cli.files import bare_name, disk_errors

_NAMED = 3  # strangers that a message names


def strangers(folder: Path, own: Collection[str]) -> list[str]:
    """Return what lies in `folder` besides the files `own`, as paths below it; a link to elsewhere is a stranger too.

    Folders are strangers when they are links, or empty and not in `own`: what is in the others counts. A missing folder
    holds nothing.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return ["."]
    found = []
    for path in sorted(folder.rglob("*")):  # does not follow links
        name = path.relative_to(folder).as_posix()
        inner = path.is_dir() and not path.is_symlink()
        unknown = name not in own or path.is_symlink()
        if unknown and not (inner and any(path.iterdir())):
            found.append(name)
    return found


def listed(names: Collection[str]) -> str:
    """Return the first few names for a message, and how many more there are."""
    shown = ", ".join(repr(name) for name in sorted(names)[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def require_own(folder: Path, own: Collection[str], *, what: str, fix: str) -> None:
    """Raise DataError unless `folder` holds nothing but the files `own` (or is not there).

    what: what the folder should be, for the message. fix: what the user can do.
    """
    if found := strangers(folder, own):
        seen = "is a file or a link" if found == ["."] else f"holds {listed(found)}"
        raise DataError(
            f"{str(folder)!r} {seen}, which does not belong to {what}; nothing was removed, replaced or written. {fix}"
        )


def remove_folder(folder: Path, own: Collection[str], *, last: str, what: str, fix: str) -> None:
    """Remove a folder that holds nothing but the files `own`; one that is not there is fine.

    last: the file that marks the folder as tvr's; it goes last, so that a stop leaves a folder that is still known.
    what, fix: see `require_own`. Raises DataError, having removed nothing, when anything else is in it.
    """
    require_own(folder, own, what=what, fix=fix)
    if folder.is_dir():
        remove_files(folder, [*sorted(set(own) - {last}), last])


def remove_files(root: Path, names: Iterable[str]) -> None:
    """Remove files by their paths below `root`, and every folder that this empties, `root` included.

    Raises DataError for a name that leads out of `root`. A file that is not there is fine.
    """
    emptied: set[Path] = {root}
    for name in names:
        path = below(root, name)
        with disk_errors(path):
            path.unlink(missing_ok=True)
        emptied.update(root / parent for parent in PurePosixPath(name).parents)
    for folder in sorted(emptied, key=lambda p: len(p.parts), reverse=True):
        with contextlib.suppress(OSError):  # something else is in it, or it is gone
            folder.rmdir()


def below(root: Path, name: str) -> Path:
    """Return the path of `name` (with slashes) below `root`. Raises DataError when it, or a link on it, leads out."""
    path = root.joinpath(*(bare_name(part, root) for part in name.split("/")))
    if path.parent.resolve() != root.resolve().joinpath(*name.split("/")[:-1]):
        raise DataError(f"{str(path)!r} lies behind a link that leads out of {str(root)!r}; nothing of it was changed")
    return path
