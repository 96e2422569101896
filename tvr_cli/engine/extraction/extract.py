"""From videos to a frame store: find, compare with the store, read in worker processes, write shard by shard.

Every step leaves a whole store behind, so a run may be killed at any moment and started again. No torch here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import platform
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from tvr_cli import files, log
from tvr_cli.backbones import registry
from tvr_cli.config import FramesConfig
from tvr_cli.engine.extraction import headers, part_list
from tvr_cli.engine.extraction.difference import Seen, Work, compare_videos, whole_shards
from tvr_cli.engine.extraction.discover import Selection, Video, counted, discover, few, in_shard
from tvr_cli.engine.extraction.naming import name_videos
from tvr_cli.errors import ConfigError, DataError, Interrupted
from tvr_cli.plans import AskedFrames, FramePlan
from tvr_cli.results.base import Result, key
from tvr_cli.stores.decoding.choose import check_decoder, decoder_versions
from tvr_cli.stores.decoding.pool import DecodePool, Stopped, Unread, default_workers
from tvr_cli.stores.decoding.sample import Sampled, Task, sample
from tvr_cli.stores.decoding.types import DecoderName, Place
from tvr_cli.stores.frames import head as heads
from tvr_cli.stores.frames import store as frames
from tvr_cli.stores.frames import unfinished
from tvr_cli.stores.frames.rebuild import rebuild_head
from tvr_cli.stores.frames.store import ClipRecord, SourceFile, StoredClip, Timeline
from tvr_cli.stores.frames.unfinished import Unfinished
from tvr_cli.stores.frames.windows import Span, file_id, parse_segment
from tvr_cli.stores.frames.writer import (
    Failure,
    FrameWriter,
    NewClip,
    check_identity,
    drop_damaged_records,
    require_own,
)
from tvr_cli.types import Manifest, clip_key
from tvr_cli.version import __version__
from tvr_cli.workspace import Workspace

Tracks = Literal["default", "all"]

# A shard is written when it has this many bytes or clips, or this much time has passed: what a crash can cost.
_SHARD_BYTES, _SHARD_CLIPS, _SHARD_S = 64_000_000, 1024, 20.0
# How long Ctrl-C waits for the readers to hand over what they have of the videos that they are reading.
_HAND_OVER_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractOptions:
    """How to extract. None of it changes which frames a clip has; that is the plan's business.

    segment: auto, none or LENGTH/OVERLAP. shard: (i, n), this run's part of the videos. timeout_s: seconds without
    progress after which a video is given up. forget: drop all videos that are not there, however many. follow: links
    that lead out of a folder. tracks: of a file with several video tracks. memory_bytes: that the frames which readers
    are decoding may take together, None = half of what is free. command: what to type to continue, for
    messages. seen: what is known of the files by who looks at them all the time; None = nothing.
    """

    decoder: DecoderName = "auto"
    segment: str = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    workers: int | None = None
    timeout_s: float = 120.0
    shard: tuple[int, int] = (1, 1)
    retry_failed: bool = False
    overwrite: bool = False
    keep_truncated: bool = True
    forget: bool = False
    follow: bool = False
    tracks: Tracks = "default"
    memory_bytes: int | None = None
    command: str = ""
    seen: Seen | None = None


@dataclass(frozen=True)
class FailedVideo:
    """A selected video that has no frames, and why."""

    video: str
    reason: str


@dataclass(frozen=True)
class VideoNote:
    """What people should know of a video that was read."""

    video: str
    note: str


@dataclass(frozen=True, kw_only=True)
class ExtractReport(Result):
    """What a run did. videos = ok + kept + failed.

    ok: read now. kept: were in the store. clips, frames, size_bytes: written now. seconds: wall time. unreachable: ids
    that are in the store although their files are not there. notes: on videos that were read now.
    """

    schema = "extract-frames"
    videos: int
    ok: int
    kept: int
    failed: int
    frames: int
    seconds: float
    failures: Sequence[FailedVideo]
    clips: int
    size_bytes: int = field(metadata=key("bytes"))
    renamed: int
    forgotten: int
    unreachable: Sequence[str]
    notes: Sequence[VideoNote]
    workspace: Path


@dataclass
class Tally:
    """What was written and noted so far; of an extraction that is stopped, what it did until then."""

    ok: int = 0
    renamed: int = 0
    forgotten: int = 0
    clips: int = 0
    frames: int = 0
    size_bytes: int = 0
    failures: list[FailedVideo] = field(default_factory=list)
    notes: list[VideoNote] = field(default_factory=list)

    def report(self, workspace: Path, *, videos: int, seconds: float, work: Work | None = None) -> ExtractReport:
        """Return the report of a run over so many videos. work: what needed no reading."""
        known = [FailedVideo(f.video, f.reason) for f in work.failed.values()] if work else []
        failures = sorted([*self.failures, *known], key=lambda f: (f.video, f.reason))
        return ExtractReport(
            videos=videos,
            ok=self.ok,
            kept=len(work.kept) if work else 0,
            failed=len(failures),
            frames=self.frames,
            seconds=seconds,
            failures=failures,
            clips=self.clips,
            size_bytes=self.size_bytes,
            renamed=self.renamed,
            forgotten=self.forgotten,
            unreachable=work.unreachable if work else [],
            notes=sorted(self.notes, key=lambda n: n.video),
            workspace=workspace,
        )


def extract(
    sources: Sequence[Path] | Manifest,
    workspace: Workspace,
    plan: FramePlan,
    options: ExtractOptions,
    tally: Tally | None = None,
) -> ExtractReport:
    """Bring `<workspace>/frames` up to date with the videos of `sources`.

    tally: counts along, for whoever has to know what was done when this raises; a new one.

    Raises DataError when there are no videos, StoreMismatch when the store has another plan, EnvironmentProblem when
    another process does the same, and Interrupted on Ctrl-C (what is read is saved).
    """
    started = time.monotonic()
    done = Tally() if tally is None else tally
    plan.check()
    selection = select(sources, options)
    root = workspace.frames_folder
    refuse_other_plan(workspace, plan, options)
    with files.lock(root / "locks" / "{}-of-{}".format(*options.shard)):
        writer = FrameWriter.open(
            root, plan.identity(), _provenance(), overwrite=options.overwrite, workspace=workspace
        )
        failures = writer.failures()
        selection, prefixes = name_videos(selection, writer.clips(), failures.values(), writer.roots)
        videos = part_of(selection, options)
        work = compare(writer.root, writer.shards, failures, videos, selection, options)
        _apply(writer, work, selection, prefixes)
        done.renamed, done.forgotten = work.renamed, work.forgotten
        _drop_unfinished(root, work)
        _read_all(writer, work.todo, plan, options, done)
        writer.seal()
    report = done.report(workspace.root, videos=len(videos), seconds=time.monotonic() - started, work=work)
    _note_part(workspace, sources, report, options)
    return report


def frame_plan(
    workspace: Workspace,
    asked: AskedFrames,
    options: ExtractOptions,
    *,
    preset: FramesConfig | None = None,
    backbone: str | None = None,
) -> FramePlan:
    """Return the plan of a run: what flags ask for, a data set's preset, and how the frames that are there were made.

    backbone: which the frames are to serve (`--for`): its view, and the number of frames where it takes but one. Raises
    ConfigError for flags that exclude each other, and what `registry.resolve` and `FrameStore.open` raise.
    """
    if backbone is not None:
        about = registry.resolve(backbone)
        asked = dataclasses.replace(asked, view=about.view, takes=about.frames)
    goes_on = preset is None and workspace.has_frames and not options.overwrite
    if not goes_on:
        return asked.plan(preset)
    plan = asked.plan(None, FramePlan.from_identity(heads.read_head(workspace.frames_folder, workspace).identity))
    if not asked.says_choice and not plan.has_timelines:
        log.logger.info(
            "frames go on as in the ones that are there, %s; for frames by time, which show short moments, read all "
            "again with --overwrite, or give them a workspace of their own with -o",
            plan.choice,
        )
    if plan.look == "coded":
        log.logger.info(
            "pictures go on as in the frames that are there, as they are coded; for them as players show them (square "
            "pixels, HDR mapped, BT.709 for HD), read all again with --overwrite"
        )
    return plan


def repair(workspace: Workspace, shard: str, options: ExtractOptions) -> ExtractReport:
    """Read the videos of a damaged shard again and replace only it. shard: its file name, or `all` to check each one.

    Raises DataError when there is no store or no such shard.
    """
    started = time.monotonic()
    root = workspace.frames_folder
    if shard == "all" and rebuild_head(root, workspace):
        log.logger.warning("warning: the head of %s was damaged; it was made again from the records beside it", root)
    identity = heads.read_head(root, workspace).identity
    plan = FramePlan.from_identity(identity)
    with files.lock(root / "locks" / "1-of-1"):
        for name in (lost := drop_damaged_records(root, shard)):
            log.logger.warning(
                "warning: the records of shard %s were damaged, so nothing says what was in it; it is taken out. Read "
                "its videos again with: %s",
                name, workspace.extract_again(),
            )  # fmt: skip
        writer = FrameWriter.open(root, identity, _provenance(), workspace=workspace)
        asked = [s for s in writer.shards if shard in ("all", s.name)]
        if shard != "all" and not asked and not lost:
            raise DataError(f"the frame store {str(root)!r} has no shard {shard!r}; --repair all checks every shard")
        damaged = [s for s in asked if not frames.is_whole(root, s.line)]
        videos = _videos_of([clip for s in damaged for clip in s.clips])
        log.logger.info("%d of %d shards damaged, %d videos to read again", len(damaged), len(asked), len(videos))
        _read_all(writer, videos, plan, dataclasses.replace(options, keep_truncated=True), done := Tally())
        writer.seal()
    return done.report(workspace.root, videos=len(videos), seconds=time.monotonic() - started)


def select(sources: Sequence[Path] | Manifest, options: ExtractOptions) -> Selection:
    """Return everything that the sources name; `name_videos` makes the ids those of the store."""
    part, of = options.shard
    if not 1 <= part <= of:
        raise ConfigError(f"--shard: expected i/n with 1 <= i <= n, found {part}/{of}")
    if options.overwrite and of > 1:
        raise ConfigError("--overwrite with --shard would delete what the other parts wrote; give all parts a new -o")
    check_decoder(options.decoder)
    if options.tracks not in get_args(Tracks):
        raise ConfigError(f"--tracks: expected {' or '.join(get_args(Tracks))}, found {options.tracks!r}")
    if (listed := part_list.find(sources)) is not None:
        decided = (options.include, options.exclude, options.segment, options.follow, options.tracks, options.forget)
        if decided != ((), (), "auto", False, "default", False):
            raise ConfigError(
                "a list of parts says which videos there are and how they are cut; give --include, --exclude, "
                "--segment, --follow and --tracks where it is made (--plan-parts), and --forget to no part"
            )
        return part_list.read_part(listed, options.shard)
    found = discover(
        sources,
        include=options.include,
        exclude=options.exclude,
        segmenting=parse_segment(options.segment),
        cut_manifests=options.segment not in ("auto", "none"),
        follow=options.follow,
        may_be_empty=options.forget or options.seen is not None,
    )
    return dataclasses.replace(found, videos=_each_track(found.videos)) if options.tracks == "all" else found


def _each_track(videos: Sequence[Video]) -> list[Video]:
    """Add a video for each further video track of a file; lines of a manifest that name spans stay as they are."""
    found = headers.read([video.path for video in videos if not video.spans])
    named = list(videos)
    for video in videos:
        for track in () if video.spans or video.path not in found else found[video.path].tracks[1:]:
            named.append(dataclasses.replace(video, id=f"{video.id}#track={track}", track=track))
    return sorted(named, key=lambda video: video.id)


def part_of(selection: Selection, options: ExtractOptions) -> list[Video]:
    """Return this run's part of the videos."""
    if selection.prefixes is not None:
        return list(selection.videos)
    part, of = options.shard
    leave = options.seen.leave if options.seen is not None else ()
    return [video for video in selection.videos if in_shard(video.id, part, of) and video.path not in leave]


