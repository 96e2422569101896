"""The picture of a part, encoded again: each frame at its own time, upright, in the colours of the film."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from tvr_cli.engine.showing.cutting.mp4 import HEVC_TAG
from tvr_cli.errors import DecodeError, EnvironmentProblem
from tvr_cli.stores.decoding.packets import display_matrix

# Encoders in the order they are asked for, of 8 bits and of more, with what looks like the film at ordinary speed.
_OF_8_BITS = {"libx264": {"crf": "18", "preset": "fast"}, "mpeg4": {"qscale": "2"}}
_OF_MORE = {"libx265": {"crf": "18", "preset": "fast", "x265-params": "log-level=none"}, "libx264": {"crf": "18"}}
# Where the clock of a film does not count whole ticks from frame to frame: what all usual rates divide.
_CLOCK = Fraction(1, 90_000)
BT709 = 1  # as in ITU-T H.273
_FULL_RANGE = "yuvj"


class Picture:
    """The encoder of a part's picture, of frames as a stream of the film has them."""

    def __init__(self, out: Any, stream: Any, until: np.ndarray):
        """out: the container that is written. until: [n + 1] seconds, when frames are shown and the last one ends."""
        context = stream.codec_context
        deep = any(c.bits > 8 for c in context.format.components)
        name, options = encoder_of(_OF_MORE if deep else _OF_8_BITS)
        full = context.pix_fmt.startswith(_FULL_RANGE)
        self._format = "yuv420p10le" if deep else "yuvj420p" if full else "yuv420p"
        self._is_rgb = bool(context.format.is_rgb)
        self._clock, self._ticks = _ticks(until, stream.time_base)
        self._out, self._stream = out, out.add_stream(name, rate=stream.average_rate or 25, options=options)
        self._stream.codec_context.time_base = self._clock
        if name == "libx265":
            self._stream.codec_context.codec_tag = HEVC_TAG
        self._aspect, self._colours = stream.sample_aspect_ratio, context
        self._turn: Turn | None = None

    def packets(self, decoded: Callable[[Sequence[int]], Iterator[tuple[int, Any]]], part: Any) -> Iterator[Any]:
        """Yield the packets of frames `part.first` to `part.last`. Raises DecodeError where none can be decoded."""
        begun = False
        for i, frame in decoded(range(part.first, part.last + 1)):
            at = i - part.first
            shown = self._as_encoded(frame)
            shown.pts, shown.time_base = int(self._ticks[at]), self._clock
            shown.duration = int(self._ticks[at + 1] - self._ticks[at])
            shown.pict_type = 0  # what the film's encoder chose means nothing to this one
            if not begun:
                self._begin(shown, turned=self._turn is not None and self._turn.swaps)
                begun = True
            yield from self._stream.encode(shown)
        if not begun:
            raise DecodeError("none of the frames of its moment can be decoded")
        yield from self._stream.encode(None)

    def _as_encoded(self, frame: Any) -> Any:
        """Return a frame upright, in the encoder's format, of an even number of rows and columns."""
        if self._is_rgb:
            frame = frame.reformat(format=self._format, dst_colorspace=BT709)
        elif frame.format.name != self._format:
            frame = frame.reformat(format=self._format)
        if self._turn is None:
            self._turn = Turn(frame, display_matrix(frame))
        return self._turn(frame)

    def _begin(self, frame: Any, *, turned: bool) -> None:
        """Tell the encoder what the first frame is like."""
        context, film = self._stream.codec_context, self._colours
        context.width, context.height, context.pix_fmt = frame.width, frame.height, self._format
        if self._aspect:
            context.sample_aspect_ratio = 1 / self._aspect if turned else self._aspect
        if self._is_rgb:
            context.colorspace = BT709
            return
        context.color_range = film.color_range
        context.colorspace = film.colorspace
        context.color_primaries, context.color_trc = film.color_primaries, film.color_trc


class Turn:
    """Turns frames upright and cuts off an odd last row and column. swaps: width and height change places."""

    def __init__(self, frame: Any, matrix: tuple[int, ...] | None):
        import av

        a, b, c, d = (1, 0, 0, 1) if matrix is None else (matrix[0], matrix[1], matrix[3], matrix[4])
        self.swaps = abs(b) > abs(a)
        right, down = (c, b) if self.swaps else (a, d)
        steps = [("transpose", "dir=0")] * self.swaps + [("hflip", "")] * (right < 0) + [("vflip", "")] * (down < 0)
        if frame.width % 2 or frame.height % 2:
            steps.append(("crop", "trunc(iw/2)*2:trunc(ih/2)*2:0:0"))
        self._graph = None
        if steps:
            self._graph = av.filter.Graph()
            nodes = [
                self._graph.add_buffer(
                    width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
                ),
                *(self._graph.add(name, args) for name, args in steps),
                self._graph.add("buffersink"),
            ]
            for one, next_ in itertools.pairwise(nodes):
                one.link_to(next_)
            self._graph.configure()

    def __call__(self, frame: Any) -> Any:
        if self._graph is None:
            return frame
        self._graph.push(frame)
        return self._graph.pull()


def encoder_of(wanted: dict[str, dict[str, str]]) -> tuple[str, dict[str, str]]:
    """Return the first of some encoders that the installed PyAV has, and its options."""
    import av

    for name, options in wanted.items():
        if name in av.codec.codecs_available:
            try:
                av.codec.Codec(name, "w")
            except ValueError:
                continue
            return name, options
    raise EnvironmentProblem(f"the installed PyAV encodes none of {', '.join(wanted)}; run: pip install --upgrade av")


def _ticks(until: np.ndarray, unit: Fraction) -> tuple[Fraction, np.ndarray]:
    """Return a clock and [n + 1] its ticks: the film's own where it tells all frames apart."""
    ticks = np.round(until / float(unit)).astype(np.int64)
    if (np.diff(ticks) > 0).all() and np.abs(ticks * float(unit) - until).max() < float(_CLOCK):
        return unit, ticks
    return _CLOCK, np.round(until / float(_CLOCK)).astype(np.int64)
