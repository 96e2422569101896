"""One video in, JPEG frames of its clips out. Runs in a worker process; imports neither torch nor the store."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tvr_cli.errors import DecodeError
from tvr_cli.files import Stamp, sha256_file, stamp
from tvr_cli.plans import FramePlan
from tvr_cli.stores.decoding import alike
from tvr_cli.stores.decoding.alike import Thinning
from tvr_cli.stores.decoding.choose import decoder_versions, open_video
from tvr_cli.stores.decoding.types import Beat, Container, Decoder, DecoderName, Stop, unheard
from tvr_cli.stores.frames import unfinished
from tvr_cli.stores.frames.picture import to_store
from tvr_cli.stores.frames.unfinished import Unfinished
from tvr_cli.stores.frames.windows import Segmenting, Span, choose_frames, cut, timeline_frames, view

# A file of which a larger share of frames cannot be decoded is corrupt; below it the frames that can be are used.
_CORRUPT_SHARE = 0.1
_READS = 3  # of a file that is replaced, or still being written, while it is read


@dataclass(frozen=True, slots=True)
class Task:
    """One file to read. spans: the clips wanted; empty = the whole file, cut as `segmenting` says.

    track: number of the stream, None = the default one. unfinished: where an earlier reading left its pictures.
    """

    path: Path
    plan: FramePlan
    spans: tuple[Span, ...] = ()
    segmenting: Segmenting | None = None
    decoder: DecoderName = "auto"
    keep_truncated: bool = True
    track: int | None = None
    unfinished: Path | None = None


@dataclass(frozen=True, slots=True)
class SampledClip:
    """The frames of one span. reason: why there are none ("" = there are some).

    slots: which frames of the file's timeline they are, where the plan has one; `jpegs` and `ts` are empty then.
    """

    span: Span
    jpegs: list[bytes] = field(default_factory=list)
    ts: np.ndarray = field(default_factory=lambda: np.zeros(0))
    damaged: int = 0
    reason: str = ""
    slots: tuple[int, ...] | None = None

    @property
    def n_frames(self) -> int:
        return len(self.jpegs) if self.slots is None else len(self.slots)


@dataclass(frozen=True, slots=True)
class SampledTimeline:
    """The frames of a file, or of spans of it, by time: [n] each.

    ts: seconds. change: the median difference of a frame's cells from the frame before it (`alike.Thinning`); where the
    plan has details, `alike.largest_cuts`.
    """

    jpegs: list[bytes]
    ts: np.ndarray
    change: np.ndarray


@dataclass(frozen=True, slots=True)
class Sampled:
    """What reading a file gave. duration: seconds; width, height: upright frame before resizing.

    stamp: `files.stamp` before and after it was read. note: what people should know of the file, "" = nothing.
    timeline: the frames that the clips are views of, where the plan has one.
    """

    clips: list[SampledClip]
    sha256: str
    stamp: Stamp
    container: Container
    duration: float
    width: int
    height: int
    decoder: str
    truncated: bool
    note: str = ""
    timeline: SampledTimeline | None = None

    @property
    def jpegs(self) -> list[bytes]:
        """All pictures that are to be stored."""
        own = [jpeg for clip in self.clips for jpeg in clip.jpegs]
        return own if self.timeline is None else [*own, *self.timeline.jpegs]


def sample(task: Task, beat: Beat = unheard) -> Sampled:
    """Read a file and return the frames that its plan asks for.

    A file that changes while it is read is read again. Raises DecodeError when the file is not a video, is truncated
    (unless `keep_truncated`) or corrupt, and OSError when it cannot be opened or does not stay the same. Where `beat`
    raises Stop, its part is the `Unfinished` that was read so far.
    """
    for _ in range(_READS):
        before = stamp(task.path)
        try:
            found = _sample(task, before or (0, 0, 0, 0), beat)
        except Stop as stop:
            if stamp(task.path) != before:
                stop.part = None
            raise
        except DecodeError:
            if stamp(task.path) == before:
                raise
            continue
        if stamp(task.path) == before:
            return found
    raise OSError(f"it changed while it was read, {_READS} times; run again when it is no longer written")


def sample_timed(task: Task, beat: Beat = unheard) -> tuple[Sampled, float]:
    """Do what `sample` does and also return the processor time that it took, seconds."""
    started = time.process_time()
    return sample(task, beat), time.process_time() - started


def _sample(task: Task, seen: Stamp, beat: Beat) -> Sampled:
    """Read a file once, from where an earlier reading was stopped."""
    about = _about(task, seen)
    pictures = _Pictures.of(None if task.unfinished is None else unfinished.read(task.unfinished, about))
    try:
        return _read_whole(task, seen, beat, pictures)
    except Stop as stop:
        stop.part = Unfinished(pictures.jpegs, pictures.size, about, pictures.change)
        raise


def _about(task: Task, seen: Stamp) -> dict[str, Any]:
    """Return what a file's pictures depend on."""
    import PIL

    return {
        "path": str(task.path),
        "stamp": list(seen),
        "track": task.track,
        "plan": task.plan.identity(),
        "decoder": task.decoder,
        "versions": {**decoder_versions(), "pillow": PIL.__version__},
        # Which frames a timeline keeps depends on all that are read together.
        "spans": [[span.start, span.end] for span in task.spans] if task.plan.has_timelines else [],
    }


