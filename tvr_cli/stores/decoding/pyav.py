"""Exact frames through PyAV (FFmpeg inside the wheel) at little cost.

Packets are indexed without decoding; for each wanted frame the decoder starts at the keyframe that governs it and skips
the frames that no other frame refers to. A damaged packet costs only the frames that need it. Streams whose packets
carry no usable times are decoded from the start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvr_cli.errors import DecodeError
from tvr_cli.stores.decoding.look import is_hdr, is_unnamed_hd, pixels_of
from tvr_cli.stores.decoding.packets import (
    PacketIndex,
    choose_stream,
    describe,
    display_matrix,
    missing_content,
    read_index,
    start_seconds,
)
from tvr_cli.stores.decoding.room import Room
from tvr_cli.stores.decoding.types import MAX_PIXELS, Beat, Place, Timeline, upright
from tvr_cli.types import Look

# Codecs in which a frame marked non-reference is never needed by another one. In HEVC the mark is about one temporal
# layer only, so frames of other layers may need it; VP9 and AV1 decoders ignore the request.
_SKIPPABLE = ("h264", "mpeg4", "mpeg2video", "mpeg1video")
# What FFmpeg opens as a video although it is a list of other files, or text.
_NO_VIDEOS = {"concat": "playlist", "hls": "playlist", "dash": "playlist", "imf": "playlist", "tty": "text file"}


class PyavDecoder:
    """See `tvr_cli.stores.decoding.types.Decoder`."""

    name = "pyav"

    def __init__(
        self, path: Path, beat: Beat, look: Look = "coded", *, track: int | None = None, from_start: bool = False
    ):
        self._path, self._beat, self._look, self._track, self.problem = path, beat, look, track, ""
        # Times of the packets between damage and the next keyframe.
        self._broken, self._suspect = False, set[int | None]()
        self._container, self._stream = open_stream(path, track)
        try:
            beat(Room(self._stream.codec_context.width, self._stream.codec_context.height))
            self.container = describe(self._container, self._stream)
            self._start_s = start_seconds(self._container)
            self._index = read_index(self._container, self._stream, beat)
            truncated = missing_content(self._container, self._stream, self._index, self._start_s)
            self._by_order = from_start or not self._index.regular
            if self._by_order:
                self._reopen()
            ts, end = self._ts_by_order() if self._by_order else self._ts_by_packet()
            self.timeline = Timeline(ts, end, truncated)
        except _av_error() as e:
            self.close()
            raise DecodeError(f"not readable as a video: {_reason(e)}") from e
        except BaseException:
            self.close()
            raise

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        return ((i, self._pixels(frame)) for i, frame in self.decoded(indices))

    def decoded(self, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yield what `frames` does as PyAV's own frames: in the colours they are coded in, not turned upright."""
        if self._by_order:
            return self._frames_by_order(indices)
        return self._frames_by_seeking(indices)

    def copied(self, first: int, last: int) -> Iterator[Any] | None:
        """Return the packets of frames `first` to `last`, which show these and nothing else, None where none do.

        These start at a keyframe, and in the order of the file they come before any packet of a later frame: whatever
        they refer to is among them. Frames that follow a keyframe in the file and precede it on screen are left out.
        """
        if self._by_order or int(self._index.pts[first]) not in self._index.keys:
            return None
        found = list(self._of_frames(first, last))
        return iter(found) if None not in found and _dated(found) else None

    def _of_frames(self, first: int, last: int) -> Iterator[Any]:
        """Yield the packets of some frames; None in place of one that does not stand where a copy would need it."""
        wanted = set(self._index.pts[first : last + 1].tolist())
        beginning, ending = min(wanted), max(wanted)
        for packet in self._packets_from(beginning):
            if packet.pts in wanted:
                wanted.discard(packet.pts)
                yield None if packet.is_discard or packet.is_corrupt else packet
            elif packet.pts is None or packet.pts > ending:
                yield None
                return
            if not wanted:
                return
        if wanted:
            yield None

    def sequential(self) -> PyavDecoder:
        return PyavDecoder(self._path, self._beat, self._look, track=self._track, from_start=True)

    def close(self) -> None:
        self._container.close()

    def unfit_for_decord(self) -> str:
        """Say why decord's frames of this stream are not to be trusted, "" when they are.

        Found by comparing barcodes: tests/unit/test_decode.py.
        """
        if self._index.hidden:
            return f"an edit list ({self._index.hidden} hidden frames)"
        if self._index.open_gop:
            return "open groups of pictures"
        if self._container.format.name.split(",")[0] not in ("mov", "matroska"):
            return f"{self._container.format.long_name}"
        context = self._stream.codec_context
        if self._look == "shown" and is_hdr(int(context.color_trc)):
            return "HDR"
        if self._look == "shown" and is_unnamed_hd(context.colorspace, context.height, context.pix_fmt or ""):
            return "HD that names no colour matrix"
        return ""

    # ------------------------------------------------------------------------------------------------- by seeking

    def _ts_by_packet(self) -> tuple[np.ndarray, float]:
        unit = float(self._stream.time_base)
        return self._index.pts * unit - self._start_s, self._index.end * unit - self._start_s

    def _frames_by_seeking(self, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        wanted = {int(self._index.pts[i]): int(i) for i in indices}
        for key, group in _by_keyframe(sorted(wanted), self._index):
            left = set(group)
            for frame in self._decode_from(key, left):
                if frame.pts in left and self._is_good(frame):
                    left.discard(frame.pts)
                    yield wanted[frame.pts], frame
                if not left or (frame.pts is not None and frame.pts > group[-1]):
                    break
            self._stream.codec_context.flush_buffers()

    def _decode_from(self, key: int, wanted: set[int]) -> Iterator[Any]:
        """Decode from keyframe `key` on, in full only what `wanted` and later frames need."""
        context = self._stream.codec_context
        may_skip = context.codec.name in _SKIPPABLE
        skipping = None
        for packet in self._packets_from(key):
            skip = may_skip and packet.pts not in wanted
            if skip is not skipping:
                context.skip_frame, skipping = ("NONREF" if skip else "DEFAULT"), skip
            yield from self._decode(packet)

    def _packets_from(self, key: int) -> Iterator[Any]:
        """Yield packets from keyframe `key`, or from an earlier one where the container cannot seek that precisely."""
        before = self._index.keys[self._index.keys <= key][::-1]
        for target in [*before[:4], None]:
            packets = self._seek(None if target is None else int(target))
            first = next((p for p in packets if p.is_keyframe), None)
            if first is not None and first.pts is not None and first.pts <= key:
                yield first
                yield from packets
                return

    def _seek(self, target: int | None) -> Iterator[Any]:
        """Return the packets after seeking to `target`; None, or a container that cannot seek: from the start."""
        try:
            if target is not None:
                self._container.seek(target, stream=self._stream, backward=True, any_frame=False)
                return iter(self._container.demux(self._stream))
        except _av_error():
            pass
        self._reopen()
        return iter(self._container.demux(self._stream))

    # -------------------------------------------------------------------------------------------------- from start

    def _ts_by_order(self) -> tuple[np.ndarray, float]:
        """Decode everything once and return when each good frame is shown, and when the last one ends, seconds."""
        frames = [(frame.pts, frame.dts) for frame in self._good_frames()]
        if not frames:
            raise DecodeError(f"corrupt: none of {self._index.total} frames can be decoded ({self.problem})")
        unit, first = float(self._stream.time_base), self._index.first
        for kind in (0, 1):
            times = [f[kind] for f in frames]
            if None not in times and all(a < b for a, b in zip(times, times[1:])):  # noqa: B905, RUF007
                # A frame's dts is that of the packet which pushed it out, late by the decoder's delay.
                ticks = np.array(times) - ((times[0] - first) if kind else 0)
                break
        else:
            ticks = first + np.arange(len(frames)) / (float(self._stream.average_rate or 25) * unit)
        ts = ticks * unit - self._start_s
        step = float(np.median(np.diff(ts))) if len(ts) > 1 else 1 / float(self._stream.average_rate or 25)
        return ts, float(ts[-1] + step)

    def _frames_by_order(self, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        wanted = set(map(int, indices))
        if not wanted:
            return
        self._reopen()
        last = max(wanted)
        for i, frame in enumerate(self._good_frames()):
            if i in wanted:
                yield i, frame
            if i >= last:
                return

    def _good_frames(self) -> Iterator[Any]:
        for packet in self._container.demux(self._stream):
            yield from (frame for frame in self._decode(packet) if self._is_good(frame))

    # ------------------------------------------------------------------------------------------------------ shared

    def _decode(self, packet: Any) -> list[Any]:
        """Return the frames that `packet` completes; a damaged packet gives none and is noted.

        Decoders go on after damage with whatever picture they have, so nothing is trusted up to the next keyframe.
        """
        self._beat(self._place(packet))
        flush = packet.pts is None and packet.size == 0
        if packet.is_keyframe:
            self._broken = False
        try:
            frames = list(self._stream.codec_context.decode(None if flush else packet))
        except _av_error() as e:
            self.problem = self.problem or _reason(e)
            self._broken, frames = True, []
        if self._broken and not flush:
            self._suspect.add(packet.pts)
        return frames

    def _place(self, packet: Any) -> Place | None:
        """Return where in the film a packet is, None where it does not say."""
        if packet.pts is None:
            return None
        unit = float(self._stream.time_base)
        return Place("decoded", packet.pts * unit - self._start_s, self._index.end * unit - self._start_s)

    def _is_good(self, frame: Any) -> bool:
        return not frame.is_corrupt and frame.pts not in self._suspect

    def _pixels(self, frame: Any) -> np.ndarray:
        return upright(pixels_of(frame, self._look, self.container.aspect), display_matrix(frame))

    def _reopen(self) -> None:
        self._broken = False
        self._container.close()
        self._container, self._stream = open_stream(self._path, self._track)


def open_stream(path: Path, track: int | None = None) -> tuple[Any, Any]:
    """Return the container and its video stream number `track` (None: the default or best). Raises DecodeError."""
    import av

    av.logging.set_level(av.logging.PANIC)
    try:
        # Only the file itself: a playlist in disguise must not open others or the network.
        container = av.open(str(path.absolute()), options={"protocol_whitelist": "file"}, **_lenient_metadata(av))
    except av.error.FFmpegError as e:
        raise DecodeError(f"not readable as a video: {_reason(e)}") from e
    try:
        if container.format.name in _NO_VIDEOS:
            raise DecodeError(f"a {_NO_VIDEOS[container.format.name]} ({container.format.name}), not a video")
        stream = choose_stream(container, track)
        context = stream.codec_context
        if context is None:
            raise DecodeError("no decoder for the codec of this video in the installed PyAV")
        if context.width * context.height > MAX_PIXELS:
            raise DecodeError(f"a frame of {context.width}x{context.height} pixels is too large to be a video")
        context.thread_count = 1
        stream.thread_type = "SLICE"
    except BaseException:
        container.close()
        raise
    return container, stream


def _lenient_metadata(av: Any) -> dict[str, Any]:
    """Titles in any encoding must not keep a video from being read: from PyAV 19 on none does, before one says so."""
    return {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def _by_keyframe(wanted: Sequence[int], index: PacketIndex) -> list[tuple[int, list[int]]]:
    """Group ascending times by the last keyframe that is shown no later."""
    groups: dict[int, list[int]] = {}
    at = np.maximum(np.searchsorted(index.keys, wanted, side="right") - 1, 0)
    for time, j in zip(wanted, at, strict=True):
        groups.setdefault(int(index.keys[j]), []).append(time)
    return list(groups.items())


def _dated(packets: Sequence[Any]) -> bool:
    """Give the first of some packets the decoding times that Matroska does not say after seeking; False where none has.

    Those of the others follow each other as the first two that are known.
    """
    known = next((i for i, packet in enumerate(packets) if packet.dts is not None), len(packets))
    if known and known + 2 > len(packets):
        return False
    for i in range(known - 1, -1, -1):
        packets[i].dts = packets[i + 1].dts - (packets[known + 1].dts - packets[known].dts)
    return all(packet.dts is not None and packet.dts <= packet.pts for packet in packets)


def _av_error() -> type[Exception]:
    import av

    return av.error.FFmpegError


def _reason(e: Exception) -> str:
    return str(getattr(e, "strerror", None) or e).rstrip(".")
