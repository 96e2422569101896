"""A decoded frame as pixels: as it is coded, or as players show it (`types.Look`).

Players widen pixels that are not square, show HDR on a screen of the usual range, and take HD that does not name its
colour matrix for BT.709. What is coded knows none of it; data sets, and stores of tvr 0.1.0, hold that.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tvr_cli.stores.decoding.tone import Transfer, to_sdr
from tvr_cli.types import Look

# From this many lines on, players take a picture that names no colour matrix for BT.709.
_HD_LINES = 720
# FFmpeg's numbers: colour matrices and, of HDR, transfer functions as in ITU-T H.273; the range of code values.
_UNNAMED, _BT709 = 2, 1
_FULL_RANGE = 2
_HDR: dict[int, Transfer] = {16: "pq", 18: "hlg"}
# A pixel that is more than this many times as wide as high, or as high as wide, is an error in the header.
_LONGEST = 10.0


def pixels_of(frame: Any, look: Look, aspect: tuple[int, int] | None) -> np.ndarray:
    """Return the pixels of a PyAV frame, not yet turned upright: [H, W, 3] uint8 RGB.

    aspect: width to height of a pixel.
    """
    if look == "coded":
        return np.asarray(frame.reformat(format="rgb24", **_one_thread()).to_ndarray())
    if (transfer := _HDR.get(int(frame.color_trc))) is not None:
        # RGB of 16 bit is half a percent off in swscale; planes of 16 bit are exact.
        luma, blue, red = (_plane(plane) for plane in frame.reformat(format="yuv444p16le", **_one_thread()).planes)
        return stretched(to_sdr(luma, blue, red, transfer, full=int(frame.color_range) == _FULL_RANGE), aspect)
    matrix = _BT709 if is_unnamed_hd(frame.colorspace, frame.height, frame.format.name) else None
    return stretched(frame.reformat(format="rgb24", src_colorspace=matrix, **_one_thread()).to_ndarray(), aspect)


def is_hdr(transfer: int) -> bool:
    """Return whether a transfer function is one of HDR."""
    return transfer in _HDR


def is_unnamed_hd(matrix: int, lines: int, pixel_format: str) -> bool:
    """Return whether players would take a picture for BT.709 although it does not say so."""
    return int(matrix) == _UNNAMED and lines >= _HD_LINES and pixel_format.startswith(("yuv", "nv", "p0"))


def stretched(pixels: np.ndarray, aspect: tuple[int, int] | None) -> np.ndarray:
    """Make the pixels of a picture [H, W, 3] square by enlarging one side, so that nothing is lost."""
    from PIL import Image

    if aspect is None or min(aspect) < 1:
        return pixels
    ratio = aspect[0] / aspect[1]
    height, width = pixels.shape[:2]
    size = (round(width * ratio), height) if ratio > 1 else (width, round(height / ratio))
    if size == (width, height) or max(ratio, 1 / ratio) > _LONGEST:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


@cache
def _one_thread() -> dict[str, int]:
    """Return what keeps PyAV from starting a thread a processor for each frame, which takes longer than a small frame.

    Versions whose `reformat` does not have it, as its signature in the docstring says, start none.
    """
    from av import VideoFrame

    return {"threads": 1} if "threads" in (VideoFrame.reformat.__doc__ or "") else {}


def _plane(plane: Any) -> np.ndarray:
    """Return one plane of a frame of 16 bit: [H, W] uint16."""
    return np.frombuffer(plane, dtype="<u2").reshape(plane.height, plane.line_size // 2)[:, : plane.width]
