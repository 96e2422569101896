"""The picture of a moment: the stored frame nearest to its peak, else the frame itself, small enough for a page.

A frame store has pictures already, cut and sized for an encoder, so nothing is decoded where one of them was seen in
the moment or close to its peak. Where none was, as in a long film of twelve frames or after the frames were deleted,
the frame at the peak is decoded in a process of its own, which has so many seconds. A moment without a picture has a
card all the same.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvr_cli import log
from tvr_cli.engine.showing.page import peaks
from tvr_cli.errors import TvrError
from tvr_cli.results.found import Hit
from tvr_cli.stores.frames.records import StoredClip
from tvr_cli.stores.frames.store import FrameStore
from tvr_cli.workspace import Workspace

if TYPE_CHECKING:
    from PIL import Image

_NEAR_S = 2.0  # from the peak: a stored frame that is further away, and not in the moment, is not of it
_SIDE = 480  # the longer side of a picture that is made here
_QUALITIES = (85, 75, 60, 45, 30)
_SMALLEST = 96


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG as a page has it. width, height: of its pixels. at: seconds of the file."""

    jpeg: bytes
    width: int
    height: int
    at: float


@dataclass(frozen=True, slots=True)
class Seen:
    """What a page knows of a moment beyond the answer. seconds: the file's length, None where nothing says it."""

    picture: Picture | None
    seconds: float | None


def of_hits(hits: Sequence[Hit], workspace: Workspace, budget: int) -> list[Seen]:
    """Return what is seen of each moment, in their order. budget: bytes that all pictures may have together.

    Nothing is raised for a file that is gone, cannot be read, or takes too long: it has no picture, which is said.
    """
    most = budget // max(1, len(hits))
    found, seconds = _of_stores(hits, workspace, most, _NEAR_S)
    lacking = [
        i for i, hit in enumerate(hits) if found[i] is None and os.path.isabs(hit.path) and os.path.isfile(hit.path)
    ]
    for i, (at, jpeg) in peaks.decoded([(hits[i].path, hits[i].video_id, hits[i].peak) for i in lacking], _SIDE):
        found[lacking[i]] = fitted(jpeg, at, most)
    return [Seen(picture, length) for picture, length in zip(found, seconds, strict=True)]


def stored(hits: Sequence[Hit], workspace: Workspace, budget: int, near_s: float) -> list[Picture | None]:
    """Return the stored frames nearest to the peaks of moments, None where none is within `near_s` seconds."""
    return _of_stores(hits, workspace, budget // max(1, len(hits)), near_s)[0]


def _of_stores(
    hits: Sequence[Hit], workspace: Workspace, most: int, near_s: float
) -> tuple[list[Picture | None], list[float | None]]:
    """Return the stored frame of each moment, where one is near, and the length of its file, where that is known."""
    store, clips = _stored(hits, workspace)
    found: list[Picture | None] = []
    seconds: list[float | None] = []
    for hit in hits:
        clip = _clip_at(clips.get(hit.video_id, ()), hit.peak)
        seconds.append(None if clip is None else clip.file.duration)
        found.append(None if store is None or clip is None else _nearest(store, clip, hit, most, near_s))
    return found, seconds


def _stored(hits: Sequence[Hit], workspace: Workspace) -> tuple[FrameStore | None, Mapping[str, Sequence[StoredClip]]]:
    try:
        if workspace.has_frames:
            store = workspace.frames()
            return store, store.clips_of({hit.video_id for hit in hits})
    except TvrError as e:
        log.logger.warning("warning: the page has no stored frames: %s", e)
    return None, {}


def _clip_at(clips: Sequence[StoredClip], second: float) -> StoredClip | None:
    """Return the clip that a second of the file is in, or the nearest one."""

    def away(clip: StoredClip) -> float:
        start, end = clip.record.span
        return max(start - second, second - end, 0.0)

    return min(clips, key=away, default=None)


def _nearest(store: FrameStore, clip: StoredClip, hit: Hit, most: int, near_s: float) -> Picture | None:
    """Return the stored frame of a moment, None where none is near it or it is damaged."""
    try:
        at, jpeg = store.nearest(clip, hit.peak)
        if not hit.start <= at <= hit.end and abs(at - hit.peak) > near_s:
            return None
        record = clip.record
        return fitted(jpeg, at, most, record.width / record.height if store.plan.fit == "squash" else None)
    except (TvrError, OSError, ValueError, ZeroDivisionError) as e:
        log.warn_once(f"a card has no picture: {e}")
        return None


def fitted(jpeg: bytes, at: float, most: int, ratio: float | None = None) -> Picture:
    """Return a JPEG as it is where it has at most so many bytes, else made smaller, first in quality and then in size.

    ratio: width to height that it is to be shown with, None = its own. Raises OSError or ValueError where it is none.
    """
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as image:
        if ratio is None and len(jpeg) <= most and max(image.size) <= _SIDE:
            image.verify()
            return Picture(jpeg, image.width, image.height, at)
        width, height = image.size
        if ratio is not None:
            width, height = (round(height * ratio), height) if ratio > 1 else (width, round(width / ratio))
        scale = min(1.0, _SIDE / max(width, height))
        whole = image.convert("RGB")
    for data, size in _smaller(whole, (max(1, round(width * scale)), max(1, round(height * scale)))):
        if len(data) <= most or max(size) <= _SMALLEST:
            return Picture(data, size[0], size[1], at)
    raise AssertionError("the smallest one is taken")


def _smaller(image: Image.Image, size: tuple[int, int]) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Yield a picture as JPEGs, each smaller than the one before, and their sizes."""
    from PIL import Image

    while True:
        made = image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
        for quality in _QUALITIES:
            out = io.BytesIO()
            made.save(out, "JPEG", quality=quality, optimize=True)
            yield out.getvalue(), size
        size = (max(1, size[0] * 3 // 4), max(1, size[1] * 3 // 4))
