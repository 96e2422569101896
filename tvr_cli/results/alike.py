"""What looks alike in a library: what `tvr similar` reports. Here, for who asks a server for it needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvr_cli.results.base import Result


@dataclass(frozen=True, slots=True)
class Alike:
    """A file, or a moment of one, that looks like what was asked about. cosine: of what is seen in both.

    difference: of the pictures, 0 to 255, the median over frames of the mean over cells; None where the frames are gone
    or the cosine is too small to look. duplicate: whether it is a near-duplicate, None where that is not known.
    """

    rank: int
    cosine: float
    video_id: str
    path: str
    start: float
    end: float
    difference: float | None
    duplicate: bool | None


@dataclass(frozen=True)
class SimilarReport(Result):
    """What looks like `start` to `end` seconds of a file. whole: files were compared, and not moments."""

    schema, version = "similar", 1
    video_id: str
    path: str
    start: float
    end: float
    whole: bool
    results: Sequence[Alike]
