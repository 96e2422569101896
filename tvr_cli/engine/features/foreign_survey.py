"""What files of somebody else's features hold, before anything is written: a pass over all of them.

Letters: F frames, D features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvr_cli.data.annotation_files import video_stem
from tvr_cli.engine.features import foreign
from tvr_cli.errors import DataError
from tvr_cli.imported import Imported
from tvr_cli.log import progress, warn_once
from tvr_cli.stores.features.rows import clip_row_key
from tvr_cli.stores.foreign import clip_video_encode
from tvr_cli.stores.foreign.sample import Sample
from tvr_cli.stores.frames.store import ClipRecord
from tvr_cli.types import Manifest, clip_key

DECODER = "imported"  # what stands in a clip's record in place of who read its file


@dataclass(frozen=True)
class Video:
    """A video as the files have it, without its array. name: what they call it; the record has the data set's id."""

    record: ClipRecord
    name: str

    @property
    def row_key(self) -> str:
        return clip_row_key(self.record.key, self.record.n_frames)


@dataclass(frozen=True)
class Survey:
    """All videos of the files, by id. dim: D. single: one vector a video, no frames. half: float16 holds all of it.

    left_out: videos that the data set does not know.
    """

    videos: Sequence[Video]
    dim: int
    single: bool
    half: bool
    left_out: int


def _known(manifest: Manifest) -> dict[str, tuple[str, Path | None]]:
    """Return id and file of each video of a data set by its bare stem."""
    there = {clip.id: clip.path for clip in manifest.clips}
    ids = dict.fromkeys((*there, *manifest.missing, *(caption.video for caption in manifest.captions)))
    return {video_stem(video): (video, there.get(video)) for video in ids}


def survey(
    paths: Sequence[Path], plan: Imported, manifest: Manifest | None = None, *, ignore_unknown: bool = False
) -> Survey:
    """Read every file once and keep what is said of each video.

    manifest: the data set, whose ids they get. ignore_unknown: leave out videos that it does not know. Raises what
    `foreign.each` raises, and DataError for unknown videos, for two names of one, and where nothing says when frames
    stand.
    """
    known = None if manifest is None else _known(manifest)
    videos, unknown, old = list[Video](), list[str](), list[str]()
    first: Sample | None = None
    half = True
    with progress("reading features", unit="videos") as bar:
        for sample in foreign.each(paths):
            bar.advance()
            first = first or sample
            if clip_video_encode.swapped(sample.written):
                old.append(sample.video)
            half = half and sample.features.dtype == np.float16
            if known is not None and video_stem(sample.video) not in known:
                unknown.append(sample.video)
                continue
            named, path = (sample.video, None) if known is None else known[video_stem(sample.video)]
            videos.append(Video(_record(named, path, sample, plan), sample.video))
    assert first is not None, "files without a sample are refused"
    if unknown and (not videos or not ignore_unknown):
        fix = "" if not videos else "; --ignore-unknown leaves them out"
        raise DataError(
            f"{len(unknown)} of {len(unknown) + len(videos)} videos of the features (first: {unknown[0]!r}) are not of "
            f"the data set: features of another one, or of another variant or split{fix}"
        )
    if twice := _twice(video.record.id for video in videos):
        raise DataError(f"two arrays are of the video {twice!r}, under different names; leave one out")
    if old:
        warn_once(
            f"{len(old)} samples (first: {old[0]!r}) were written before 2022-11-01, when clip-video-encode still read "
            "frames with red and blue swapped (video2numpy's commit daf36dc mended it): these features are most likely "
            "of wrong colours, and score lower; take a newer revision"
        )
    ordered = sorted(videos, key=lambda video: video.record.id)
    return Survey(ordered, first.features.shape[-1], first.features.ndim == 1, half, len(unknown))


def _record(video: str, path: Path | None, sample: Sample, plan: Imported) -> ClipRecord:
    """Return what a store knows of a video. Raises DataError where nothing says when its frames stand."""
    total, duration = len(sample.frames), sample.duration
    if duration is None and plan.fps is not None:
        duration = total / plan.fps
    if duration is None and sample.features.ndim == 2 and total > 1:
        raise DataError(
            f"{sample.file}: nothing says when the {total} frames of {sample.video!r} stand; give their rate with "
            "--fps, as 1 for a frame a second (scores of whole videos do not look at times)"
        )
    taken = total if plan.num_frames is None else min(total, plan.num_frames)
    return ClipRecord(
        id=video,
        path=video if path is None else str(path.resolve()),
        start=None,
        end=None,
        key=clip_key(sample.sha256, None, sample.duration),  # the duration decides when its frames stand
        file_id=video,
        source_sha256=sample.sha256,
        n_frames=taken,
        duration=duration or 0.0,
        span=(0.0, duration or 0.0),
        width=0,
        height=0,
        decoder=DECODER,
        truncated=False,
    )


def times(total: int, record: ClipRecord, fps: float | None) -> np.ndarray:
    """Return the seconds [F] of all frames that a file has of a video: i / fps, else spread evenly."""
    at = np.arange(total, dtype=np.float64)
    return at / fps if fps is not None else (at + 0.5) * record.duration / total


def _twice(names: Iterable[str]) -> str | None:
    """Return the first name that occurs twice."""
    seen = set[str]()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
