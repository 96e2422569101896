"""A picture that somebody names, read as frames of videos are: in a process of its own, never trusted. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvr_cli.errors import DataError, DecodeError
from tvr_cli.plans import FramePlan
from tvr_cli.stores.decoding.pool import DecodePool, Unread
from tvr_cli.stores.decoding.room import Room
from tvr_cli.stores.decoding.sample import encode_jpeg
from tvr_cli.stores.decoding.types import MAX_PIXELS, Beat
from tvr_cli.stores.frames.picture import to_store

# Pillow reads many more, of which some call other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Still:
    """A picture to be read as a plan stores frames."""

    path: Path
    plan: FramePlan


def read(path: Path, plan: FramePlan) -> bytes:
    """Return a picture as a frame store of a plan holds it: a JPEG. Raises DataError for what is no picture."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no file"
        raise DataError(f"expected a picture at {str(path)!r}, found {what} there")
    with DecodePool(decode, workers=1, timeout_s=_TIMEOUT_S) as pool:
        ((_, found),) = list(pool.run([(str(path), Still(path, plan))]))
    if isinstance(found, Unread):
        raise DataError(
            f"expected a picture (JPEG, PNG, WebP, …) at {str(path)!r}, found another file ({found.reason}); a moment "
            "of a video of the library is asked with by --like"
        )
    return found


def decode(still: Still, beat: Beat) -> bytes:
    """Do what `read` does, in the process that was made for it. Raises DecodeError.

    It stands as its file says (EXIF); what is transparent is white.
    """
    from PIL import Image, ImageOps

    Image.init()
    Image.MAX_IMAGE_PIXELS = None  # its size is looked at here, before any of it is decoded
    try:
        with Image.open(still.path, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DecodeError(f"{image.width}x{image.height} pixels are too many")
            beat(Room(image.width, image.height))
            upright = ImageOps.exif_transpose(image).convert("RGBA")
            white = Image.new("RGBA", upright.size, "white")
            pixels = np.asarray(Image.alpha_composite(white, upright).convert("RGB"))
    except Image.UnidentifiedImageError as e:
        raise DecodeError("no format of pictures") from e
    except (OSError, ValueError, SyntaxError, KeyError, EOFError) as e:  # what Pillow's readers meet in a bad file
        raise DecodeError(f"{e}".partition("\n")[0] or type(e).__name__) from e
    return encode_jpeg(to_store(pixels, still.plan), still.plan.quality)
