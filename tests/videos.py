"""Small clips made on the spot with PyAV. Every frame carries its number as a barcode that survives crop and resize."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 12


def barcode(number: int, width: int = 160, height: int = 120) -> np.ndarray:
    """Draw one frame: [height, width, 3] uint8, a 12-bit number in a band across the centre square."""
    side = min(width, height)
    ys, xs = np.mgrid[0:height, 0:width]
    frame = np.stack([(xs * 2 + number * 3) % 200, (ys * 2) % 200, np.full_like(xs, 60)], axis=2).astype(np.uint8)
    left, top, cell = (width - side) // 2, (height - side) // 2, side / BITS
    for bit in range(BITS):
        x0, x1 = left + round(bit * cell), left + round((bit + 1) * cell)
        frame[top + side // 3 : top + 2 * side // 3, x0:x1] = 255 if number >> bit & 1 else 0
    return frame


def read_barcode(frame: np.ndarray) -> int:
    """Read the number from a frame of any size, whole or cropped to its centre square."""
    height, width = frame.shape[:2]
    side = min(width, height)
    square = frame[(height - side) // 2 :, (width - side) // 2 :][:side, :side]
    band, cell = square[side * 5 // 12 : side * 7 // 12], side / BITS
    bits = [band[:, round((b + 0.25) * cell) : round((b + 0.75) * cell) + 1].mean() > 127 for b in range(BITS)]
    return sum(int(bit) << b for b, bit in enumerate(bits))


def make_video(
    path: Path,
    frames: int = 60,
    *,
    fps: int = 30,
    size: tuple[int, int] = (160, 120),
    codec: str = "libx264",
    gop: int = 12,
    bframes: int = 0,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    times: Sequence[float] | None = None,
    turned: int = 0,
    audio: bool = False,
    audio_s: float | None = None,
    pictures: Sequence[np.ndarray] | None = None,
) -> Path:
    """Encode frames 0 … frames - 1.

    times: seconds of each frame (variable frame rate). turned: store the picture turned clockwise by this many degrees
    and mark the file so that players turn it back. pictures: what to show instead of barcodes. audio_s: seconds of
    sound, default as long as the picture.
    """
    with av.open(str(path), "w", options=muxer or {}) as out:
        stream = out.add_stream(codec, rate=fps, options=_encoder_options(codec, gop, bframes) | (options or {}))
        picture = np.rot90(barcode(0, *size), -turned // 90)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = gop
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if codec != "gif":
            stream.codec_context.thread_count = 1
        sound = _add_sound(out) if audio else None
        for i in range(frames):
            shown = barcode(i, *size) if pictures is None else pictures[i]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(shown, -turned // 90)), format="rgb24")
            frame.pts = i if times is None else round(times[i] * 1000)
            frame.time_base = Fraction(1, fps) if times is None else Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            _write_sound(out, sound, audio_s or frames / fps)
    if turned:
        _mark_turned(path, turned)
    return path


def make_audio(path: Path, seconds: float = 1.0) -> Path:
    """Write a file with sound only."""
    with av.open(str(path), "w") as out:
        _write_sound(out, _add_sound(out), seconds)
    return path


def make_two_streams(path: Path) -> Path:
    """Write a file whose first video stream shows 4095 only, and whose second, the default, shows barcodes."""
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("libx264", rate=30, options=_encoder_options("libx264", 12, 0)) for _ in range(2)]
        sizes = [(64, 48), (160, 120)]
        for stream, (width, height) in zip(streams, sizes, strict=True):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        streams[1].disposition = av.stream.Disposition.default
        for i in range(30):
            for stream, number, size in zip(streams, (4095, i), sizes, strict=True):
                frame = av.VideoFrame.from_ndarray(barcode(number, *size), format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 30)
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
    return path


def make_with_cover(path: Path) -> Path:
    """Write a film of 10 frames with a cover: one picture, in a video stream of its own that is marked as attached."""
    with av.open(str(path), "w") as out:
        film = out.add_stream("libx264", rate=10, options=_encoder_options("libx264", 12, 0))
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        cover = out.add_stream("mjpeg", rate=10)
        cover.width, cover.height, cover.pix_fmt = 160, 120, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        for stream, numbers, size in ((cover, [4095], (160, 120)), (film, range(10), (64, 48))):
            for number in numbers:
                frame = av.VideoFrame.from_ndarray(barcode(number, *size), format="rgb24")
                frame.pts, frame.time_base = number % 4095, Fraction(1, 10)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


def make_amv(path: Path, frames: int) -> Path:
    """Write a film as small players take it: 10 frames a second of AMV, and as much silence."""
    with av.open(str(path), "w", format="amv") as out:
        film, sound = (
            out.add_stream("amv", rate=10),
            out.add_stream("adpcm_ima_amv", rate=22050, layout="mono", options={"block_size": "2205"}),
        )
        film.width, film.height, film.pix_fmt = 64, 48, "yuvj420p"
        sound.codec_context.time_base = Fraction(1, 22050)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(barcode(i, 64, 48), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            out.mux(film.encode(frame))
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 2205), dtype=np.int16), format="s16", layout="mono")
            silence.sample_rate, silence.pts, silence.time_base = 22050, i * 2205, Fraction(1, 22050)
            out.mux(sound.encode(silence))
    return path


def make_dhav(path: Path, source: Path) -> Path:
    """Write the H.264 packets of a file of 64 x 48 pixels as Dahua's recorders do: one chunk a packet, 10 a second."""
    data = b""
    with av.open(str(source)) as old:
        track = old.streams.video[0]
        in_stream_format = av.bitstream.BitStreamFilterContext("h264_mp4toannexb", track)
        packets = [q for p in old.demux(track) for q in in_stream_format.filter(p if p.size else None)]
    for n, packet in enumerate(packets):
        about = bytes((0x80, 0, 64 // 8, 48 // 8, 0x81, 0, 0x08, 10))  # size of a picture; H.264, frames a second
        length = 24 + len(about) + packet.size + 8
        date = (26 << 26) | (1 << 22) | (1 << 17) | (n // 10)  # years since 2000, month, day, …, second
        kind = 0xFD if packet.is_keyframe else 0xFC
        data += b"DHAV" + struct.pack("<4B3IH2B", kind, 0, 0, 0, n, length, date, n * 100, len(about), 0)
        data += about + bytes(packet) + b"dhav" + struct.pack("<I", length)
    path.write_bytes(data)
    return path


def cut_with_edit_list(source: Path, path: Path, start_frame: int, *, fps: int = 30) -> Path:
    """Copy `source` without re-encoding from `start_frame` on: earlier frames stay in the file, hidden."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        track = old.streams.video[0]
        copy = new.add_stream_from_template(track)
        shift = round(start_frame / fps / track.time_base)
        packets = [p for p in old.demux(track) if p.size]
        keys = [i for i, p in enumerate(packets) if p.is_keyframe and p.pts <= shift]
        for packet in packets[keys[-1] :]:
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
            new.mux(packet)
    return path


def make_open_gop(path: Path, frames: int = 120) -> Path:
    """Write a stream in which frames follow a keyframe in the file, precede it on screen and need the one before."""
    parameters = "open-gop=1:keyint=24:min-keyint=24:scenecut=0:b-adapt=0"
    return make_video(path, frames, gop=24, bframes=3, options={"preset": "veryfast", "x264-params": parameters})


def truncate(source: Path, path: Path, share: float) -> Path:
    """Keep the first `share` of the bytes."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def decode_all(path: Path) -> list[np.ndarray]:
    """Decode every frame from the start, the plain way: what exact frames are compared with."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.best("video"))]


def can_encode(codec: str) -> bool:
    """Return whether the installed PyAV has this encoder."""
    try:
        av.codec.Codec(codec, "w")
    except Exception:
        return False
    return True


def _encoder_options(codec: str, gop: int, bframes: int) -> dict[str, str]:
    if codec == "libx264":
        return {"preset": "ultrafast", "crf": "23", "g": str(gop), "bf": str(bframes), "sc_threshold": "0"}
    if codec == "libx265":
        extra = f"log-level=none:keyint={gop}:bframes={bframes}:pools=1:frame-threads=1"
        return {"preset": "ultrafast", "x265-params": extra}
    if codec == "libsvtav1":
        return {"preset": "12", "g": str(gop), "svtav1-params": "lp=1"}
    if codec.startswith("libvpx"):
        return {"deadline": "realtime", "cpu-used": "8", "g": str(gop)}
    if codec == "mpeg4":
        return {"g": str(gop), "bf": str(bframes), "qscale": "3"}
    return {}


def _add_sound(out: av.container.OutputContainer) -> av.AudioStream:
    return out.add_stream("aac" if out.format.name != "webm" else "libopus", rate=48000, layout="mono")


def _write_sound(out: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    size = stream.codec_context.frame_size or 960
    for i in range(max(1, round(seconds * 48000 / size))):
        wave = np.sin(np.arange(i * size, (i + 1) * size) * 0.05).astype(np.float32)[None] * 0.1
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, i * size
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def _mark_turned(path: Path, degrees: int) -> None:
    """Write the display matrix into the track header so that players turn the picture back, anticlockwise."""
    a, b, c, d = {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}[degrees]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    at += 4 + (20 if data[at] == 0 else 32) + 16  # version and flags, times and ids, layer … volume
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
