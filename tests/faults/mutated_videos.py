"""Videos with bytes changed, lost, doubled or out of place, read as `tvr extract-frames` reads: frames, or a reason."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import videos

from faults.damage import cut, flipped
from tvr_cli.plans import FramePlan
from tvr_cli.stores.decoding.pool import DecodePool, Unread
from tvr_cli.stores.decoding.sample import Sampled, Task, sample
from tvr_cli.stores.frames.windows import AUTO

KINDS = {"a.mp4": "libx264", "b.mkv": "libx264", "c.avi": "mpeg4", "d.ts": "libx264", "e.mov": "mpeg4"}
PLAN = FramePlan(num_frames=4, size=32)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return a video that something happened to."""
    how = rng.randrange(6)
    if how == 0:
        return cut(data, rng)
    at, length = rng.randrange(len(data)), rng.choice((1, 2, 4, 8, 64, 512))
    if how == 1:
        return data[:at] + rng.randbytes(length) + data[at + length :]
    if how == 2:
        return data[:at] + data[at + length :]
    if how == 3:
        return data[:at] + data[max(0, at - length) : at] + data[at:]
    if how == 4:  # the numbers of a header at their ends
        return data[:at] + rng.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * 4 + data[at + 4 :]
    for _ in range(rng.randrange(1, 40)):
        data = flipped(data, rng)
    return data


def outcome(result: Sampled | Unread) -> str:
    """Return how a video was taken. Raises AssertionError for what no file may cause."""
    if isinstance(result, Unread):
        assert not result.reason.startswith("unexpected") and len(result.reason) > 10, result
        return "crashed its reader" if "crashed" in result.reason else "refused"
    for clip in result.clips:
        assert len(clip.jpegs) == len(clip.ts) <= (PLAN.num_frames or 0), result
        assert np.all(np.diff(clip.ts) > 0) and np.all(np.isfinite(clip.ts)), result
        assert all(jpeg.startswith(b"\xff\xd8") for jpeg in clip.jpegs), result
    return "read"


def read_mutated(folder: Path, number: int, seed: int, *, workers: int = 1) -> Counter[str]:
    """Read `number` mutated videos, each in a worker process; a reader that crashes costs only its video."""
    whole = []
    for name, codec in KINDS.items():
        path = videos.make_video(folder / name, 24, fps=12, size=(64, 48), codec=codec, gop=6)
        whole.append((path.suffix, path.read_bytes()))
    rng = random.Random(seed)
    tasks = []
    for i in range(number):
        suffix, data = whole[i % len(whole)]
        path = folder / f"{i}{suffix}"
        path.write_bytes(mutated(data, rng))
        tasks.append((str(i), Task(path, PLAN, segmenting=AUTO, keep_truncated=bool(i % 2))))
    with DecodePool(sample, workers=workers, timeout_s=600.0) as pool:
        found = Counter(outcome(result) for _, result in pool.run(tasks))
    assert found.total() == number, found
    return found
