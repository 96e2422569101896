"""Writing files so that a crash leaves the old one or the new one: atomic replace, appended lines, locks, hashes.

A leaf module: stores, runs and the engine all write through it, so there is one way to write and one way to lock.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tvr_cli import os_errors
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem

_BLOCK = 1 << 20
_HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)  # what a lock of somebody else answers
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # what a file system without locks answers
_LEADS_OUT = frozenset("/\\:")  # separators of any system, and what follows a drive's letter
_Parsed = TypeVar("_Parsed")
Stamp = tuple[int, int, int, int]


def write_bytes(path: Path, data: bytes, *, mtime_ns: int | None = None) -> str:
    """Write `data` as `path` in one step (tmp, fsync, rename) and return its sha256.

    mtime_ns: the time that the file is to have, None = now. Raises EnvironmentProblem when the disk is full or the
    folder cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            if mtime_ns is not None:
                os.utime(temporary, ns=(mtime_ns, mtime_ns))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return hashlib.sha256(data).hexdigest()


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links. Raises EnvironmentProblem."""
    with disk_errors(target):
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise
        except OSError:
            with open(source, "rb") as old, open(target, "wb") as new:
                shutil.copyfileobj(old, new, _BLOCK)
                new.flush()
                os.fsync(new.fileno())


def require_free(path: Path, *, overwrite: bool = False) -> None:
    """Raise ConfigError where a file that a flag names is there already, and is not to be replaced, or is a folder."""
    if path.is_dir():
        raise ConfigError(f"expected a file to write, found the folder {str(path)!r}")
    if path.exists() and not overwrite:
        raise ConfigError(f"{str(path)!r} is there already; name another file, or replace it with --overwrite")


def write_text(path: Path, text: str, *, mtime_ns: int | None = None) -> None:
    """Write `text` as UTF-8 in one step."""
    write_bytes(path, text.encode("utf-8"), mtime_ns=mtime_ns)


def write_json(path: Path, value: Any, *, mtime_ns: int | None = None) -> None:
    """Write a JSON file in one step: indented, keys in the order given, floats unrounded."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", mtime_ns=mtime_ns)


def read_json(path: Path, *, fix: str | Callable[[], str] = "") -> Any:
    """Read a JSON file. Raises DataError that names the file, and the `fix`, when it is missing or malformed.

    fix: what to do, or what finds that out. Where the system does not give the file: Unreadable or EnvironmentProblem,
    without the fix of a malformed one.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"expected a file at {str(path)!r}, found none{_behind(fix)}") from None
    except IsADirectoryError:
        raise DataError(f"expected a file at {str(path)!r}, found a folder{_behind(fix)}") from None
    except (OSError, ValueError) as e:
        unread = os_errors.unread(e, path) if isinstance(e, OSError) else None
        raise unread or DataError(f"{str(path)!r} is not readable as JSON: {e}{_behind(fix)}") from e


def _behind(fix: str | Callable[[], str]) -> str:
    """Return what stands behind a message that has a fix."""
    told = fix if isinstance(fix, str) else fix()
    return f"; {told}" if told else ""


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text says. Raises ValueError, with a reason to show, for anything else.

    Every JSON is read here: lists in lists without end are a RecursionError to Python, not a malformed text.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its lists and objects lie deeper in each other than can be read") from None


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON object as a line and fsync; a torn last line of an earlier crash is cut off first."""
    append_lines(path, [record])


