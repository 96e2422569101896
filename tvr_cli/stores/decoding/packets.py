"""What the packets of a video say without decoding: timestamps, keyframes, hidden frames, missing content.

Reading packets costs a fraction of decoding them. PyAV only; decord's guard uses it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tvr_cli.errors import DecodeError
from tvr_cli.stores.decoding.types import Beat, Container, Place, Track

# Containers whose header declares a duration (others estimate one from the bit rate or from the last timestamp).
_DECLARES_DURATION = ("mov", "matroska", "avi", "asf", "flv")
# Containers in which the same packet has another time after seeking: Dahua's count on from a whole second.
_SHIFTING = ("dhav",)
# What FFmpeg marks a picture with that belongs to a file and is no part of its film (AV_DISPOSITION_ATTACHED_PIC).
_ATTACHED_PICTURE = 0x400
# Missing content is reported above this share, and above this many frames (or seconds, where frames are not declared).
_MISSING_SHARE, _MISSING_FRAMES, _MISSING_S = 0.02, 2, 0.5


@dataclass(frozen=True)
class PacketIndex:
    """The packets of one video stream.

    pts: sorted presentation times of the frames that are shown, in units of the stream's time base. keys: sorted times
    of the keyframes, hidden ones included. hidden: packets that an edit list hides (they are decoded, never shown).
    open_gop: frames that follow a keyframe in the file but precede it on screen. regular: every packet has a time of
    its own that the decoder hands on, so that frames can be found by seeking. first: time of the first frame. end: time
    at which the last frame ends.
    """

    pts: np.ndarray
    keys: np.ndarray
    total: int
    hidden: int
    open_gop: bool
    regular: bool
    first: int
    end: int


def video_streams(container: Any) -> list[Any]:
    """Return the video streams, the default or best one first; a cover picture is no video.

    Raises DecodeError when there is none.
    """
    streams = [s for s in container.streams.video if not _is_cover(s)]
    if not streams:
        audio = "only audio" if container.streams.audio else "no video stream"
        raise DecodeError(f"{audio} in this file, expected a video stream")
    best = container.streams.best("video")
    first = best if best in streams else streams[0]
    return [first, *(s for s in streams if s is not first)]


def choose_stream(container: Any, track: int | None = None) -> Any:
    """Return the video stream number `track` of a file; None: the default or best one. Raises DecodeError."""
    streams = video_streams(container)
    found = next((s for s in streams if track is None or s.index == track), None)
    if found is None:
        raise DecodeError(f"track {track} is no video stream of this file")
    return found


def describe(container: Any, stream: Any) -> Container:
    """Return what a file says of itself. stream: the one that is read."""
    aspect = stream.sample_aspect_ratio
    return Container(
        rate=float(stream.average_rate) if stream.average_rate else None,
        aspect=(aspect.numerator, aspect.denominator) if aspect else None,
        tracks=tuple(Track(s.index, _kind(s), _codec(s), s.index == stream.index) for s in container.streams),
        endless=not (stream.frames or container.duration) and _declares_duration(container, stream),
    )


def read_index(container: Any, stream: Any, beat: Beat) -> PacketIndex:
    """Read all packets of `stream` once. Raises DecodeError when there are none."""
    pts: list[int | None] = []
    first_dts: int | None = None
    shown: list[int] = []
    keys: list[int] = []
    end, last_key, open_gop = 0, None, False
    start_s, unit, of = start_seconds(container), float(stream.time_base or 0), (container.duration or 0) / 1e6
    for packet in container.demux(stream):
        beat(None if packet.pts is None else Place("looked through", packet.pts * unit - start_s, of))
        if packet.pts is None and packet.size == 0:
            continue
        pts.append(packet.pts)
        first_dts = packet.dts if first_dts is None else first_dts
        if packet.pts is None:
            continue
        if packet.is_keyframe:
            last_key = packet.pts
            keys.append(packet.pts)
        elif last_key is not None and packet.pts < last_key:
            open_gop = True
        if not packet.is_discard:
            shown.append(packet.pts)
            end = max(end, packet.pts + (packet.duration or 0))
    if not pts:
        raise DecodeError("the video stream has no frames")
    regular = None not in pts and len(set(pts)) == len(pts) and bool(keys) and bool(shown)
    # AVI stores no presentation times; the demuxer's guesses are wrong around B-frames.
    regular = regular and (container.format.name != "avi" or len(keys) == len(pts))
    regular = regular and container.format.name not in _SHIFTING
    first = min(shown) if regular else (first_dts or 0)
    ordered = np.array(sorted(set(shown)), dtype=np.int64)
    if len(ordered) and end <= ordered[-1]:  # no duration in the packets
        frame_s = 1 / float(stream.average_rate or 25)
        step = np.median(np.diff(ordered)) if len(ordered) > 1 else frame_s / stream.time_base
        end = int(ordered[-1] + max(1, round(float(step))))
    hidden = sum(p is not None for p in pts) - len(shown)
    unique_keys = np.array(sorted(set(keys)), dtype=np.int64)
    return PacketIndex(ordered, unique_keys, len(pts), hidden, open_gop, regular, first, end)


def missing_content(container: Any, stream: Any, index: PacketIndex, start_s: float) -> str | None:
    """Return a sentence when the file holds clearly less than its header declares, else None."""
    if stream.frames:
        lost = stream.frames - index.total
        if lost > max(_MISSING_FRAMES, _MISSING_SHARE * stream.frames):
            return f"truncated: the header declares {stream.frames} frames, the file holds {index.total}"
        return None
    if container.duration is None or not _declares_duration(container, stream):
        return None
    declared = container.duration / 1e6
    allowed = declared - max(_MISSING_S, _MISSING_SHARE * declared)
    # Matroska counts from 0 and others from the first frame, which in segments of a recording comes late.
    latest = float(index.end * stream.time_base)
    end = latest - start_s
    if max(end, latest) >= allowed or _end_of_all(container, min(start_s, 0.0)) >= allowed:
        return None
    return f"truncated: the header declares {declared:.1f} s, the file holds {end:.1f} s"


def display_matrix(frame: Any) -> tuple[int, ...] | None:
    """Return the nine numbers of the frame's display matrix, None when it has none."""
    data = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else tuple(int(x) for x in np.frombuffer(bytes(data), dtype=np.int32)[:9])


def start_seconds(container: Any) -> float:
    """Return the time that players show as 0, in seconds of the streams' clocks."""
    return (container.start_time or 0) / 1e6


def _end_of_all(container: Any, start_s: float) -> float:
    """Return when the longest stream ends, seconds: sound may go on after the last picture."""
    container.seek(0)
    end = 0.0
    for packet in container.demux():
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - start_s)
    return end


def _declares_duration(container: Any, stream: Any) -> bool:
    """Return whether such files say how long they are; AMV, which is read as AVI, never does."""
    return container.format.name.startswith(_DECLARES_DURATION) and _codec(stream) != "amv"


def _codec(stream: Any) -> str:
    context = getattr(stream, "codec_context", None)
    return "unknown" if context is None else str(context.name)


def _kind(stream: Any) -> str:
    return "cover" if str(stream.type) == "video" and _is_cover(stream) else str(stream.type)


def _is_cover(stream: Any) -> bool:
    marks = getattr(stream, "disposition", 0)  # before PyAV 18 no number, but it has one
    return bool(int(getattr(marks, "value", marks)) & _ATTACHED_PICTURE)
