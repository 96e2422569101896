"""A film that is cut: which frames a part has, and the part as an MP4, copied where its packets show exactly these."""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tvr_cli.engine.showing.cutting.mp4 import from_template
from tvr_cli.engine.showing.cutting.picture import Picture
from tvr_cli.engine.showing.cutting.sound import sounds
from tvr_cli.errors import DecodeError, reason
from tvr_cli.stores.decoding.choose import open_video
from tvr_cli.stores.decoding.packets import start_seconds
from tvr_cli.stores.decoding.pyav import PyavDecoder, open_stream
from tvr_cli.stores.decoding.types import Beat, unheard

# Times closer than this are the same: containers round to a thousandth of a second.
SAME_S = 0.001
# What an MP4 may hold that players and editors read.
_COPIED = ("h264", "hevc", "av1", "vp9", "mpeg4")


@dataclass(frozen=True, slots=True)
class Part:
    """Frames `first` to `last` of a film, shown from `start` to `end` seconds. copied: else they are encoded again."""

    first: int
    last: int
    start: float
    end: float
    copied: bool

    @property
    def frames(self) -> int:
        return self.last - self.first + 1


class Film:
    """An open film, to be cut. Raises DecodeError where it is no video, OSError where it cannot be opened.

    beat: called with each packet that is read or written; what it raises ends the work.
    """

    def __init__(self, path: Path, track: int | None = None, beat: Beat = unheard):
        self._path, self._track, self._beat = path, track, beat
        opened = open_video(path, "pyav", track=track, beat=beat)
        assert isinstance(opened, PyavDecoder)
        self._decoder = opened
        container, stream = open_stream(path, track)
        self.start_s = start_seconds(container)
        self._codec = str(stream.codec_context.codec.canonical_name)
        container.close()

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()

    def part(self, start: float, end: float) -> Part:
        """Return the frames that are on the screen between two instants, seconds; one at least."""
        ts = self._decoder.timeline.ts
        first = max(0, int(np.searchsorted(ts, start + SAME_S, side="right")) - 1)
        last = max(first, int(np.searchsorted(ts, end - SAME_S, side="left")) - 1)
        copied = self._codec in _COPIED and self._decoder.copied(first, last) is not None
        return Part(first, last, float(ts[first]), self._shown_until(last), copied)

    def write(self, part: Part, target: Path) -> Part:
        """Write a part as an MP4 at `target`, where nothing is yet, and return it as it was written.

        A copy that does not show what it should is encoded again. Raises DecodeError where none of its frames can be
        decoded, OSError where `target` cannot be written.
        """
        if part.copied:
            with contextlib.suppress(DecodeError):  # a header that an MP4 does not hold
                self._write(part, target)
                if _shows(target, self._until(part)[:-1], self._beat):
                    return part
            part = replace(part, copied=False)
        self._write(part, target)
        return part

    def _write(self, part: Part, target: Path) -> None:
        import av

        with open(target, "wb") as file:
            written = _Written(file)
            try:
                self._mux(part, written)
            except (av.error.FFmpegError, av.codec.codec.UnknownCodecError) as e:
                raise written.refused or DecodeError(f"its moment cannot be cut: {reason(e)}") from e
            if written.refused is not None:
                raise written.refused
            file.flush()
            os.fsync(file.fileno())

    def _mux(self, part: Part, file: _Written) -> None:
        import av

        container, stream = open_stream(self._path, self._track)
        try:
            with av.open(file, "w", format="mp4") as out:
                if part.copied:
                    made = from_template(out, stream)
                    picture = self._copied(part, stream.time_base, made)
                else:
                    picture = Picture(out, stream, self._until(part)).packets(self._decoder.decoded, part)
                heard = sounds(out, container, self._path, part.start + self.start_s, part.end + self.start_s)
                for packet in heapq.merge(picture, *heard, key=_when):
                    out.mux_one(packet)
                    self._beat()
        finally:
            container.close()

    def _copied(self, part: Part, unit: Fraction, made: Any) -> Iterator[Any]:
        packets = self._decoder.copied(part.first, part.last)
        assert packets is not None
        zero = round((part.start + self.start_s) / unit)
        for packet in packets:
            packet.pts, packet.dts, packet.stream = packet.pts - zero, packet.dts - zero, made
            yield packet

    def _until(self, part: Part) -> np.ndarray:
        """Return when each frame of a part is shown, and when the last one ends: [n + 1] seconds from its beginning."""
        return np.append(self._decoder.timeline.ts[part.first : part.last + 1], part.end) - part.start

    def _shown_until(self, i: int) -> float:
        ts, end = self._decoder.timeline.ts, self._decoder.timeline.end
        return float(ts[i + 1] if i + 1 < len(ts) else max(end, ts[i]))


class _Written:
    """A file as PyAV writes it. refused: what the system said first, for PyAV does not hand on all of it."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.refused: OSError | None = None
        self.seek, self.tell = file.seek, file.tell

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as e:
            self.refused = self.refused or e
            raise


def _shows(path: Path, ts: np.ndarray, beat: Beat) -> bool:
    """Return whether a file shows a frame at each of these seconds and no other, decoded from the start."""
    try:
        found = PyavDecoder(path, beat, from_start=True)
    except DecodeError:
        return False
    found.close()
    shown = found.timeline.ts
    return len(shown) == len(ts) and not found.problem and bool(np.abs(shown - ts).max() < SAME_S)


def _when(packet: Any) -> Fraction:
    return Fraction(packet.dts * packet.time_base)
