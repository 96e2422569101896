"""Frame stores without videos: random JPEGs written through the real writer."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tvr_cli.plans import FramePlan
from tvr_cli.stores.frames.store import ClipRecord, SourceFile, StoredClip, Timeline
from tvr_cli.stores.frames.writer import Failure, FrameWriter, NewClip
from tvr_cli.types import clip_key

PLAN = FramePlan(num_frames=4, size=32)


def jpeg(seed: int, size: int | tuple[int, int]) -> bytes:
    """Return a picture of random colours. size: its side, or (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((size, size) if isinstance(size, int) else size, Image.Resampling.BICUBIC).save(
        out, "JPEG", quality=95
    )
    return out.getvalue()


def clip(
    name: str,
    frames: int,
    *,
    size: int | tuple[int, int] = 32,
    content: str | None = None,
    window: tuple[float, float] | None = None,
) -> NewClip:
    """Return one clip; equal `content` gives equal frames and keys, whatever the name."""
    sha256 = hashlib.sha256((content or name).encode()).hexdigest()
    start, end = window or (None, None)
    span = window or (0.0, 10.0)
    clip_id = name if window is None else f"{name}#t={start:g},{end:g}"
    record = ClipRecord(
        clip_id, f"/videos/{name}", start, end, clip_key(sha256, start, end), name, sha256, frames, span[1] - span[0],
        span, 320, 240, "pyav", False,
    )  # fmt: skip
    seeds = [int(sha256[:6], 16) + int(span[0]) + i for i in range(frames)]
    stored = StoredClip(record, SourceFile(name, ("/videos",), (1000, 17, 18, 19), 100.0), "", 0)
    return NewClip(stored, Timeline([jpeg(s, size) for s in seeds], np.linspace(*span, frames, endpoint=False)))


def write(workspace: Path, clips: list[NewClip], *, plan: FramePlan = PLAN) -> FrameWriter:
    """Add clips to the frame store of a workspace, making it if need be."""
    writer = FrameWriter.open(workspace / "frames", plan.identity(), {"tvr": "test"})
    writer.add(clips)
    return writer


def simple(workspace: Path, frames: Mapping[str, int], *, plan: FramePlan = PLAN) -> FrameWriter:
    return write(workspace, [clip(name, n, size=plan.size) for name, n in frames.items()], plan=plan)


def fail(writer: FrameWriter, video: str) -> None:
    writer.add_failure(Failure(video, f"/videos/{video}", "/videos", "zero bytes", "permanent", 0, 0))