@dataclass
class _Pictures:
    """Pictures as they are decoded. jpegs: by number in a timeline. size: width, height of its upright frames.

    change: by number, of each frame that a plan with timelines decoded, whether or not its picture is kept.
    """

    jpegs: dict[int, bytes] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    change: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, part: Unfinished | None) -> _Pictures:
        return cls() if part is None else cls(dict(part.jpegs), part.size, dict(part.change))

    @property
    def decoded(self) -> set[int]:
        return self.jpegs.keys() | self.change.keys()

    def lost(self, chosen: Sequence[np.ndarray]) -> list[int]:
        """How many frames of each span could not be decoded."""
        decoded = self.decoded
        return [sum(int(i) not in decoded for i in c) for c in chosen]


def _read_whole(task: Task, seen: Stamp, beat: Beat, pictures: _Pictures) -> Sampled:
    """Read a file. pictures: those that are known of it already, and to which all others are added."""
    plan = task.plan
    decoder = open_video(task.path, task.decoder, look=plan.look, track=task.track, beat=beat)
    try:
        if decoder.timeline.truncated and not task.keep_truncated:
            raise DecodeError(f"{decoder.timeline.truncated}; without --refuse-truncated what is there is stored")
        spans = list(task.spans) or cut(decoder.timeline.end, task.segmenting)
        chosen = _read(decoder, spans, plan, pictures)
        lost = pictures.lost(chosen)
        if any(lost):
            decoder, problem = _good_frames_only(decoder)
            pictures = _Pictures()  # these count other frames
            spans = list(task.spans) or cut(decoder.timeline.end, task.segmenting)
            chosen = _read(decoder, spans, plan, pictures)
            if any(pictures.lost(chosen)):
                raise DecodeError(f"corrupt: frames cannot be decoded ({problem})")
            lost = lost if len(lost) == len(spans) else [0] * len(spans)
        clip = _view if plan.has_timelines else _clip
        return Sampled(
            clips=[clip(s, c, pictures, decoder, plan, n) for s, c, n in zip(spans, chosen, lost, strict=True)],
            timeline=_timeline(pictures, decoder, plan) if plan.has_timelines else None,
            sha256=track_sha256(sha256_file(task.path, each_block=beat), task.track),
            stamp=seen,
            container=decoder.container,
            duration=decoder.timeline.end,
            width=pictures.size[0],
            height=pictures.size[1],
            decoder=decoder.name,
            truncated=decoder.timeline.truncated is not None,
            note=_note(decoder, task.track),
        )
    finally:
        decoder.close()


def track_sha256(sha256: str, track: int | None) -> str:
    """Return what the content of a track is known by: of the default one (None) that of the file."""
    return sha256 if track is None else hashlib.sha256(f"{sha256}#track={track}".encode()).hexdigest()


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Encode [H, W, 3] uint8 RGB as a baseline JPEG with 4:2:0 chroma."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality, subsampling="4:2:0")
    return out.getvalue()