def compare(
    root: Path,
    shards: Sequence[frames.Shard],
    failures: dict[str, Failure],
    videos: Sequence[Video],
    selection: Selection,
    options: ExtractOptions,
) -> Work:
    """Compare the videos with the store; clips of shards that are missing or cut short count as not there."""
    whole, lost = whole_shards(root, shards)
    for shard in lost:
        log.logger.warning("warning: shard %s is missing or cut short; its videos are read again", shard.name)
    return compare_videos(
        videos,
        selection,
        [clip for shard in whole for clip in shard.clips],
        failures,
        retry_failed=options.retry_failed,
        complete=not options.include and not options.exclude and selection.prefixes is None,
        forget=options.forget,
        seen=options.seen or Seen(),
    )


def refuse_other_plan(workspace: Workspace, plan: FramePlan, options: ExtractOptions) -> None:
    """Raise StoreMismatch for a folder of anything else, or a store of another plan that is not to be overwritten."""
    root = workspace.frames_folder
    require_own(root, workspace)
    if workspace.has_frames and not options.overwrite:
        check_identity(root, heads.read_head(root, workspace).identity, plan.identity())


def tasks_of(videos: Sequence[Video], plan: FramePlan, options: ExtractOptions) -> dict[str, tuple[Task, list[Video]]]:
    """Group videos into tasks, one a file: lines of a manifest that name spans of one file are read together."""
    groups: dict[tuple[Any, ...], list[Video]] = {}
    for video in videos:
        groups.setdefault((video.path, bool(video.spans), video.segmenting, video.track), []).append(video)
    tasks: dict[str, tuple[Task, list[Video]]] = {}
    for (path, _, segmenting, track), group in groups.items():
        spans = tuple(span for video in group for span in video.spans)
        task = Task(path, plan, spans, segmenting, options.decoder, options.keep_truncated, track)
        tasks[str(len(tasks))] = (task, group)
    return tasks


