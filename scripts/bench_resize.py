"""What cropping inside the resize would save in extraction, and what it would do to the pixels.

    python scripts/bench_resize.py

Random pictures, to a 224 px centre crop: as tvr does (the whole picture is resized, then cropped: what CLIP's own
preprocessing gives, pixel for pixel) and with the crop as Pillow's `box`. One thread, processor time, the best of 15.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from tvr_cli.stores.frames import picture
from tvr_cli.types import View

SIZE = 224


def inside(pixels: np.ndarray) -> np.ndarray:
    """Resize [H, W, 3] to the same centre crop, only what is in it."""
    height, width = pixels.shape[:2]
    wide, high = picture._scaled(pixels, SIZE)
    left, top = round((wide - SIZE) / 2.0), round((high - SIZE) / 2.0)
    across, down = width / wide, height / high
    box = (left * across, top * down, (left + SIZE) * across, (top + SIZE) * down)
    return np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box))


def milliseconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(15):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return 1e3 * best


def main() -> None:
    view = View(SIZE, "crop", "bicubic")
    numbers = np.random.default_rng(0)
    for width, height in ((320, 240), (854, 480), (1280, 720), (720, 1280), (1920, 1080)):
        coarse = numbers.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        away = np.abs(picture.see(pixels, view).astype(int) - inside(pixels))
        today = milliseconds(partial(picture.see, pixels, view))
        other = milliseconds(partial(inside, pixels))
        print(
            f"{width}x{height}: today {today:.2f} ms, inside {other:.2f} ms; "
            f"{(away > 0).mean():.2%} of the values differ, by {away.max()} at most"
        )


if __name__ == "__main__":
    main()
