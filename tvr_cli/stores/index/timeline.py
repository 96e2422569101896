"""The films of an index by time: their frames as unit vectors, and the moments that may be found in them.

Parts of a segment whose rows are frames or moments and not clips (N frames, M moments, D values a vector):

    timeline.frames [N, D] float16   timeline.ts, timeline.until [N] float64, seconds in the file
    timeline.seen [N] float64, the second between them at which it was looked at; not in an index made before
    timeline.moment [M, 2] int32, the first frame and the one behind the last
    timeline.file [M] int32, the number of its file in the segment; the moments of a file follow each other
    timeline.length [M] float32, of the mean of its frames   timeline.null [M] float32, what the bank says of it
    timeline.mild [M] float32, what it says where its best sentences count for less; not in an index made before
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvr_cli.stores.index.segment import MappedSegment

FRAMES = ("timeline.frames", "timeline.ts", "timeline.until", "timeline.seen")
MOMENTS = ("timeline.moment", "timeline.file", "timeline.length", "timeline.null", "timeline.mild")


@dataclass(frozen=True)
class FilmBlock:
    """A film on its way into an index; its clips are in the segment before it.

    unit: [n, D]. ts, until, seen: [n] seconds. moments: [m, 2], counted from the film's first frame. length, null,
    mild: [m].
    """

    file_id: str
    path: str
    unit: np.ndarray
    ts: np.ndarray
    until: np.ndarray
    seen: np.ndarray
    moments: np.ndarray
    length: np.ndarray
    null: np.ndarray
    mild: np.ndarray

    def parts(self, first: int, number: int) -> dict[str, np.ndarray]:
        """Return its rows. first: frames that the segment has before it. number: of its file."""
        return {
            "timeline.frames": self.unit.astype(np.float16),
            "timeline.ts": self.ts,
            "timeline.until": self.until,
            "timeline.seen": self.seen,
            "timeline.moment": (self.moments + first).astype(np.int32),
            "timeline.file": np.full(len(self.moments), number, np.int32),
            "timeline.length": self.length.astype(np.float32),
            "timeline.null": self.null.astype(np.float32),
            "timeline.mild": self.mild.astype(np.float32),
        }


@dataclass(frozen=True)
class IndexedFilms:
    """The films of one opened segment; nothing of it is verified but what `verified` returns. live: [M] bool."""

    segment: MappedSegment
    live: np.ndarray

    @staticmethod
    def of(segment: MappedSegment, files: np.ndarray) -> IndexedFilms | None:
        """Return the films of a segment, None where it has none. files: numbers of those that have a clip left."""
        if FRAMES[0] not in segment.parts:
            return None
        return IndexedFilms(segment, np.isin(segment.array("timeline.file"), files))

    @property
    def of_moments(self) -> list[str]:
        """The parts of a row a moment."""
        return [name for name in MOMENTS if name in self.segment.parts]

    @property
    def of_frames(self) -> list[str]:
        """The parts of a row a frame."""
        return [name for name in FRAMES if name in self.segment.parts]

    def seen(self, frames: slice) -> np.ndarray:
        """Return the seconds [n] at which some frames were looked at."""
        return self.array("seen" if "timeline.seen" in self.segment.parts else "ts")[frames]

    def array(self, name: str) -> np.ndarray:
        """Return the rows of a part."""
        return self.segment.array(f"timeline.{name}")

    def span(self, number: int) -> tuple[str, str, float, float]:
        """Return the file's id and path of a moment, and its start and end in seconds.

        Raises DataError where which frames they are is not what was written; the seconds are not verified.
        """
        self.segment.verify(self.of_moments, number, number + 1)
        first, last = self.array("moment")[number]
        file = int(self.array("file")[number])
        seconds = float(self.array("ts")[first]), float(self.array("until")[last - 1])
        return self.segment.file_ids[file], self.segment.paths[file], *seconds

    def verified(self, number: int) -> slice:
        """Return the frames of a moment that is to be shown. Raises DataError unless all of it is what was written."""
        self.segment.verify(self.of_moments, number, number + 1)
        first, last = (int(i) for i in self.array("moment")[number])
        self.segment.verify(self.of_frames, first, last)
        return slice(first, last)
