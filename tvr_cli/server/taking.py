"""What is taken along of an answer: chosen moments as clips, or as a timeline for an editor.

The code is that of `tvr query --save-clips` and `--export`. It runs in a process of its own, as whatever opens a video
does: one that ends it costs an answer and not the server.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tvr_cli.engine.showing.clips import ClipOptions, next_number, save_clips
from tvr_cli.engine.showing.timeline import export
from tvr_cli.errors import DataError, EnvironmentProblem, TvrError
from tvr_cli.results.found import Answer, Hit, QueryReport
from tvr_cli.results.shown import SavedTimeline
from tvr_cli.server.encoders import Encoders
from tvr_cli.stores.decoding.pool import DecodePool, Unread
from tvr_cli.stores.decoding.types import Beat

FLAG = "--clips"  # of `tvr serve`
TimelineForm = Literal["otio", "xml", "edl", "fcpxml", "csv"]
_SILENT_S = 1800.0  # for one request: cutting gives no sign of life
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Cutting:
    """Clips to be made."""

    report: QueryReport
    folder: Path
    options: ClipOptions


@dataclass(frozen=True, slots=True)
class Exporting:
    """A timeline to be made."""

    report: QueryReport
    path: Path


class Taking:
    """Makes what is taken along. folder: where clips are saved. Threads may share it."""

    def __init__(self, folder: Path, encoders: Encoders):
        self.folder, self._encoders = folder, encoders
        self._saving = threading.Lock()

    def save(self, report: QueryReport, pad: float) -> QueryReport:
        """Save chosen moments in the folder, numbered on from what is there; what cannot be saved says why.

        Raises EnvironmentProblem where there can be no such folder and while others are saved, and as `Encoders.take`.
        """
        with self._alone(), self._encoders.place():
            options = ClipOptions(pad, first=next_number(self.folder), flag=FLAG)
            return _apart(_cut, Cutting(report, self.folder, options))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the one who saves in the block: two would give their clips the same numbers. Who waits holds a thread."""
        if not self._saving.acquire(timeout=self._encoders.wait_s):
            raise EnvironmentProblem("clips of another request are still being saved; try again when they are there")
        try:
            yield
        finally:
            self._saving.release()

    def clip(self, report: QueryReport, pad: float) -> tuple[str, int, Iterator[bytes]]:
        """Return one moment as an MP4: the name for it, its size in bytes, and its parts.

        Raises DataError where it cannot be cut, and as `Encoders.take`.
        """
        folder = tempfile.TemporaryDirectory(prefix="tvr-")
        try:
            with self._encoders.place():
                done = _apart(_cut, Cutting(report, Path(folder.name), ClipOptions(pad)))
            assert done.clips is not None
            (made,) = done.clips.clips
            if made.problem is not None:
                raise DataError(made.problem)
            return made.path.name, made.path.stat().st_size, _parts(made.path, folder)
        except BaseException:
            folder.cleanup()
            raise

    def timeline(self, report: QueryReport, form: TimelineForm) -> tuple[bytes, SavedTimeline]:
        """Return chosen moments as a file for an editor, and what is to be said of it. Raises as `export`."""
        with tempfile.TemporaryDirectory(prefix="tvr-") as folder, self._encoders.place():
            path = Path(folder) / f"moments.{form}"
            done = _apart(_export, Exporting(report, path))
            assert done.timeline is not None
            return path.read_bytes(), replace(done.timeline, path=Path(path.name))


def chosen(query: str, hits: Sequence[Hit]) -> QueryReport:
    """Return an answer of the moments that somebody chose among those of another one."""
    ranked = [replace(hit, rank=rank) for rank, hit in enumerate(hits, 1)]
    return QueryReport([Answer(query, ranked, True, max((h.confidence or 0.0 for h in ranked), default=None), [])])


def _apart(do: Callable[[Any, Beat], QueryReport | TvrError], task: Cutting | Exporting) -> QueryReport:
    """Return what is done in a process of its own. Raises what it raised there, DataError where it broke off."""
    with DecodePool(do, workers=1, timeout_s=_SILENT_S) as pool:
        ((_, found),) = pool.run([("", task)])
    if isinstance(found, Unread):
        raise DataError(f"the moments could not be written: {found.reason}")
    if isinstance(found, TvrError):
        raise found
    return found


def _cut(task: Cutting, beat: Beat) -> QueryReport | TvrError:
    try:
        return save_clips(task.report, task.folder, task.options)
    except TvrError as e:
        return e


def _export(task: Exporting, beat: Beat) -> QueryReport | TvrError:
    try:
        return export.export(task.report, task.path)
    except TvrError as e:
        return e


def _parts(path: Path, folder: tempfile.TemporaryDirectory[str]) -> Iterator[bytes]:
    """Yield a file of a folder that goes with it, whether or not all of it was asked for."""
    with folder, open(path, "rb") as file:
        while data := file.read(_CHUNK):
            yield data
