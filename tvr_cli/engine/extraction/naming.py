"""Ids of videos where several sources have files of the same name: both are kept, and the first one's ids stay.

A source that is new to the store, and has a name that another one holds already, gets its folder's name in front of all
its ids. The head of the store keeps what each source got, so that the next run says the same. Reads, never writes.
"""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvr_cli.engine.extraction.discover import Selection, Video
from tvr_cli.files import sha256_file
from tvr_cli.stores.frames.store import StoredClip
from tvr_cli.stores.frames.writer import Failure


@dataclass(frozen=True, slots=True)
class _Held:
    """An id that is taken. source: who has it; path: of its file; size, mtime_ns, sha256: of a stored one."""

    source: str
    path: Path
    size: int | None = None
    mtime_ns: int | None = None
    sha256: str | None = None


def name_videos(
    selection: Selection, clips: Iterable[StoredClip], failures: Iterable[Failure], roots: Mapping[str, str]
) -> tuple[Selection, dict[str, str]]:
    """Return the selection with ids of which none means two files, and what stands before the ids of each source.

    clips, failures, roots: what the store has. Where a list of parts has decided the ids, they stay.
    """
    if selection.prefixes is not None:
        return selection, dict(selection.prefixes)
    held = {f.video: _Held(f.source, Path(f.path), f.size, f.mtime_ns) for f in failures}
    for clip in clips:
        size, mtime_ns, *_ = clip.file.stamp
        held[clip.video] = _Held(clip.source, Path(clip.record.path), size, mtime_ns, clip.record.source_sha256)
    remembered: dict[tuple[str, Path], list[str]] = defaultdict(list)
    for video_id, h in held.items():
        remembered[h.source, h.path].append(video_id)
    named, prefixes = [], {}
    for source, videos in _by_source(selection).items():
        plain = {video.id for video in videos}
        prefix = roots.get(source)
        if prefix is None:
            prefix = _free_prefix(held, source, videos) if any(_taken(held, v.id, v) for v in videos) else ""
        prefixes[source] = prefix
        for video in videos:
            wanted = _joined(prefix, video.id)
            for known in remembered[source, video.path]:
                if known not in plain and known.endswith(f"/{video.id}"):
                    wanted = known
            if _taken(held, wanted, video):  # it came after another source had got the plain name
                wanted = _joined(_free_prefix(held, source, [video]), video.id)
            named.append(_renamed(video, wanted))
        for video in named[len(named) - len(videos) :]:
            held[video.id] = _Held(source, video.path)
    return dataclasses.replace(selection, videos=sorted(named, key=lambda v: v.id)), prefixes


def _by_source(selection: Selection) -> dict[str, list[Video]]:
    """Return the videos of each source, in the order in which the sources were given."""
    found: dict[str, list[Video]] = {root: [] for root in selection.roots}
    for video in selection.videos:
        found[video.source].append(video)
    return found


def _taken(held: Mapping[str, _Held], video_id: str, video: Video) -> bool:
    """Return whether an id means another file: of another source, unless it is this one, or was before it moved.

    A data set's ids are the published ones and are never changed.
    """
    other = held.get(video_id)
    if other is None or other.source == video.source or other.path == video.path or not os.path.isabs(video.source):
        return False
    if other.size is None or os.path.exists(other.path):
        return not _same_file(other.path, video.path)
    return not _was(other, video.path)


def _same_file(a: Path, b: Path) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:
        return False


def _was(other: _Held, path: Path) -> bool:
    """Return whether a file is a stored one that is no longer at its path. One that cannot be looked at is."""
    try:
        found = path.stat()
        if found.st_size != other.size:
            return False
        return found.st_mtime_ns == other.mtime_ns or sha256_file(path) == other.sha256
    except OSError:
        return True


def _free_prefix(held: Mapping[str, _Held], source: str, videos: Sequence[Video]) -> str:
    """Return the name of a source's folder (of a manifest its stem), numbered where that is taken as well."""
    stem = Path(source).stem if source.endswith(".jsonl") else Path(source).name
    number = 1
    while True:
        prefix = stem if number == 1 else f"{stem}-{number}"
        if not any(_taken(held, _joined(prefix, video.id), video) for video in videos):
            return prefix
        number += 1


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


def _renamed(video: Video, wanted: str) -> Video:
    """Return a video under another id that ends in its own, its clips with it."""
    front = wanted.removesuffix(video.id)
    return dataclasses.replace(video, id=wanted, clip_ids=tuple(front + i for i in video.clip_ids)) if front else video
