"""Frames decoded for a page, in a process of their own, within so many seconds: a bad video costs its picture."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvr_cli import log
from tvr_cli.engine.showing.clips import track_of
from tvr_cli.errors import DecodeError, TvrError
from tvr_cli.stores.decoding.choose import open_video
from tvr_cli.stores.decoding.pool import DecodePool
from tvr_cli.stores.decoding.types import Beat

_SILENT_S, _ALL_S = 10.0, 20.0  # for one video that gives no sign of life, and for all of them
_QUALITY = 85


@dataclass(frozen=True, slots=True)
class Peak:
    """A frame to decode. track: number of its stream, None = the default. side: the longer one of the picture."""

    path: str
    second: float
    track: int | None
    side: int


def decoded(wanted: Sequence[tuple[str, str, float]], side: int) -> Iterator[tuple[int, tuple[float, bytes]]]:
    """Yield the frames that are on screen at seconds of files, as far as there is time.

    wanted: path, id and second. Each comes with its number there, as its own second and a JPEG.
    """
    if not wanted:
        return
    tasks = [(str(i), Peak(path, second, track_of(name, path), side)) for i, (path, name, second) in enumerate(wanted)]
    try:
        with DecodePool(read, workers=1, timeout_s=_SILENT_S) as pool:
            for name, found in pool.run(tasks, until=time.monotonic() + _ALL_S):
                if isinstance(found, tuple):
                    yield int(name), found
                else:
                    log.warn_once(f"no picture of {wanted[int(name)][0]!r}: {found.reason}")
    except TvrError as e:
        log.warn_once(f"no pictures of {len(wanted)} {'moment' if len(wanted) == 1 else 'moments'}: {e}")


def read(peak: Peak, beat: Beat) -> tuple[float, bytes]:
    """Decode the frame that is on screen at a second: its own second, and a JPEG. Raises DecodeError, OSError."""
    from PIL import Image

    decoder = open_video(Path(peak.path), look="shown", track=peak.track, beat=beat)
    try:
        ts = decoder.timeline.ts
        i = max(0, int(np.searchsorted(ts, peak.second + 1e-6, side="right")) - 1)
        for _, pixels in decoder.frames([i]):
            scale = min(1.0, peak.side / max(pixels.shape[:2]))
            size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
            out = io.BytesIO()
            Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS).save(out, "JPEG", quality=_QUALITY)
            return float(ts[i]), out.getvalue()
    finally:
        decoder.close()
    raise DecodeError(f"the frame at {peak.second:.1f} s cannot be decoded")
