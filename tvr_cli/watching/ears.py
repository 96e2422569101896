"""Who says that something changed below the sources: the system's events, else a clock.

An event says only that it is time to look: what changed is found by looking, so a lost event costs time and nothing
else, and the same look serves folders that tell nothing. That is why folders without events are looked at here by a
clock, and not by watchdog's own polling, which would walk through them once more to say that they are to be looked at.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tvr_cli.errors import EnvironmentProblem

POLL_S = 10.0  # between two looks where nothing tells of changes
_ANYWAY_S = 300.0  # between two looks where events do: links lead elsewhere, and a full queue of events drops some
_MOUNTS = Path("/proc/self/mountinfo")
# File systems whose changes by other machines no event tells of.
_NETWORK = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "ncpfs", "davfs", "virtiofs")
)
_NETWORK_FUSE = ("fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse", "fuse.davfs", "fuse.glusterfs", "fuse.cifs")
_TOUCHES = ("opened", "closed_no_write")  # what reading a video causes


class Ears(Protocol):
    """how: in words, for people. every_s: seconds after which it is time to look whatever was heard."""

    how: str
    every_s: float

    def wait(self, seconds: float) -> bool:
        """Wait for a change, so many seconds at most; return whether there was one since the last call."""

    def close(self) -> None:
        """Hear nothing more."""


class Clock:
    """Hears nothing: it is time to look when it is time."""

    def __init__(self, every_s: float):
        self.every_s, self.how = every_s, f"looked at every {every_s:g} s"
        self._ended = threading.Event()

    def wait(self, seconds: float) -> bool:
        self._ended.wait(seconds)
        return False

    def close(self) -> None:
        self._ended.set()


class Events:
    """Hears the events of the system below folders. Raises OSError where it gives none, or no more."""

    every_s, how = _ANYWAY_S, "events of the system"

    def __init__(self, folders: Sequence[Path], observer: Any):
        self._heard = threading.Event()
        self._observer = observer
        for folder in folders:
            observer.schedule(_Handler(self._heard.set), str(folder), recursive=True)
        observer.start()

    def wait(self, seconds: float) -> bool:
        heard = self._heard.wait(seconds)
        self._heard.clear()
        return heard

    def close(self) -> None:
        self._observer.stop()
        self._observer.join(5.0)


class _Handler:
    """What watchdog calls for every event."""

    def __init__(self, say: Callable[[], None]):
        self._say = say

    def dispatch(self, event: Any) -> None:
        if event.event_type not in _TOUCHES:
            self._say()


def listen(sources: Sequence[Path], poll_s: float | None) -> tuple[Ears, str]:
    """Return what hears changes below sources, and a sentence where it is a clock that nobody asked for.

    poll_s: seconds between two looks, None = events where there are some. Raises EnvironmentProblem without the extra
    `watch`, which a clock that was asked for does not need.
    """
    if poll_s is not None:
        return Clock(poll_s), ""
    observer = _observer()
    folders = list(dict.fromkeys(path if path.is_dir() else path.parent for path in map(_whole, sources)))
    far = {folder: kind for folder in folders if (kind := network_kind(folder))}
    if far:
        folder, kind = next(iter(far.items()))
        return Clock(POLL_S), f"{str(folder)!r} lies on a network ({kind}), which tells of no change; {_instead()}"
    if missing := [folder for folder in folders if not folder.is_dir()]:
        return Clock(POLL_S), f"{str(missing[0])!r} is not there yet; {_instead()}"
    try:
        return Events(folders, observer), ""
    except OSError as e:
        return Clock(POLL_S), f"{_why(e)}; {_instead()}"


def network_kind(path: Path, mounts: str | None = None) -> str | None:
    """Return the kind of the file system that a path lies on where it is another machine's, None of this one's.

    mounts: what the system says is mounted where, None = read from it, where it says so.
    """
    try:
        text = _MOUNTS.read_text(encoding="utf-8", errors="replace") if mounts is None else mounts
    except OSError:
        return None
    found, longest = "", -1
    real = os.path.realpath(path)
    for line in text.splitlines():
        before, _, behind = line.partition(" - ")
        place, kind = before.split(" ")[4:5], behind.split(" ")[0]
        if place and _lies_below(real, at := _unescaped(place[0])) and len(at) >= longest:
            found, longest = kind, len(at)
    return found if found in _NETWORK or found.startswith(_NETWORK_FUSE) else None


def _lies_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _unescaped(text: str) -> str:
    """Return a path as the kernel escapes it there: blanks and the like as three octal digits."""
    for code in ("040", "011", "012", "134"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return text


def _whole(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _why(e: OSError) -> str:
    if e.errno == errno.ENOSPC:
        return (
            "the system watches as many folders as it allows (fs.inotify.max_user_watches, which an administrator "
            "raises with sysctl)"
        )
    if e.errno == errno.EMFILE:
        return "this user's programs hold as many watches as the system allows (fs.inotify.max_user_instances)"
    return f"the system tells of no changes there ({e.strerror or e})"


def _instead() -> str:
    return f"looking every {POLL_S:g} s instead (--poll SECONDS for another pace)"


def _observer() -> Any:
    try:
        from watchdog.observers import Observer
    except ImportError as e:
        raise EnvironmentProblem(
            f"tvr watch needs {e.name} to hear of changes; install the extra: pip install 'tvr-cli[watch]', or let it "
            "look by the clock with --poll 10"
        ) from e
    return Observer()