def worker_count(options: ExtractOptions, tasks: int) -> int:
    return max(1, min(options.workers or default_workers(), tasks))


def _note_part(
    workspace: Workspace, sources: Sequence[Path] | Manifest, report: ExtractReport, options: ExtractOptions
) -> None:
    """Note that a part is done, for whoever merges the parts, and for who waits for it."""
    part, of = options.shard
    if of == 1:
        return
    listed = part_list.find(sources)
    known = None if listed is None else listed.sha256
    done = part_list.DonePart(part=part, of=of, list=known, videos=report.videos, failed=report.failed)
    part_list.note_done(workspace, [done])
    log.logger.info("part %d of %d: done", part, of)


def _apply(writer: FrameWriter, work: Work, selection: Selection, prefixes: Mapping[str, str]) -> None:
    """Write down what needs no decoding: renamed, touched, copied and forgotten videos."""
    if work.updates:
        writer.change(lambda clip: work.updates.get(clip.record.id, clip))
    writer.add_aliases(work.aliases)
    writer.clear_failures(work.solved)
    writer.set_header(captions_beside=None if selection.captions is None else str(selection.captions), roots=prefixes)
    if work.renamed or work.forgotten:
        log.logger.info("videos: %d renamed, %d forgotten (their files are gone)", work.renamed, work.forgotten)
    if work.unreachable:
        log.logger.warning(
            "warning: %s are not where they were (%s); they are kept, in case a disk is not there. To forget what is "
            "gone, add --forget",
            counted(len(work.unreachable), "video"), few(work.unreachable),
        )  # fmt: skip


