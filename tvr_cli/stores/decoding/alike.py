"""How much a picture differs from another, by means over 16 x 16 cells of grey; which frames show nothing new.

The largest difference of a cell tells whether a frame shows something else than one before it (a slide's new line is in
few cells); the median one, whether all of the picture changed at once, as it does at a cut.
"""

from __future__ import annotations

import numpy as np

CELLS = 16


def grey(pixels: np.ndarray) -> np.ndarray:
    """Return the mean grey of each cell [256] float32, 0 to 255, of a picture [H, W, 3] uint8."""
    from PIL import Image

    image = Image.fromarray(pixels).convert("L").resize((CELLS, CELLS), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32).ravel()


class Thinning:
    """Decides frame by frame which ones a timeline keeps. alike: as in `FramePlan`."""

    def __init__(self, alike: float | None):
        self._alike = alike
        self._kept: np.ndarray | None = None  # the last frame kept
        self._before: np.ndarray | None = None  # the last frame seen

    def take(self, pixels: np.ndarray) -> tuple[bool, float]:
        """Return whether the next frame is kept, and the median difference of its cells from the frame before it.

        The first frame differs from nothing: NaN.
        """
        now = grey(pixels)
        change = float("nan") if self._before is None else float(np.median(np.abs(now - self._before)))
        keeps = self._kept is None or self._alike is None or float(np.abs(now - self._kept).max()) > self._alike
        self._before = now
        if keeps:
            self._kept = now
        return keeps, change
