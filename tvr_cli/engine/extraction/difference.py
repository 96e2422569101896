"""What an extraction has to do: compare the videos that there are with what the store has. Reads, never writes.

A video is unchanged when its path and stamp (size, times, inode) are those of the store; if only its times or its name
differ, the content hash decides. So a touched, moved or copied file is never decoded again.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tvr_cli.engine.extraction.discover import Selection, Video
from tvr_cli.files import sha256_file, stamp
from tvr_cli.stores.decoding.sample import track_sha256
from tvr_cli.stores.frames.records import KnownStamp, same_stamp
from tvr_cli.stores.frames.store import ClipRecord, Shard, StoredClip
from tvr_cli.stores.frames.windows import cut, file_id
from tvr_cli.stores.frames.writer import Failure

# Of the videos of a source, the largest share that a run forgets unasked.
_FORGET_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Seen:
    """What somebody who looks at the sources all the time knows of their files (`tvr watch`).

    leave: files that are neither to be read nor forgotten now: still written, or gone a moment ago. gone: files that
    were deleted, and are forgotten however many they are. again: files that have changed since they failed, in a way
    that neither their size nor their time tells.
    """

    leave: Collection[Path] = frozenset()
    gone: Collection[Path] = frozenset()
    again: Collection[Path] = frozenset()


@dataclass
class Work:
    """What is to be done with each video.

    todo: to be read. kept: in the store as it should be. failed: failed before and unchanged since. updates: stored
    clips by id, with their new record (renamed or touched file) or None (forget). aliases: clips of new files whose
    content is stored already. solved: videos whose recorded failure no longer holds. unreachable: videos that are not
    there, and are kept because they are too many to be forgotten unasked.
    """

    todo: list[Video] = field(default_factory=list)
    kept: list[Video] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    updates: dict[str, StoredClip | None] = field(default_factory=dict)
    aliases: list[StoredClip] = field(default_factory=list)
    solved: set[str] = field(default_factory=set)
    unreachable: list[str] = field(default_factory=list)
    renamed: int = 0
    forgotten: int = 0


def compare_videos(
    videos: Sequence[Video],
    selection: Selection,
    clips: Iterable[StoredClip],
    failures: Mapping[str, Failure],
    *,
    retry_failed: bool,
    complete: bool,
    forget: bool = False,
    seen: Seen = Seen(),
) -> Work:
    """Decide what to do with each of `videos`, a part of the selection.

    clips: what the store has in whole shards. complete: the selection names everything that its manifests hold (no
    globs), so that what they no longer name may be forgotten. forget: all of it may; otherwise what is more
    than a tenth of a source, which looks more like a disk that is not there, is kept. seen: what decides before all
    that. `videos` are without those that it leaves.
    """
    stored: dict[str, list[StoredClip]] = defaultdict(list)
    for clip in clips:
        stored[clip.video].append(clip)
    named = {video.id for video in selection.videos}
    left = {v for v, c in stored.items() if Path(c[0].record.path) in seen.leave}
    gone = {v for v, c in stored.items() if v not in named | left and _is_gone(c[0], selection, complete)}
    twins = _Twins(stored)
    work = Work()
    for video in videos:
        known, failure = stored.get(video.id), failures.get(video.id)
        if known and _fits(known, video) and (new := _unchanged(known, video, twins)) is not None:
            work.kept.append(video)
            work.updates.update({n.record.id: n for n, old in zip(new, known, strict=True) if n != old})
            work.solved.add(video.id)
        elif failure is not None and not retry_failed and _is_as_it_failed(video, failure, seen):
            work.failed[video.id] = failure
        elif not known and (twin := twins.find(video)) is not None:
            _adopt(video, stored[twin], twin in gone, work)
            gone.discard(twin)
        else:
            work.todo.append(video)
    if not forget:
        work.unreachable = _too_many(gone, stored, seen.gone)
        gone.difference_update(work.unreachable)
    work.forgotten = len(gone)
    work.updates.update({clip.record.id: None for video_id in gone for clip in stored[video_id]})
    work.solved |= {f.video for f in failures.values() if f.video not in named and _is_gone(f, selection, complete)}
    return work


def whole_shards(root: Path, shards: Iterable[Shard]) -> tuple[list[Shard], list[Shard]]:
    """Split shards into those whose file has the right size and those that are missing or cut short."""
    whole: list[Shard] = []
    lost: list[Shard] = []
    for shard in shards:
        path = root / shard.name
        fits = path.is_file() and path.stat().st_size == shard.line.size_bytes
        (whole if fits else lost).append(shard)
    return whole, lost


class _Twins:
    """Stored videos by content; a file is hashed only when a stored one has its size, and once."""

    def __init__(self, stored: Mapping[str, list[StoredClip]]):
        self._stored = stored
        self._by_size: dict[int, list[str]] = defaultdict(list)
        for video_id, clips in stored.items():
            self._by_size[clips[0].file.stamp[0]].append(video_id)
        self._hashes: dict[Path, str | None] = {}

    def find(self, video: Video) -> str | None:
        """Return a stored video with the same content and clips, one whose file has gone if there is any."""
        size, _ = _signature(video.path)
        same = [
            v
            for v in self._by_size.get(size, ())
            if self.hash(video) == self._stored[v][0].record.source_sha256 and _fits(self._stored[v], video)
        ]
        return min(same, key=lambda v: (os.path.exists(self._stored[v][0].record.path), v), default=None)

    def hash(self, video: Video) -> str | None:
        """Return what the content of a video is known by, None where its file cannot be read."""
        path = video.path
        if path not in self._hashes:
            try:
                self._hashes[path] = sha256_file(path)
            except OSError:
                self._hashes[path] = None
        of_file = self._hashes[path]
        return None if of_file is None else track_sha256(of_file, video.track)


def _unchanged(known: list[StoredClip], video: Video, twins: _Twins) -> list[StoredClip] | None:
    """Return the stored clips brought up to date, or None when the file's content has changed."""
    now, old = stamp(video.path), known[0]
    same_file = old.record.path == str(video.path) and same_stamp(old.file.stamp, now)
    if now is None or (
        not same_file and (old.file.stamp[0] != now[0] or twins.hash(video) != old.record.source_sha256)
    ):
        return None
    return [_as(clip, video, clip.record, now) for clip in known]


