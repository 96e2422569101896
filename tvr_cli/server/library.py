"""What a server answers from: one opened workspace, one question at a time, and the files that its index has."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvr_cli.api import OpenWorkspace
from tvr_cli.engine.searching.library import LibraryFile, files_of
from tvr_cli.errors import DataError
from tvr_cli.results.base import Result
from tvr_cli.results.found import QueryReport
from tvr_cli.version import __version__
from tvr_cli.workspace import Workspace


@dataclass(frozen=True)
class Named:
    """What `tvr serve` was told to answer with; None = whatever is there. A request cannot name anything else."""

    run: str | None = None
    method: str | None = None
    backbone: str | None = None
    first: str | None = None
    device: str = "auto"
    offline: bool = False


@dataclass(frozen=True)
class LibraryReport(Result):
    """What a server searches. videos: files. seconds: of all together. clips: the folder that clips are saved in."""

    schema = "library"
    workspace: str
    videos: int
    seconds: float
    clips: str
    tvr: str = __version__


@dataclass
class Library:
    """A workspace that stays open. Threads may share it: whoever asks waits for who asked before.

    clips: where clips are saved, None = in the workspace.

    What changes in the workspace is noticed by the next question, as in any session.
    """

    workspace: Workspace
    named: Named = Named()
    clips: Path | None = None
    _open: OpenWorkspace = field(init=False)
    _asking: threading.Lock = field(default_factory=threading.Lock, init=False)
    _listing: threading.Lock = field(default_factory=threading.Lock, init=False)
    _files: tuple[Any, Mapping[str, LibraryFile]] = field(default=(None, {}), init=False)

    def __post_init__(self) -> None:
        self._open = OpenWorkspace(self.workspace)

    @property
    def clips_folder(self) -> Path:
        """Where clips are saved."""
        return self.clips or self.workspace.clips_folder

    def answer(self, sentences: list[str], asked: Mapping[str, Any]) -> QueryReport:
        """Answer as `OpenWorkspace.search` does, with what the server was told to answer with. Raises as it does."""
        found: QueryReport = self.do("search", {"sentences": sentences, **asked})
        return found

    def do(self, verb: str, asked: Mapping[str, Any]) -> Any:
        """Do what a verb of `OpenWorkspace` does, with what the server was told to answer with. Raises as it does."""
        act = getattr(self._open, verb)
        takes = inspect.signature(act).parameters
        with self._asking:
            return act(**{name: value for name, value in vars(self.named).items() if name in takes}, **asked)

    def about(self) -> LibraryReport:
        """Say what is searched. Raises as `files` does."""
        files = self.files().values()
        return LibraryReport(
            str(self.workspace), len(files), sum(file.seconds for file in files), str(self.clips_folder)
        )

    def file(self, video_id: str) -> LibraryFile:
        """Return a file of the library. Raises DataError for anything else: an id is looked up, never opened."""
        found = self.files().get(video_id)
        if found is None:
            raise DataError(f"the library has no video {video_id!r}")
        return found

    def files(self) -> Mapping[str, LibraryFile]:
        """Return every file of the library by its id, as new as the workspace. Raises DataError where there is none."""
        with self._listing:
            stamps = self.workspace.stamps()
            if self._files[0] != stamps:
                self._files = (stamps, {file.id: file for file in files_of(self.workspace)})
            return self._files[1]
