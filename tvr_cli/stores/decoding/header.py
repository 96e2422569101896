"""What the header of a file says, and whether it is a video at all. A few packets are read, nothing is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tvr_cli.stores.decoding.packets import start_seconds, video_streams
from tvr_cli.stores.decoding.pyav import open_stream
from tvr_cli.stores.decoding.types import Beat, unheard

# A video has at least so many frames; a picture in a video container has one.
_FRAMES = 2


@dataclass(frozen=True, slots=True)
class Header:
    """duration: seconds, rate: frames a second; None where the file does not say. moves: it has two frames or more.

    tracks: numbers of its video streams, the one that is read where none is named first.
    """

    duration: float | None
    rate: float | None
    moves: bool
    tracks: tuple[int, ...]


def read_header(path: Path, beat: Beat = unheard) -> Header:
    """Read what a file says of itself. Raises DecodeError when it is not a video, OSError when it cannot be opened."""
    with open(path, "rb"):  # FFmpeg's reasons are worse
        pass
    container, stream = open_stream(path)
    try:
        duration = container.duration / 1e6 if container.duration else None
        if duration is not None and container.format.name.startswith("matroska"):  # it counts from 0
            duration = max(0.0, duration - max(0.0, start_seconds(container)))
        rate = float(stream.average_rate) if stream.average_rate else None
        tracks = tuple(s.index for s in video_streams(container))
        frames = 0
        for packet in container.demux(stream):
            beat()
            frames += packet.size > 0
            if frames >= _FRAMES:
                break
        return Header(duration, rate, frames >= _FRAMES, tracks)
    finally:
        container.close()
