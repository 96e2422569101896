"""What the operating system refuses, as sentences: no space, no right, a name too long, no locks, a disk that fails.

A leaf: `files.disk_errors` knows the path that is written, the boundary in `cli` meets what nobody caught on the way.
What it says of a mistake of the program's own (a closed descriptor, a bad argument) is none of these.
"""

from __future__ import annotations

import errno

from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem, TvrError, Unreadable

_SHOWN = 100  # characters of a path that is itself what is wrong
_AGAIN = "run the same command again, it continues from what is complete"
_FAR = "the disk or the connection to it fails; see that it is there and whole, then " + _AGAIN
_NO_LOCKS = "the file system has no locks to give; choose a workspace on another one with -o"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (  # to this user, or for what was asked: another place is needed, or another right
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP),
)
_MENDS = {
    errno.EFBIG: "a file may not become so large here; raise the limit (ulimit -f), or choose another folder with -o",
    errno.EXDEV: "its folder lies on two file systems, where no file can be renamed; choose another folder with -o",
    errno.EMFILE: "too many files are open in this process; raise the limit (ulimit -n), or ask for fewer --workers",
    errno.ENFILE: "too many files are open on this machine; close some programs, then " + _AGAIN,
    errno.ENOMEM: "there is no memory left; close other programs, or ask for less at once",
    errno.EAGAIN: "the system has no process or thread left to give; raise the limit (ulimit -u), then " + _AGAIN,
    errno.EBUSY: "another program holds it; wait until it ends, then " + _AGAIN,
    **dict.fromkeys((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP), _NO_LOCKS),
    **dict.fromkeys((errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT), _FAR),
    **dict.fromkeys((errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNRESET), _FAR),
}


def refusal(e: OSError, *, written: object = None) -> TvrError | None:
    """Return the error of ours for what the system refused, None where that is a mistake of the program.

    written: the path that was being written, None where that is not known.
    """
    number = e.errno or 0
    path = written if written is not None else e.filename
    at = "" if path is None else f" {str(path)!r}"
    if number == errno.ENAMETOOLONG:
        name = str(path or "")
        shown = name if len(name) <= _SHOWN else name[:_SHOWN] + "…"
        return ConfigError(
            f"the name {shown!r} is longer than a file system takes (mostly 255 bytes); give a shorter one"
        )
    if number in _FULL:
        where = f"while writing{at}" if at else "on the disk that was being written"
        return EnvironmentProblem(f"no space left {where}; free some space and {_AGAIN}")
    if number in _CLOSED and written is not None:
        return EnvironmentProblem(f"cannot write{at}: {e.strerror}; choose another folder with -o")
    if number in _CLOSED:
        right = "its owner has to give you the right to it" if number in _CLOSED[:3] else "see what stands there"
        return DataError(f"cannot use{at or ' a file'}: {e.strerror}; {right}, or name another")
    if number in _MENDS:
        return EnvironmentProblem(
            f"cannot {'write' if written is not None else 'use'}{at or ' a file'}: {e.strerror}: {_MENDS[number]}"
        )
    return None


def unread(e: OSError, path: object) -> TvrError | None:
    """Return the error for a file of a store that is there and that the system did not give, None for any other.

    What was not read is not known to be damaged: making it again is no remedy, and could replace what is whole. A
    file that is missing, or that is a folder, is another matter, and so is a mistake of the program.
    """
    if e.errno in (errno.EACCES, errno.EPERM):
        return Unreadable(f"cannot read {str(path)!r}: {e.strerror}; its owner has to give you the right to read it")
    if e.errno in _CLOSED:
        return None
    return refusal(OSError(e.errno, e.strerror, str(path)))


def no_memory() -> EnvironmentProblem:
    """Return the error of a process that asked for more memory than there is."""
    return EnvironmentProblem(
        "there is not enough memory for this; close other programs, or ask for less at once (fewer --workers, a "
        "smaller --batch-size). What was complete before is kept"
    )
