"""What becomes of a picture on its way to an encoder: as it is stored, and the square that is seen of what is stored.

The arithmetic is that of CLIP's own preprocessing and its relatives': Pillow's antialiased filters, and torchvision's
rounding of the long side and of the crop. A picture that is stored whole at a short side of S and cropped to S later is
pixel for pixel the one that is cropped at once, but for JPEG.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tvr_cli.plans import FramePlan
from tvr_cli.types import Filter, View

if TYPE_CHECKING:
    from PIL import Image


def to_store(pixels: np.ndarray, plan: FramePlan) -> np.ndarray:
    """Bring a decoded frame [H, W, 3] uint8 to what a plan stores of it."""
    if plan.fit != "whole":
        return see(pixels, View(plan.size, plan.fit, plan.filter))
    short = min(pixels.shape[:2])
    return (
        pixels if short <= plan.size else np.asarray(_resized(_image(pixels), _scaled(pixels, plan.size), plan.filter))
    )


def see(pixels: np.ndarray, view: View) -> np.ndarray:
    """Bring a picture [H, W, 3] uint8 to the square that an encoder sees: [S, S, 3] uint8."""
    size, image = view.size, _image(pixels)
    if view.fit == "squash":
        return np.asarray(_resized(image, (size, size), view.filter))
    image = _resized(image, _scaled(pixels, size), view.filter)
    left, top = round((image.width - size) / 2.0), round((image.height - size) / 2.0)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _scaled(pixels: np.ndarray, short_side: int) -> tuple[int, int]:
    """Return (width, height) of a picture whose short side becomes `short_side`."""
    height, width = pixels.shape[:2]
    scaled = int(short_side * max(height, width) / min(height, width))
    return (short_side, scaled) if width < height else (scaled, short_side)


def _image(pixels: np.ndarray) -> Image.Image:
    from PIL import Image

    return Image.fromarray(pixels)


def _resized(image: Image.Image, size: tuple[int, int], name: Filter) -> Image.Image:
    from PIL import Image

    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    return image if image.size == size else image.resize(size, filters[name])
