"""What a watcher says of itself: a file of the workspace, always whole, and events as they come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from tvr_cli import files, log
from tvr_cli.errors import DataError, TvrError
from tvr_cli.results.base import OPTIONAL, Result
from tvr_cli.watching.looking import Flaw
from tvr_cli.workspace import Workspace

MOST_FAILURES = 100  # that are named
State = Literal["none", "starting", "waiting", "working", "paused", "ended"]
_EVERY_S = 0.5  # between two writings of the same state


@dataclass(frozen=True)
class Doing:
    """A step of the work. done, of: units; of is None where it is not known."""

    what: str
    done: int
    of: int | None


@dataclass(frozen=True, kw_only=True)
class PassReport:
    """What a pass did. read: videos now read. kept: as they were. clips: in the index, None where there is none.

    unreachable: ids of videos that are kept although their files are not there.
    """

    read: int
    kept: int
    renamed: int
    forgotten: int
    failures: Sequence[Flaw]
    unreachable: Sequence[str]
    clips: int | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class WatchStatus(Result):
    """A watcher of a workspace. state none: none runs, and then the rest says nothing.

    videos: the sources. how: what tells of changes. processors: that it may use. files: that are there, videos or not.
    settling: that are still written. read, renamed, forgotten: videos since it was started. clips: in the index.
    failures: videos that have no frames, the first of `failed`. problems: folders and steps that failed. updated: UTC.
    """

    schema = "watch"
    workspace: str
    state: State
    pid: int | None = None
    videos: Sequence[str] = ()
    how: str = ""
    processors: int = 0
    files: int = 0
    settling: int = 0
    progress: Doing | None = None
    passes: int = 0
    read: int = 0
    renamed: int = 0
    forgotten: int = 0
    clips: int | None = None
    failed: int = 0
    failures: Sequence[Flaw] = ()
    problems: Sequence[Flaw] = ()
    updated: str = ""
    log: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class WatchEvent(Result):
    """Something that happened. text: a sentence. done: what a pass did. at: UTC."""

    schema = "watch-event"
    did: Literal["started", "noticed", "finished", "failed", "paused", "continued", "ended"]
    text: str
    at: str
    done: PassReport | None = field(default=None, metadata=OPTIONAL)


class Board:
    """Keeps the status of this process, and writes it where everybody of the workspace can read it."""

    def __init__(self, workspace: Workspace, first: WatchStatus):
        self._path = status_path(workspace)
        self.now = first
        self._written = float("-inf")
        self._failed = False

    def say(self, *, soon: bool = False, **changed: object) -> None:
        """Change the status. soon: it may be written with what comes next, as progress is.

        What cannot be written, on a full disk, is said once and tried again: it is no reason to end.
        """
        self.now = replace(self.now, **changed, updated=utc())  # type: ignore[arg-type]
        if soon and time.monotonic() - self._written < _EVERY_S:
            return
        self._written = time.monotonic()
        try:
            files.write_json(self._path, self.now.to_json())
            self._failed = False
        except (TvrError, OSError) as e:
            if not self._failed:
                log.logger.warning("warning: what the watcher does cannot be noted: %s", e)
            self._failed = True


def status_path(workspace: Workspace) -> Path:
    """Return where a watcher of a workspace says what it does."""
    return workspace.watch_folder / "status.json"


def log_path(workspace: Workspace) -> Path:
    """Return where a watcher in the background says what it says."""
    return workspace.watch_folder / "log"


def read(workspace: Workspace) -> WatchStatus:
    """Return the status of the watcher of a workspace, with the state none where none runs."""
    if files.is_locked(workspace.watch_folder):
        try:
            return WatchStatus.from_file(status_path(workspace))
        except DataError:  # it has just been started
            return WatchStatus(workspace=str(workspace), state="starting")
    return WatchStatus(workspace=str(workspace), state="none")


def searchable(workspace: Workspace) -> int | None:
    """Return how many clips the index has, None where none can be read: what is wrong with it the first pass says."""
    from tvr_cli.stores.index.opened import OpenedIndex

    try:
        return len(OpenedIndex.open(workspace.index_folder))
    except DataError:
        return None


def paused_path(workspace: Workspace) -> Path:
    """Return the file that is there while a watcher is to pause."""
    return workspace.watch_folder / "paused"


def utc() -> str:
    """Return the time as results say it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