def _drop_unfinished(root: Path, work: Work) -> None:
    """Remove what an interrupted run kept of videos that need no reading any more."""
    if there := unfinished.kept(root):
        done = [*work.kept, *(video for video in work.todo if not video.path.exists())]
        unfinished.remove(root, there.intersection(unfinished.name_of(video.path, video.track) for video in done))


def _read_all(
    writer: FrameWriter, videos: Sequence[Video], plan: FramePlan, options: ExtractOptions, done: Tally
) -> None:
    """Read the videos in workers and write what they give."""
    if not videos:
        return
    tasks = tasks_of(videos, plan, options)
    if there := unfinished.kept(writer.root):
        tasks = {name: (_going_on(task, writer.root, there), group) for name, (task, group) in tasks.items()}
    sink = _Sink(writer, done)
    pool = DecodePool(
        sample,
        workers=worker_count(options, len(tasks)),
        timeout_s=options.timeout_s,
        memory=options.memory_bytes,
    )
    with log.progress("extracting frames", total=len(videos), unit="videos") as bar, pool:
        try:
            for name, result in pool.run(
                ((name, task) for name, (task, _) in tasks.items()),
                watch=lambda name, at: bar.say(f"{tasks[name][1][0].id}: {_place(at)}"),
            ):
                task, group = tasks[name]
                sink.take(task, group, result)
                bar.advance(len(group), note=group[0].id)
            sink.close()
        except KeyboardInterrupt:
            sink.close()
            parts = 0
            for name, found in pool.hand_over(_HAND_OVER_S):
                task, group = tasks[name]
                if isinstance(found, Sampled):
                    sink.take(task, group, found)
                elif isinstance(found, Stopped) and isinstance(found.part, Unfinished) and found.part.jpegs:
                    place = writer.root / unfinished.name_of(task.path, task.track)
                    files.write_bytes(place, unfinished.pack(found.part))
                    parts += 1
            sink.close()
            began = f", and what was read of {parts} more" if parts else ""
            raise Interrupted(
                f"{done.ok} of {len(videos)} videos are saved in {str(writer.root)!r}{began}; "
                f"continue with: {options.command or 'the same command'}"
            ) from None


