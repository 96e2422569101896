"""What a decoder gives: when the frames of a video are shown, and the pixels of some of them. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from tvr_cli.stores.decoding.room import Room

DecoderName = Literal["auto", "pyav", "decord"]
# A frame of more pixels than this is a broken header or a bomb: 8K is 33 million.
MAX_PIXELS = 1 << 27


class Place(NamedTuple):
    """How far a file is done with. doing: in a word. at, of: seconds of it; of: 0 where its length is not known."""

    doing: str
    at: float
    of: float = 0.0


class Stop(Exception):
    """Raised by a beat when there is no time for more. Who lets it pass may leave in `part` what is done so far."""

    part: object = None


class Beat(Protocol):
    """Called often while there is progress, with the place where that is known. Raises Stop where it is to end.

    Called with a Room it returns when there is so much memory, or raises MemoryError where there never will be.
    """

    def __call__(self, at: Place | Room | None = None, /) -> None: ...


def unheard(at: Place | Room | None = None, /) -> None:
    """Be the beat that nobody listens to."""


@dataclass(frozen=True, slots=True)
class Track:
    """One stream of a file. kind: video, audio, subtitle, … as FFmpeg calls it, or cover. read: its are the frames."""

    index: int
    kind: str
    codec: str
    read: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """What a file says of itself. rate: frames a second; aspect: width to height of a pixel; None where it does not.

    endless: it says no length, though files of its kind do: a recording that broke off, or was streamed.
    """

    rate: float | None
    aspect: tuple[int, int] | None
    tracks: tuple[Track, ...]
    endless: bool = False


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
    container: Container
    timeline: Timeline
    problem: str

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]: ...

    def sequential(self) -> Decoder:
        """Return a decoder of the same video that decodes everything from the start and counts only good frames."""
        ...

    def close(self) -> None: ...


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
