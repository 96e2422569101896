"""A film from a second on, in a form that every browser plays, while it is made: H.264 and AAC in a fragmented MP4.

For looking at, not for keeping: small, fast, and at the film's own times. What is kept is cut by `film.py`.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from tvr_cli.engine.showing.cutting.film import SAME_S
from tvr_cli.engine.showing.cutting.picture import BT709, Turn, encoder_of
from tvr_cli.engine.showing.cutting.sound import heard
from tvr_cli.errors import DecodeError, reason
from tvr_cli.stores.decoding.look import is_hdr, pixels_of
from tvr_cli.stores.decoding.packets import display_matrix, start_seconds
from tvr_cli.stores.decoding.pyav import open_stream

# A fragment twice a second, so that what is made is soon seen; the header comes first, for nothing is gone back to.
_FORM = {"movflags": "empty_moov+default_base_moof+frag_keyframe", "frag_duration": "500000"}
# What looks well at the speed of one processor; no frame waits for later ones.
_ENCODERS = {"libx264": {"preset": "superfast", "crf": "23", "tune": "zerolatency"}, "libopenh264": {}}
_SIDE = 1280  # of the picture, the longer one: larger films are made smaller
_CLOCK = Fraction(1, 90_000)
_THREADS = 2
_MOST_TICKS = 2**62  # of a stream's clock, which has 64 bits
_LAST_S = 0.5  # that the last frame of a film is looked at, where nothing says how long it stays
# Seconds before an instant to look for a keyframe at: MPEG's streams are sought where they lie about, and not exactly.
_LEADS_S = (0.0, 2.0, 10.0)


def stream(path: Path, at: float, file: BinaryIO, track: int | None = None) -> None:
    """Write a film from a second on to a file that cannot seek, up to the film's end; time 0 is that second.

    track: number of its video stream, None = the one that players show. Raises DecodeError where nothing can be shown
    from there on, OSError where the file or its reader has gone.
    """
    import av

    written = _Written(file)
    container, source = open_stream(path, track)
    try:
        with av.open(written, "w", format="mp4", options=_FORM) as out:
            frames = _frames(path, track, at + start_seconds(container))
            picture = _packets(out, source, frames, at + start_seconds(container))
            if (first := next(picture, None)) is None:
                ends = f"; it ends at {container.duration / av.time_base:.1f} s" if container.duration else ""
                raise DecodeError(f"it has no picture at {at:.6g} s, or none that can be decoded{ends}")
            sound = heard(out, container, path, at + start_seconds(container))
            for packet in heapq.merge(_again(first, picture), *sound, key=_when):
                out.mux_one(packet)
    except (av.error.FFmpegError, av.codec.codec.UnknownCodecError) as e:
        raise written.refused or DecodeError(f"it cannot be transcoded: {reason(e)}") from e
    finally:
        container.close()
    if written.refused is not None:
        raise written.refused


class _Written:
    """A file as PyAV writes it, which cannot seek. refused: what the system said first."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.refused: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as e:
            self.refused = self.refused or e
            raise
        return len(data)


def _packets(out: Any, source: Any, frames: Iterator[tuple[float, Any]], start: float) -> Iterator[Any]:
    """Yield the packets of some frames, whose clock begins at `start`."""
    name, options = encoder_of(_ENCODERS)
    rate = source.average_rate or source.guessed_rate or 25
    made = out.add_stream(name, rate=rate, options={**options, "g": str(max(1, round(rate)))})
    made.codec_context.time_base = _CLOCK
    shown: _Shown | None = None
    last = -1
    for second, frame in frames:
        if shown is None:
            shown = _Shown(frame)
        ready = shown(frame)
        if last < 0:
            _begin(made.codec_context, source, ready, turned=shown.swaps)
        last = max(last + 1, round(max(0.0, second - start) / _CLOCK))
        ready.pts, ready.time_base, ready.pict_type = last, _CLOCK, 0
        yield from made.encode(ready)
    if last >= 0:
        yield from made.encode(None)


def _begin(context: Any, source: Any, frame: Any, *, turned: bool) -> None:
    """Tell the encoder what the first frame is like."""
    context.width, context.height, context.pix_fmt = frame.width, frame.height, "yuv420p"
    if aspect := source.sample_aspect_ratio:
        context.sample_aspect_ratio = 1 / aspect if turned else aspect


def _frames(path: Path, track: int | None, start: float) -> Iterator[tuple[float, Any]]:
    """Yield the frame that is on the screen at an instant, and all after it, each with its second; damage is a gap."""
    before: tuple[float, Any] | None = None
    for second, frame in _from_before(path, track, start):
        if second <= start + SAME_S:
            before = second, frame
            continue
        if before is not None:
            yield before
            before = None
        yield second, frame
    if before is not None and start < before[0] + _LAST_S:
        yield before


def _from_before(path: Path, track: int | None, start: float) -> Iterator[tuple[float, Any]]:
    """Yield frames with their seconds from one on that is shown at an instant or before, where the film has one."""
    import av

    for lead in _LEADS_S:
        container, source = open_stream(path, track)
        with contextlib.closing(container):
            if start >= _MOST_TICKS * source.time_base:  # no film is that long, and no seek can say it
                return
            source.thread_type, source.codec_context.thread_count = "AUTO", _THREADS
            if start - lead > start_seconds(container):  # else it stands there, which some cannot be brought back to
                with contextlib.suppress(av.error.FFmpegError):
                    container.seek(int((start - lead) / source.time_base), stream=source)
            frames = _decoded(container, source)
            first = next(frames, None)
            if first is not None and (first[0] <= start + SAME_S or lead == _LEADS_S[-1]):
                yield first
                yield from frames
                return


def _decoded(container: Any, source: Any) -> Iterator[tuple[float, Any]]:
    import av

    step, last = 1 / float(source.average_rate or 25), float("-inf")
    for packet in container.demux(source):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        for frame in frames:
            ticks = frame.pts if frame.pts is not None else frame.dts
            # AVI says when frames are decoded alone, and other containers may say nothing.
            known = ticks is not None and ticks * source.time_base > last
            last = float(ticks * source.time_base) if known else max(0.0, last + step)
            yield last, frame


class _Shown:
    """Makes frames such as the encoder wants: not too large, of 8 bits, upright. swaps: as of `Turn`."""

    def __init__(self, frame: Any):
        scale = min(1.0, _SIDE / max(frame.width, frame.height))
        self._size = [max(2, round(side * scale / 2) * 2) for side in (frame.width, frame.height)]
        self._is_hdr, self._is_rgb = is_hdr(int(frame.color_trc)), bool(frame.format.is_rgb)
        self._turn: Turn | None = None
        self._matrix = display_matrix(frame)
        self.swaps = False

    def __call__(self, frame: Any) -> Any:
        width, height = self._size
        if self._is_hdr:
            small = frame.reformat(width=width, height=height)
            small.color_trc, small.color_range = frame.color_trc, frame.color_range
            ready = _of_pixels(pixels_of(small, "shown", None))
        else:
            matrix = BT709 if self._is_rgb else None
            ready = frame.reformat(width=width, height=height, format="yuv420p", dst_colorspace=matrix)
        if self._turn is None:
            self._turn = Turn(ready, self._matrix)
            self.swaps = self._turn.swaps
        return self._turn(ready)


def _of_pixels(pixels: Any) -> Any:
    import av

    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p", dst_colorspace=BT709)


def _again(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _when(packet: Any) -> Fraction:
    return Fraction(packet.dts * packet.time_base)