def _going_on(task: Task, root: Path, there: Collection[str]) -> Task:
    """Return a task that takes what an interrupted run kept of its file."""
    name = unfinished.name_of(task.path, task.track)
    return dataclasses.replace(task, unfinished=root / name) if name in there else task


def _place(at: Place) -> str:
    """Say how far a film is read: `decoded 0:12:31 of 2:40:00`."""
    of = f" of {_clock(at.of)}" if at.of > 0 else ""
    return f"{at.doing} {_clock(at.at)}{of}"


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=max(0, round(seconds))))


class _Sink:
    """Collects results and writes a shard when enough has come together."""

    def __init__(self, writer: FrameWriter, done: Tally):
        self._writer, self._done = writer, done
        self._stored = {clip.video for clip in writer.clips()}
        self._failed_before = set(writer.failures())
        self._clips: list[NewClip] = []
        self._videos: list[str] = []
        self._gone: set[str] = set()
        self._finished: set[str] = set()
        self._bytes, self._frames, self._last_flush = 0, 0, time.monotonic()

    def take(self, task: Task, group: Sequence[Video], result: Sampled | Unread) -> None:
        """Take what reading one file gave, for all the videos that are spans of it."""
        if task.unfinished is not None and not (isinstance(result, Unread) and result.kind == "transient"):
            self._finished.add(task.unfinished.name)  # of no more use once this is written
        if isinstance(result, Unread):
            for video in group:
                self._fail(video, result.reason, result.kind)
            return
        first, shared, ok = 0, _shared(result), len(self._videos)
        for video in group:
            last = first + len(video.spans) if video.spans else len(result.clips)
            self._take_video(video, result, first, last, shared)
            first = last if video.spans else 0
        if shared is not None and len(self._videos) > ok:
            self._bytes += sum(map(len, shared.jpegs))
            self._frames += len(shared.jpegs)
        full = self._bytes >= _SHARD_BYTES or len(self._clips) >= _SHARD_CLIPS
        if full or time.monotonic() - self._last_flush > _SHARD_S:
            self._flush()

    def close(self) -> None:
        """Write what is left, and forget what the store had of videos that can no longer be read."""
        self._flush()
        if self._gone:
            self._writer.change(lambda clip: None if clip.video in self._gone else clip)

    def _take_video(self, video: Video, result: Sampled, first: int, last: int, shared: Timeline | None) -> None:
        clips = result.clips[first:last]
        reason = next((clip.reason for clip in clips if clip.reason), "")
        if reason:
            self._fail(video, reason, "permanent")
            return
        if result.note:
            self._done.notes.append(VideoNote(video.id, result.note))
        about = result.container
        file = SourceFile(
            video.id, (video.source,), result.stamp, result.duration, about.rate, about.aspect, about.tracks
        )
        for i, clip in enumerate(clips):
            record = _record(video, i, clip.span, result, clip.n_frames, clip.damaged)
            stored = StoredClip(record, file, shard="", row=0, slots=clip.slots)
            self._clips.append(NewClip(stored, shared or Timeline(clip.jpegs, clip.ts)))
            self._bytes += sum(map(len, clip.jpegs))
            self._frames += len(clip.jpegs)
        self._videos.append(video.id)

    def _fail(self, video: Video, reason: str, kind: str) -> None:
        size, mtime_ns = 0, 0
        with contextlib.suppress(OSError):
            info = os.stat(video.path)
            size, mtime_ns = info.st_size, info.st_mtime_ns
        self._writer.add_failure(Failure(video.id, str(video.path), video.source, reason, kind, size, mtime_ns))
        self._done.failures.append(FailedVideo(video.id, reason))
        if video.id in self._stored:
            self._gone.add(video.id)
        log.logger.debug("failed: %s: %s", video.id, reason)

    def _flush(self) -> None:
        shard = self._writer.add(self._clips)
        # Only now: what the disk refuses is read again, and counted then.
        self._done.ok += len(self._videos)
        self._done.clips += len(self._clips)
        self._done.frames += self._frames
        if shard is not None:
            self._done.size_bytes += shard.size_bytes
        if solved := self._failed_before.intersection(self._videos):
            self._writer.clear_failures(solved)
        unfinished.remove(self._writer.root, self._finished)
        self._clips, self._videos, self._finished = [], [], set()
        self._bytes, self._frames, self._last_flush = 0, 0, time.monotonic()


