"""What an extraction would do, how many bytes it would write and how long it would take. Writes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tvr_cli.engine.extraction import extract as engine
from tvr_cli.engine.extraction import headers
from tvr_cli.engine.extraction.discover import Video
from tvr_cli.engine.extraction.extract import ExtractOptions
from tvr_cli.engine.extraction.naming import name_videos
from tvr_cli.plans import FramePlan
from tvr_cli.results.base import Result, key
from tvr_cli.stores.decoding.pool import DecodePool, Unread
from tvr_cli.stores.decoding.sample import Sampled, Task, sample_timed
from tvr_cli.stores.frames import head as heads
from tvr_cli.stores.frames import store as frames
from tvr_cli.stores.frames.store import joined
from tvr_cli.stores.frames.windows import WHOLE, cut
from tvr_cli.stores.frames.writer import Failure
from tvr_cli.types import Manifest
from tvr_cli.workspace import Workspace

# How many files are read for the estimate, and for how long at most; and for how long headers are read.
_TRIALS, _LIMIT_S, _HEADERS_S = 3, 10.0, 20.0


@dataclass(frozen=True, kw_only=True)
class ExtractEstimate(Result):
    """videos = todo + kept + failed (earlier and unchanged). first: ids of the first videos to read.

    frames: by the durations in the headers of the files, and of frames by time by how many a second were kept of those
    that were read. size_bytes, seconds: extrapolated from `tried` files that were read for it. None when none could be.
    """

    schema = "extract-frames"
    dry_run: Literal[True] = field(default=True, init=False)
    ok: Literal[0] = field(default=0, init=False)  # nothing is read for good, and nothing fails
    failures: Sequence[Any] = field(default=(), init=False)
    videos: int
    todo: int
    kept: int
    failed: int
    first: tuple[str, ...]
    tried: int
    frames: int | None
    seconds: float | None
    size_bytes: int | None = field(metadata=key("bytes"))


def estimate(
    sources: Sequence[Path] | Manifest, workspace: Workspace, plan: FramePlan, options: ExtractOptions
) -> ExtractEstimate:
    """Say what `extract` with the same arguments would do. Raises what it would raise before any work."""
    plan.check()
    selection = engine.select(sources, options)
    root = workspace.frames_folder
    engine.refuse_other_plan(workspace, plan, options)
    there = workspace.has_frames and not options.overwrite
    head, lines = heads.read(root, workspace) if there else (None, ())
    shards = [frames.Shard(line, frames.read_records(root, line, workspace)) for line in lines]
    failures = [Failure.from_json(line) for line in frames.read_failures(root)] if there else []
    clips = [clip for shard in shards for clip in shard.clips]
    selection, _ = name_videos(selection, clips, failures, head.roots if head else {})
    videos = engine.part_of(selection, options)
    work = engine.compare(root, shards, {f.video: f for f in failures}, videos, selection, options)
    tried, n_frames, size_bytes, seconds = _extrapolate(work.todo, plan, options)
    return ExtractEstimate(
        videos=len(videos),
        todo=len(work.todo),
        kept=len(work.kept),
        failed=len(work.failed),
        first=tuple(video.id for video in work.todo[:3]),
        tried=tried,
        frames=n_frames,
        size_bytes=size_bytes,
        seconds=seconds,
    )


def _extrapolate(
    videos: Sequence[Video], plan: FramePlan, options: ExtractOptions
) -> tuple[int, int | None, int | None, float | None]:
    """Read a few files of typical sizes, and the headers of all, and scale what the few gave."""
    if not videos:
        return 0, 0, 0, 0.0
    tasks = engine.tasks_of(videos, plan, options)
    sizes = {name: _size(task.path) for name, (task, _) in tasks.items()}
    by_size = sorted(sizes, key=lambda name: (sizes[name], int(name)))
    picks = sorted({by_size[(2 * i + 1) * len(by_size) // (2 * _TRIALS)] for i in range(_TRIALS)})
    done: dict[str, tuple[Sampled, float]] = {}
    pool: DecodePool[Task, tuple[Sampled, float]]
    pool = DecodePool(
        sample_timed,
        workers=engine.worker_count(options, len(picks)),
        timeout_s=_LIMIT_S,
        memory=options.memory_bytes,
    )
    with pool:
        for name, result in pool.run(((p, tasks[p][0]) for p in picks), until=time.monotonic() + _LIMIT_S):
            if not isinstance(result, Unread):
                done[name] = result
    if not done:
        return 0, None, None, None
    read = sum(sizes[name] for name in done)
    jpegs = [jpeg for sampled, _ in done.values() for jpeg in sampled.jpegs]
    n_frames = _frames(tasks, done, plan)
    cpu = sum(seconds for _, seconds in done.values()) * sum(sizes.values()) / max(1, read)
    workers = engine.worker_count(options, len(tasks))
    size_bytes = round(n_frames * sum(map(len, jpegs)) / max(1, len(jpegs)))
    return len(done), n_frames, size_bytes, cpu / workers


def _frames(
    tasks: Mapping[str, tuple[Task, list[Video]]], done: Mapping[str, tuple[Sampled, float]], plan: FramePlan
) -> int:
    """Return how many frames would be stored: of files that were read, what they gave; of others, by their headers.

    A file without a duration in its header is taken for an average one.
    """
    counts = {name: len(sampled.jpegs) for name, (sampled, _) in done.items()}
    lasted = sum(_seconds(tasks[name][0], sampled.duration) for name, (sampled, _) in done.items())
    a_second = sum(counts.values()) / max(lasted, 1e-3)
    others = {name: task for name, (task, _) in tasks.items() if name not in counts}
    found = headers.within(list(dict.fromkeys(task.path for task in others.values())), _HEADERS_S)
    for name, task in others.items():
        header = found.get(task.path)
        if header is not None and header.duration is not None:
            if plan.has_timelines:  # what is left out depends on what is seen
                counts[name] = max(1, round(_seconds(task, header.duration) * a_second))
                continue
            spans = task.spans or cut(header.duration, task.segmenting)
            counts[name] = sum(_slots(span.within(header.duration), header.rate or 25.0, plan) for span in spans)
    return round(sum(counts.values()) * len(tasks) / max(1, len(counts)))


def _seconds(task: Task, duration: float) -> float:
    """Return how many seconds of a file a task reads, each once."""
    return sum(max(0.0, end - start) for start, end in joined(s.within(duration) for s in task.spans or (WHOLE,)))


def _slots(span: tuple[float, float], rate: float, plan: FramePlan) -> int:
    """Return how many frames the plan keeps of a span (start, end) in seconds, at a frame rate."""
    seconds = max(0.0, span[1] - span[0])
    there = math.ceil(seconds * min(rate, plan.fps or rate))
    return max(1, min(there, there if plan.slots is None else plan.slots))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