def append_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Append JSON objects, one a line, with one fsync for all."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as f:
            _cut_torn_line(f)
            f.write(text.encode("utf-8"))
            f.flush()
            os.fsync(f.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines that `append_line` wrote; a torn last line is ignored, a missing file is empty."""
    return parse_lines(path, _same)


def parse_lines(path: Path, parse: Callable[[dict[str, Any]], _Parsed]) -> list[_Parsed]:
    """Read a file of JSON lines and make something of each object.

    Raises DataError that names the line when it is not what was written.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            records.append(parse(parse_json(line)))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
            raise DataError(
                f"{path!s}:{number}: this line is damaged ({type(e).__name__}: {e}); keep a copy of the file and take "
                "the line out, then the command that wrote the file makes again what it stood for"
            ) from e
    return records


def bare_name(name: object, where: Path) -> str:
    """Return `name` if it can only be a file or folder right in the folder that it belongs to.

    Every name that is read from a file of a workspace comes through here before it becomes a path: the workspace may
    have been given to you. where: the file that says the name. Raises DataError for a path, a drive, `..` and the like.
    """
    if isinstance(name, str) and name.isprintable() and name not in ("", ".", "..") and not _LEADS_OUT & set(name):
        return name
    raise DataError(
        f"{str(where)!r} names {name!r} where the bare name of a file in one folder is expected; nothing was read or "
        "changed by that name. tvr writes no such name: ask whoever gave you this workspace"
    )


def temporary_of(name: str) -> re.Pattern[str]:
    """Return what the temporary files of `name` are called; a writer that was killed leaves one behind."""
    return re.compile(re.escape(name) + r"\.\d+\.tmp")


def is_text(name: str) -> bool:
    """Return whether a string can be written as UTF-8: names and input with undecodable bytes hold lone surrogates."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def stamp(path: Path) -> Stamp | None:
    """Return what tells whether a file is still the same: size, mtime_ns, ctime_ns, inode. None where there is none.

    A copy that keeps an old time (`cp -p`) changes the inode or ctime, so it is noticed.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def sha256_file(path: Path, *, each_block: Callable[[], None] = lambda: None) -> str:
    """Return the sha256 of a file's bytes, read in blocks; `each_block` is called after each of them."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(_BLOCK):
            digest.update(block)
            each_block()
    return digest.hexdigest()


@contextlib.contextmanager
def lock(folder: Path, *, wait_s: float = 10.0, shared: bool = False) -> Iterator[None]:
    """Hold the one writer's lock of `folder`; a second writer waits, then raises EnvironmentProblem.

    The lock is the operating system's (it vanishes with its process), so a killed writer never blocks the next.
    shared: a reader's lock. Readers keep only writers waiting; where nobody can write none is needed.
    """
    if shared and not os.access(folder, os.W_OK):
        yield
        return
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        f = open(folder / ".lock", "a+")  # noqa: SIM115 - held open for as long as the lock is held
    try:
        _wait_for_lock(f, folder, wait_s, shared)
        yield
    finally:
        f.close()


def is_locked(folder: Path) -> bool:
    """Whether a process holds the one writer's lock of `folder` at this moment; this one counts as well."""
    try:
        f = open(folder / ".lock", "r+")  # noqa: SIM115 - closed below
    except OSError:  # nobody ever took it, or it belongs to somebody else
        return False
    with f:
        try:
            return not _try_lock(f, folder, shared=True)
        except EnvironmentProblem:  # no locks here, so none is held
            return False


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the system refuses while `path` is written (no space, no right, …) into an error of ours, naming it."""
    try:
        yield
    except OSError as e:
        if (refusal := os_errors.refusal(e, written=path)) is not None:
            raise refusal from e
        raise


def _same(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise TypeError(f"expected a JSON object, found {type(record).__name__}")
    return record


def _cut_torn_line(f: Any) -> None:
    size = f.seek(0, os.SEEK_END)
    if size == 0:
        return
    f.seek(size - 1)
    if f.read(1) == b"\n":
        return
    f.seek(0)
    keep = f.read().rfind(b"\n") + 1
    f.truncate(keep)
    f.seek(0, os.SEEK_END)


def _wait_for_lock(f: Any, folder: Path, wait_s: float, shared: bool) -> None:
    deadline = time.monotonic() + wait_s
    while not _try_lock(f, folder, shared):
        if time.monotonic() >= deadline:
            raise EnvironmentProblem(
                f"another tvr process is writing {str(folder)!r}; waited {wait_s:.0f} s for it. "
                "Wait until it ends, or give this run a workspace of its own with -o"
            )
        time.sleep(0.05)


def _try_lock(f: Any, folder: Path, shared: bool) -> bool:
    """Take the lock if nobody holds it. Raises EnvironmentProblem where there are no locks to take."""
    try:
        import fcntl
    except ImportError:  # Windows, where a reader's lock is a writer's
        import msvcrt

        try:
            f.seek(0)
            msvcrt.locking(f.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(f, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno in _HELD:
            return False
        if shared and e.errno in _NO_LOCKS:  # nobody can write there, then
            return True
        raise EnvironmentProblem(
            f"cannot lock {str(folder)!r}: {e.strerror}; its file system gives no locks now, and without one two "
            "writers could spoil each other's work. Choose a workspace on another file system with -o"
        ) from e
    return True