def _read(decoder: Decoder, spans: Sequence[Span], plan: FramePlan, pictures: _Pictures) -> list[np.ndarray]:
    """Return the chosen frame numbers of each span, and add to `pictures` each of them that decodes."""
    timeline, thin = decoder.timeline, None
    if plan.has_timelines:
        chosen = timeline_frames(timeline.ts, timeline.end, spans, plan)
        thin = Thinning(plan.alike, plan.fps or 1.0, plan.detail)
    else:
        chosen = [choose_frames(timeline.ts, timeline.end, span, plan) for span in spans]
    missing = {int(i) for c in chosen for i in c} - pictures.decoded
    if thin is not None and pictures.change:  # what the next frame is compared with has to be seen again
        thin.go_on((float(timeline.ts[i]), pictures.change[i], i in pictures.jpegs) for i in sorted(pictures.change))
        missing |= {max(pictures.jpegs), max(pictures.change)}
    for i, pixels in decoder.frames(sorted(missing)):
        pictures.size = (pixels.shape[1], pixels.shape[0])
        picture, keeps = to_store(pixels, plan), True
        if thin is not None and i in pictures.change:
            thin.see_again(picture, i in pictures.jpegs)
            continue
        if thin is not None:
            keeps, pictures.change[i] = thin.take(picture, float(timeline.ts[i]))
        if keeps:
            pictures.jpegs[i] = encode_jpeg(picture, plan.quality)
    return chosen


def _good_frames_only(decoder: Decoder) -> tuple[Decoder, str]:
    """Return a decoder whose timeline has only the frames that decode. Raises DecodeError when too many do not."""
    expected = len(decoder.timeline)
    problem = decoder.problem
    decoder.close()
    good = decoder.sequential()
    problem = problem or good.problem
    if len(good.timeline) < (1 - _CORRUPT_SHARE) * expected:
        good.close()
        raise DecodeError(f"corrupt: only {len(good.timeline)} of {expected} frames can be decoded ({problem})")
    return good, problem


def _note(decoder: Decoder, track: int | None) -> str:
    """Say what is noteworthy: a recording that broke off, whether or not its header says so, or other tracks."""
    others = sum(t.kind == "video" for t in decoder.container.tracks) - 1
    several = f"{others + 1} video tracks, one is read; --tracks all reads each" if others > 0 and track is None else ""
    missing = decoder.timeline.truncated
    short = f"{missing}, or that header is wrong; what is there is stored" if missing else ""
    if not missing and decoder.container.endless:
        held = f"the file holds {decoder.timeline.end:.1f} s"
        short = f"the header declares no length, as where a recording broke off, {held}; what is there is stored"
    return "; ".join(filter(None, (short, several)))


def _clip(
    span: Span, chosen: np.ndarray, pictures: _Pictures, decoder: Decoder, plan: FramePlan, lost: int
) -> SampledClip:
    """Return a clip that has frames of its own."""
    if not len(chosen):
        return _nothing(span, decoder)
    return SampledClip(span, [pictures.jpegs[int(i)] for i in chosen], decoder.timeline.ts[chosen], lost)


def _view(
    span: Span, chosen: np.ndarray, pictures: _Pictures, decoder: Decoder, plan: FramePlan, lost: int
) -> SampledClip:
    """Return a clip as a view of the timeline."""
    if not len(chosen):
        return _nothing(span, decoder)
    ts = decoder.timeline.ts[sorted(pictures.jpegs)]
    return SampledClip(span, damaged=lost, slots=view(ts, span.within(decoder.timeline.end), plan.num_frames))


def _timeline(pictures: _Pictures, decoder: Decoder, plan: FramePlan) -> SampledTimeline:
    kept, ts = sorted(pictures.jpegs), decoder.timeline.ts
    if plan.detail is None:
        change = [pictures.change[i] for i in kept]
    else:
        seen = sorted(pictures.change)
        changes, keeps = [pictures.change[i] for i in seen], [i in pictures.jpegs for i in seen]
        change = alike.largest_cuts(ts[seen].tolist(), changes, keeps)
    return SampledTimeline([pictures.jpegs[i] for i in kept], ts[kept], np.array(change, dtype=np.float32))


def _nothing(span: Span, decoder: Decoder) -> SampledClip:
    start, end = span.within(float("inf"))
    ends = decoder.timeline.end
    return SampledClip(span, reason=f"no frame between {start:g} s and {end:g} s: it ends at {ends:.2f} s")
