"""Writing the toy world's videos: H.264 through PyAV, with the first encoder that this build of FFmpeg has."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from tvr_cli.errors import EnvironmentProblem

# Encoder and its options, best first. One thread each: the same bytes from the same build, and one core a worker.
ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "23", "preset": "ultrafast", "threads": "1"},
    "libopenh264": {"b": "120000", "threads": "1"},
    "mpeg4": {"qscale": "4", "threads": "1"},
}


@cache
def find_encoder() -> str:
    """Return the first encoder of `ENCODERS` that can really write a frame here.

    Raises EnvironmentProblem if none can.
    """
    black = [np.zeros((32, 32, 3), np.uint8)]
    reasons = []
    for name in ENCODERS:
        try:
            encode(io.BytesIO(), black, encoder=name, fps=8)
        except (OSError, ValueError) as e:  # av's errors derive from these; an unknown codec is a ValueError
            reasons.append(f"{name}: {e}")
        else:
            return name
    raise EnvironmentProblem(
        f"PyAV cannot write video with any of {', '.join(ENCODERS)} ({'; '.join(reasons)}); "
        "install a build that has one of them: pip install --force-reinstall av"
    )


def write_video(path: Path, frames: Sequence[np.ndarray], *, encoder: str, fps: int) -> None:
    """Encode frames, [S, S, 3] uint8 each, as an MP4 file that appears in one step."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            encode(f, frames, encoder=encoder, fps=fps)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def encode(file: io.BufferedIOBase, frames: Sequence[np.ndarray], *, encoder: str, fps: int) -> None:
    """Encode frames as MP4 into a seekable binary file."""
    import av

    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(encoder, rate=fps, options=ENCODERS[encoder])
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