def _shared(result: Sampled) -> Timeline | None:
    """Return the timeline that the clips of a file are views of, None where each has frames of its own."""
    found = result.timeline
    return None if found is None else Timeline(found.jpegs, found.ts, change=found.change)


def _record(video: Video, i: int, span: Span, result: Sampled, n_frames: int, damaged: int) -> ClipRecord:
    start, end = span.within(result.duration)
    return ClipRecord(
        id=video.clip_id(i, span),
        path=str(video.path),
        start=span.start,
        end=span.end,
        key=clip_key(result.sha256, span.start, span.end),
        file_id=file_id(video.id),
        source_sha256=result.sha256,
        n_frames=n_frames,
        duration=end - start,
        span=(start, end),
        width=result.width,
        height=result.height,
        decoder=result.decoder,
        truncated=result.truncated,
        damaged=damaged,
    )


def _videos_of(clips: Sequence[StoredClip]) -> list[Video]:
    """Return the videos that stored clips came from, each with exactly the clips given."""
    by_video: dict[str, list[StoredClip]] = {}
    for clip in clips:
        by_video.setdefault(clip.video, []).append(clip)
    videos = []
    for video_id in sorted(by_video):
        parts = by_video[video_id]
        spans = tuple(Span(c.record.start, c.record.end) for c in parts)
        ids = tuple(c.record.id for c in parts)
        track = parts[0].file.video.rpartition("#track=")[2]
        read = next((t.index for t in parts[0].file.tracks or () if t.read and str(t.index) == track), None)
        videos.append(Video(video_id, Path(parts[0].record.path), parts[0].source, spans, ids, track=read))
    return videos


def _provenance() -> dict[str, Any]:
    return {
        "tvr": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "decoders": dict(decoder_versions()),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
