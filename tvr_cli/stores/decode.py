"""The `Decoder` seam: which frames a video has and when, and the pixels of some of them.

Back-ends live in `decoders/` (pyav, decord). Which frames of a clip are wanted is decided in `frame_plan.py`, turning a
video into JPEG frames in `sample.py`, doing it in a process of its own in `decode_pool.py`. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from tvr_cli.errors import ConfigError, DecodeError, did_you_mean

DecoderName = Literal["auto", "pyav", "decord"]
Beat = Callable[[], None]
# A frame of more pixels than this is a broken header or a bomb: 8K is 33 million.
MAX_PIXELS = 1 << 27


@dataclass(frozen=True)
class Timeline:
    """The frames of a video in the order they are shown.

    ts: [n] float64, seconds since the start of the file as players count it, strictly ascending. end: seconds at which
    the last frame ends. truncated: None, or a sentence saying how much of the declared content is missing.
    """

    ts: np.ndarray
    end: float
    truncated: str | None = None

    def __len__(self) -> int:
        return len(self.ts)


class Decoder(Protocol):
    """An open video.

    `timeline` is exact: frame i of it is frame i of decoding everything from the start. `frames` yields (i, pixels) for
    the frames asked for (ascending indices), each at most once; pixels are [H, W, 3] uint8 RGB with the file's rotation
    applied. A frame that cannot be decoded is left out. `problem` is the first error met so far, "" = none.
    """

    name: str
    timeline: Timeline
    problem: str

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]: ...

    def sequential(self) -> Decoder:
        """Return a decoder of the same video that decodes everything from the start and counts only good frames."""
        ...

    def close(self) -> None: ...


def open_video(path: Path, decoder: DecoderName = "auto", *, beat: Beat = lambda: None) -> Decoder:
    """Open a video with the decoder asked for. `beat` is called often while there is progress.

    `auto` is PyAV: it is exact on every stream that was tried (edit lists, open GOPs, variable frame rate, AVI without
    usable timestamps) and needs less CPU time than decord (docs/formats.md, "Decoders").
    Raises DecodeError, saying what is wrong with the file, OSError when it cannot be opened, and ConfigError for an
    unknown decoder.
    """
    if decoder not in get_args(DecoderName):
        raise ConfigError(
            f"unknown decoder {decoder!r}; expected auto, pyav or decord{did_you_mean(decoder, ['pyav'])}"
        )
    _check_file(path)
    if decoder == "decord":
        from tvr_cli.stores.decoders.decord import DecordDecoder

        return DecordDecoder(path, beat)
    from tvr_cli.stores.decoders.pyav import PyavDecoder

    return PyavDecoder(path, beat)


def check_decoder(name: str) -> None:
    """Raise ConfigError when there is no decoder of this name."""
    known = get_args(DecoderName)
    if name not in known:
        raise ConfigError(f"unknown decoder {name!r}; expected auto, pyav or decord{did_you_mean(name, known)}")


def decoder_versions() -> dict[str, str]:
    """Return the version of each decoder that is installed, without importing it."""
    from importlib import metadata

    found = {}
    for name, packages in {"pyav": ("av",), "decord": ("decord", "decord2")}.items():
        for package in packages:
            try:
                found[name] = f"{package} {metadata.version(package)}"
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def upright(pixels: np.ndarray, matrix: Sequence[int] | None) -> np.ndarray:
    """Apply a display matrix (ISO 14496-12: a b u c d v x y w) in steps of 90 degrees, mirroring included.

    pixels: [H, W, 3]. A point (x, y) is shown at (a x + c y, b x + d y).
    """
    if matrix is None:
        return pixels
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    if abs(b) > abs(a):  # x and y change places
        pixels, right, down = pixels.transpose(1, 0, 2), c, b
    else:
        right, down = a, d
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


def _check_file(path: Path) -> None:
    with open(path, "rb") as f:
        if not f.read(1):
            raise DecodeError("the file is empty (0 bytes)")