def _adopt(video: Video, clips: list[StoredClip], renamed: bool, work: Work) -> None:
    """Give `video` the stored clips of a file with the same content: renamed away, or a copy of it."""
    now = stamp(video.path) or clips[0].file.stamp
    for i, old in enumerate(sorted(clips, key=_span_of)):
        span = video.spans[i] if video.spans else cut(old.file.duration, video.segmenting)[i]
        record = dataclasses.replace(old.record, id=video.clip_id(i, span), file_id=file_id(video.id))
        new = _as(old, video, record, now)
        if renamed:
            work.updates[old.record.id] = new
        else:
            work.aliases.append(new)
    work.renamed += renamed
    work.kept.append(video)
    work.solved.add(video.id)


def _as(clip: StoredClip, video: Video, record: ClipRecord, now: KnownStamp) -> StoredClip:
    """Return a stored clip as one of `video`, whose file has the stamp `now`."""
    file = dataclasses.replace(clip.file, video=video.id, roots=(video.source,), stamp=now)
    return dataclasses.replace(clip, record=dataclasses.replace(record, path=str(video.path)), file=file)


def _fits(known: Sequence[StoredClip], video: Video) -> bool:
    """Return whether the stored clips are the ones that `video` would be cut into now."""
    spans = video.spans or cut(known[0].file.duration, video.segmenting)
    return sorted(((s.start or 0.0), s.end or 0.0) for s in spans) == sorted(map(_span_of, known))


def _span_of(clip: StoredClip) -> tuple[float, float]:
    return (clip.record.start or 0.0, clip.record.end or 0.0)


def _is_gone(item: StoredClip | Failure, selection: Selection, complete: bool) -> bool:
    """Return whether a video that the sources no longer name should be forgotten.

    Only what came from the sources of this run: a folder's file must be gone; a manifest must no longer name it.
    """
    if item.source not in selection.roots:
        return False
    path = item.record.path if isinstance(item, StoredClip) else item.path
    return is_missing(path) or (complete and not os.path.isdir(item.source))


def is_missing(path: str | os.PathLike[str]) -> bool:
    """Whether there is surely no file at a path: what a folder or a disk does not let one see may be there."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _is_as_it_failed(video: Video, failure: Failure, seen: Seen) -> bool:
    return video.path not in seen.again and _signature(video.path) == (failure.size, failure.mtime_ns)


def _too_many(
    gone: Iterable[str], stored: Mapping[str, list[StoredClip]], deleted: Collection[Path] = frozenset()
) -> list[str]:
    """Return the videos to be forgotten whose files are not there, where they are more than a tenth of a source.

    What a manifest no longer names, although it is there, somebody has taken out. deleted: files that surely were.
    """
    held = Counter(clips[0].source for clips in stored.values())
    lost: dict[str, list[str]] = defaultdict(list)
    for video_id in gone:
        path = stored[video_id][0].record.path
        if is_missing(path) and Path(path) not in deleted:
            lost[stored[video_id][0].source].append(video_id)
    return sorted(v for source, videos in lost.items() if len(videos) > _FORGET_SHARE * held[source] for v in videos)


def _signature(path: Path) -> tuple[int, int]:
    """Return (size, mtime_ns); zeros for a file that is not there."""
    try:
        info = path.stat()
    except OSError:
        return (0, 0)
    return (info.st_size, info.st_mtime_ns)
