"""What the moments of an answer were written as, for an editor or a player: parts of a `QueryReport`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tvr_cli.results.base import OPTIONAL


@dataclass(frozen=True)
class SavedClip:
    """A moment as a file of its own. number: its place among all moments of the answers, which its name begins with.

    source: the file that it is a part of, from `start` to `end` seconds: the frames on the screen between these.
    copied: its packets are those of the source; else picture and sound were encoded again. problem: why it is not
    there, None = it is.
    """

    number: int
    query: str
    source: str
    path: Path
    start: float
    end: float
    frames: int = 0
    copied: bool = False
    problem: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class SavedClips:
    """The moments of all answers as files of a folder, in their order. dry_run: none was written."""

    folder: Path
    clips: Sequence[SavedClip]
    dry_run: bool = False

    @property
    def failed(self) -> list[SavedClip]:
        return [clip for clip in self.clips if clip.problem is not None]


@dataclass(frozen=True)
class LeftOut:
    """A file whose moments are not in a timeline, and why."""

    source: str
    problem: str


@dataclass(frozen=True)
class SavedTimeline:
    """The moments of all answers, one after another, as a file for an editor.

    form: `otio`, `xml`, `edl`, `fcpxml` or `csv`. rate: frames a second of the sequence, such as 30000/1001; None where
    there is none. events: how many moments it has. notes: what an editor will not find as in the source.
    dry_run: nothing was written.
    """

    path: Path
    form: str
    rate: str | None
    events: int
    left_out: Sequence[LeftOut] = ()
    notes: Sequence[str] = ()
    dry_run: bool = False

    @property
    def frames_a_second(self) -> float | None:
        """The rate as a number."""
        if self.rate is None:
            return None
        frames, _, seconds = self.rate.partition("/")
        return float(frames) / float(seconds or 1)
