"""What an editor has to know of a file: its exact rate, the timecode that it starts at, its length and sizes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from tvr_cli import os_errors
from tvr_cli.engine.showing.timeline.timecode import from_timecode, known_rate
from tvr_cli.errors import DataError, DecodeError
from tvr_cli.stores.decoding.packets import display_matrix
from tvr_cli.stores.decoding.pyav import open_stream

# Beyond this the rate that a file states and the one that its frames have on average are two.
_VARIES = Fraction(1, 100)


@dataclass(frozen=True, slots=True)
class Media:
    """A file. rate: frames a second. start: the frame that its timecode names, 0 without one. drop: of that timecode.

    frames: how many it has at that rate. varies: frames do not follow each other evenly. width, height: as shown.
    channels, sample_rate: of its first sound, 0 = silent.
    """

    path: Path
    rate: Fraction
    start: int
    drop: bool
    frames: int
    varies: bool
    width: int
    height: int
    channels: int
    sample_rate: int

    @property
    def name(self) -> str:
        return self.path.name


def read_media(path: Path, track: int | None = None) -> Media:
    """Read the header of a file and its first frame. Raises DataError where it cannot be read or is no video."""
    try:
        with open(path, "rb"):  # FFmpeg's reasons are worse
            pass
        container, stream = open_stream(path.absolute(), track)
    except DecodeError as e:
        raise DecodeError(f"{str(path)!r}: {e}") from e
    except OSError as e:
        raise os_errors.unread(e, path) or os_errors.refusal(e) or e from e
    try:
        average, stated = stream.average_rate, getattr(stream, "base_rate", None)
        rate = known_rate(Fraction(average or stated or 25))
        # Of interlaced films some containers state the rate of their fields.
        varies = bool(average and stated) and all(abs(stated / (n * average) - 1) > _VARIES for n in (1, 2))
        seconds = _seconds(container, stream)
        if seconds <= 0:
            raise DataError(f"{str(path)!r} does not say how long it is, which an editor has to know")
        start, drop = _timecode(container, stream, rate)
        width, height = _shown_size(container, stream)
        sound = next((s.codec_context for s in container.streams.audio if s.codec_context is not None), None)
        return Media(
            path.absolute(), rate, start, drop, max(1, round(seconds * rate)), varies, width, height,
            sound.channels if sound else 0, sound.sample_rate if sound else 0,
        )  # fmt: skip
    finally:
        container.close()


def _seconds(container: Any, stream: Any) -> Fraction:
    if stream.duration:
        return Fraction(stream.duration * stream.time_base)
    return Fraction(container.duration or 0, 1_000_000)


def _timecode(container: Any, stream: Any, rate: Fraction) -> tuple[int, bool]:
    """Return the first frame's timecode: of the picture, of a track of its own, of the file; 0 where none is."""
    tracks = [stream, *(s for s in container.streams if s is not stream)]
    for said in (*(s.metadata for s in tracks), container.metadata):
        for name, text in said.items():
            if name.lower() == "timecode" and (found := from_timecode(text, rate)) is not None:
                return found
    return 0, False


def _shown_size(container: Any, stream: Any) -> tuple[int, int]:
    import av

    width, height = stream.codec_context.width, stream.codec_context.height
    try:
        matrix = display_matrix(next(container.decode(stream)))
    except (av.error.FFmpegError, StopIteration):
        matrix = None
    return (height, width) if matrix is not None and abs(matrix[1]) > abs(matrix[0]) else (width, height)
