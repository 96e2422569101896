"""The sound of a part, every track of it: copied where an MP4 may hold it, else encoded again from the first sample on.

Copied packets begin a little before the part, for decoders that need them to start: their times are negative, and the
MP4's edit list hides them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tvr_cli.engine.showing.cutting.mp4 import from_template
from tvr_cli.stores.decoding.pyav import open_stream

_COPIED = ("aac", "mp3", "ac3", "eac3", "alac", "opus")
# What a decoder of sound needs before the first sample that is to be heard: Opus asks for the most.
_LEAD_S = 0.08
# Gaps and overlaps beyond this are what the film has; smaller ones are how its times were rounded.
_GAP_S = 0.03
_SEEK_S = 1.0
_WHOLE_S = 1e6  # longer than any film
# What AAC is made of, and how many channels each has.
_CHANNELS = {"mono": 1, "stereo": 2, "3.0": 3, "4.0": 4, "5.0": 5, "5.1": 6}
# AAC is made at these rates, other sound is brought to the last one.
_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def sounds(out: Any, film: Any, path: Path, start: float, end: float) -> list[Iterator[Any]]:
    """Add a track to `out` for each that a film hears with, and return the packets of each. start, end: its own clock.

    A track that no decoder here reads is left out.
    """
    made: list[Iterator[Any]] = []
    for stream in film.streams.audio:
        context = stream.codec_context
        if context is None:
            continue
        if context.codec.canonical_name in _COPIED:
            made.append(_copied(from_template(out, stream), path, stream.index, start, end))
        else:
            track = out.add_stream("aac", rate=_rate(context))
            made.append(_encoded(track, _layout(context.layout), path, stream.index, start, end))
    return made


def heard(out: Any, film: Any, path: Path, start: float) -> list[Iterator[Any]]:
    """Add the track that a film is heard with to `out`, encoded from an instant on, and return its packets, if any.

    start: by the film's own clock.
    """
    stream = film.streams.best("audio")
    if stream is None or stream.codec_context is None:
        return []
    track = out.add_stream("aac", rate=_rate(stream.codec_context))
    return [_encoded(track, "stereo", path, stream.index, start, start + _WHOLE_S)]


def _copied(made: Any, path: Path, index: int, start: float, end: float) -> Generator[Any, None, None]:
    with contextlib.closing(_packets(path, index, start)) as packets:
        for packet in packets:
            unit = packet.time_base
            zero = round(start / unit)
            if packet.dts is None or (packet.pts + (packet.duration or 0)) * unit <= start - _LEAD_S:
                continue
            if packet.pts * unit >= end:
                return
            packet.pts, packet.dts, packet.stream = packet.pts - zero, packet.dts - zero, made
            yield packet


def _encoded(made: Any, layout: str, path: Path, index: int, start: float, end: float) -> Generator[Any, None, None]:
    import av

    rate = made.codec_context.sample_rate
    made.codec_context.layout = layout
    made.codec_context.bit_rate = 96_000 * _CHANNELS[layout]
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    written, length = 0, round((end - start) * rate)
    with contextlib.closing(_frames(path, index, start)) as frames:
        for frame in frames:
            if frame.pts is None:
                continue
            at = round((float(frame.pts * frame.time_base) - start) * rate)
            if at >= length:
                break
            frame.pts = None  # the resampler then keeps no count of its own
            for heard in resampler.resample(frame):
                samples: np.ndarray = heard.to_ndarray()
                begins = at if abs(at - written) > _GAP_S * rate or written == 0 else written
                at = begins + samples.shape[1]
                samples = samples[:, max(0, written - begins) : max(0, length - begins)]
                if not samples.shape[1]:
                    continue
                if begins > written:
                    samples = np.pad(samples, ((0, 0), (begins - written, 0)))
                yield from made.encode(_frame(samples, layout, rate, written))
                written += samples.shape[1]
    if written:
        yield from made.encode(None)


def _frame(samples: np.ndarray, layout: str, rate: int, at: int) -> Any:
    import av

    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
    return frame


def _frames(path: Path, index: int, start: float) -> Generator[Any, None, None]:
    import av

    with contextlib.closing(_packets(path, index, start)) as packets:
        for packet in packets:
            with contextlib.suppress(av.error.FFmpegError):  # damage is a gap
                yield from packet.decode()


def _packets(path: Path, index: int, start: float) -> Generator[Any, None, None]:
    """Yield the packets of one stream from a second before an instant on, or from the start where it is not sought."""
    import av

    for seeks in (True, False):
        container, _ = open_stream(path)
        try:
            stream = container.streams[index]
            if seeks:
                try:
                    container.seek(max(0, int((start - _SEEK_S) / stream.time_base)), stream=stream)
                except av.error.FFmpegError:
                    continue
            packets = (p for p in container.demux(stream) if p.size and p.pts is not None)
            first = next(packets, None)
            if seeks and (first is None or first.pts * first.time_base > start - _LEAD_S):
                continue  # it lies where the container wants, not where it was asked
            if first is not None:
                yield first
                yield from packets
            return
        finally:
            container.close()


def _layout(film: Any) -> str:
    """Return the channels that AAC is to have: the film's, by their number where it does not name them, or two."""
    named = film.name if film.name in _CHANNELS else None
    return named or next((name for name, n in _CHANNELS.items() if n == film.nb_channels), "stereo")


def _rate(context: Any) -> int:
    return int(context.sample_rate) if context.sample_rate in _RATES else _RATES[-1]
