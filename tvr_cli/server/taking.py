"""What is taken along of an answer: chosen moments as clips, or as a timeline for an editor.

The code is that of `tvr query --save-clips` and `--export`. It runs in a process of its own, as whatever opens a video
does: one that ends it costs an answer and not the server. It ends when whoever asked goes away.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tvr_cli.engine.showing.clips import ClipOptions, next_number, save_clips
from tvr_cli.engine.showing.timeline import export
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem, Interrupted, TvrError
from tvr_cli.results.found import Answer, Hit, QueryReport
from tvr_cli.results.shown import SavedTimeline
from tvr_cli.server.encoders import Encoders
from tvr_cli.server.limits import ALL_CLIPS_S, LONGEST_CLIP_S
from tvr_cli.stores.decoding.pool import DecodePool, Unread
from tvr_cli.stores.decoding.types import Beat

FLAG = "--clips"  # of `tvr serve`
TimelineForm = Literal["otio", "xml", "edl", "fcpxml", "csv"]
_SILENT_S = 1800.0  # without a packet that is read or written: a timeline gives no sign of life
_LOOK_S = 0.5  # how often it is looked whether somebody still waits
_ENDS_S = 5.0  # for what is half-written to be taken away
_CHUNK = 1 << 18

Gone = Callable[[], bool]  # whether who asked has gone


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

    def save(self, report: QueryReport, pad: float, gone: Gone) -> QueryReport:
        """Save chosen moments in the folder, numbered on from what is there; what cannot be saved says why.

        Raises ConfigError for moments that are too long, EnvironmentProblem where there can be no such folder and while
        others are saved, Interrupted where `gone` says so (what is whole by then stays), and as `Encoders.take`.
        """
        _require_short(report, pad)
        with self._alone(), self._encoders.place():
            options = ClipOptions(pad, first=next_number(self.folder), flag=FLAG)
            return _apart(_cut, Cutting(report, self.folder, options), gone)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the one who saves in the block: two would give their clips the same numbers. Who waits holds a thread."""
        if not self._saving.acquire(timeout=self._encoders.wait_s):
            raise EnvironmentProblem("clips of another request are still being saved; try again when they are there")
        try:
            yield
        finally:
            self._saving.release()

    def clip(self, report: QueryReport, pad: float, gone: Gone) -> tuple[str, int, Iterator[bytes]]:
        """Return one moment as an MP4: the name for it, its size in bytes, and its parts.

        Raises ConfigError where it is too long, DataError where it cannot be cut, Interrupted where `gone` says so, and
        as `Encoders.take`.
        """
        _require_short(report, pad)
        folder = tempfile.TemporaryDirectory(prefix="tvr-")
        try:
            with self._encoders.place():
                done = _apart(_cut, Cutting(report, Path(folder.name), ClipOptions(pad)), gone)
            assert done.clips is not None
            (made,) = done.clips.clips
            if made.problem is not None:
                raise DataError(made.problem)
            return made.path.name, made.path.stat().st_size, _parts(made.path, folder)
        except BaseException:
            folder.cleanup()
            raise

    def timeline(self, report: QueryReport, form: TimelineForm, gone: Gone) -> tuple[bytes, SavedTimeline]:
        """Return chosen moments as a file for an editor, and what is to be said of it.

        Raises as `export`, as `Encoders.take`, and Interrupted where `gone` says so.
        """
        with tempfile.TemporaryDirectory(prefix="tvr-") as folder, self._encoders.place():
            path = Path(folder) / f"moments.{form}"
            done = _apart(_export, Exporting(report, path), gone)
            assert done.timeline is not None
            return path.read_bytes(), replace(done.timeline, path=Path(path.name))


def chosen(query: str, hits: Sequence[Hit]) -> QueryReport:
    """Return an answer of the moments that somebody chose among those of another one."""
    ranked = [replace(hit, rank=rank) for rank, hit in enumerate(hits, 1)]
    return QueryReport([Answer(query, ranked, True, max((h.confidence or 0.0 for h in ranked), default=None), [])])


def _require_short(report: QueryReport, pad: float) -> None:
    """Refuse clips that would keep a processor for hours. Raises ConfigError."""
    lengths = [hit.end - hit.start for answer in report.results for hit in answer.hits]
    if (longest := max(lengths, default=0.0)) > LONGEST_CLIP_S:
        raise ConfigError(
            f"expected a moment of at most {LONGEST_CLIP_S:g} seconds, found one of {longest:g}; a longer clip is "
            "saved by tvr query with --save-clips"
        )
    if (whole := sum(length + 2 * pad for length in lengths)) > ALL_CLIPS_S:
        raise ConfigError(
            f"expected moments of at most {ALL_CLIPS_S:g} seconds together, found {whole:g}; choose fewer at a time"
        )


def _apart(do: Callable[[Any, Beat], QueryReport | TvrError], task: Cutting | Exporting, gone: Gone) -> QueryReport:
    """Return what is done in a process of its own, which ends early where `gone` says so.

    Raises what it raised there, DataError where it broke off, Interrupted where nobody waits any more.
    """
    found: QueryReport | TvrError | Unread | None = None
    with DecodePool(do, workers=1, timeout_s=_SILENT_S) as pool:
        tasks = [("", task)]
        while found is None:
            if gone():
                for _ in pool.hand_over(_ENDS_S):  # so that it takes away what is half-written
                    pass
                raise Interrupted("who asked has gone; what was being written for it was ended")
            found = next((done for _, done in pool.run(tasks, until=time.monotonic() + _LOOK_S)), None)
            tasks = []
    if isinstance(found, Unread):
        raise DataError(f"the moments could not be written: {found.reason}")
    if isinstance(found, TvrError):
        raise found
    return found


def _cut(task: Cutting, beat: Beat) -> QueryReport | TvrError:
    try:
        return save_clips(task.report, task.folder, task.options, lambda *_: beat())  # without asking for memory
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
