"""What a check of `tvr doctor` is, and opening videos in processes of their own to find out whether they are whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tvr_cli import commands
from tvr_cli.results.base import HIDDEN
from tvr_cli.stores.decoding.choose import open_video
from tvr_cli.stores.decoding.pool import DecodePool, Unread, default_workers
from tvr_cli.stores.decoding.types import Beat

_TIMEOUT_S = 60.0
_SAMPLED = 12  # frames that a deep check decodes


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. fix: what to do, empty when ok. fatal: tvr cannot run before it is fixed.

    incomplete: a data set cannot be used for its benchmark before it is fixed. seconds: how long the video lasts,
    of one that could be opened.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""
    fatal: bool = field(default=False, metadata=HIDDEN)
    incomplete: bool = field(default=False, metadata=HIDDEN)
    seconds: float | None = field(default=None, metadata=HIDDEN)


@dataclass(frozen=True, slots=True)
class _Probed:
    """What opening a video told. problem: empty when all is well. seconds: its length."""

    detail: str
    problem: str
    seconds: float


def probe_videos(videos: Mapping[str, Path], *, deep: bool, advance: Callable[[], None]) -> list[Check]:
    """Open each video (id -> file) in a process of its own; `deep` decodes some of its frames as well."""
    checks = []
    tasks = [(name, (path, deep)) for name, path in videos.items()]
    with DecodePool(_probe, workers=default_workers(), timeout_s=_TIMEOUT_S) as pool:
        for name, found in pool.run(tasks):
            advance()
            if isinstance(found, Unread):
                fix = f"{commands.tvr('extract-frames')} leaves it out and records it in failures.jsonl"
                checks.append(Check(name, False, found.reason, fix, incomplete=True))
            else:
                checks.append(
                    Check(name, not found.problem, found.detail, found.problem, incomplete=True, seconds=found.seconds)
                )
    return checks


def _probe(task: tuple[Path, bool], beat: Beat) -> _Probed:
    path, deep = task
    decoder = open_video(path, beat=beat)
    try:
        timeline = decoder.timeline
        detail = f"{len(timeline)} frames, {timeline.end:.1f} s"
        if not deep:
            return _Probed(detail, timeline.truncated or "", timeline.end)
        wanted = sorted({int((i + 0.5) * len(timeline) / _SAMPLED) for i in range(_SAMPLED)})
        lost = len(wanted) - sum(1 for _ in decoder.frames(wanted))
        damaged = f"{lost} of {len(wanted)} sampled frames cannot be decoded" if lost else ""
        return _Probed(detail, timeline.truncated or damaged, timeline.end)
    finally:
        decoder.close()
