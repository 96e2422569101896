"""The moments of an answer one after another, in frames: what every writer of a timeline is given."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from tvr_cli.engine.showing.clips import track_of
from tvr_cli.engine.showing.timeline.media import Media, read_media
from tvr_cli.engine.showing.timeline.timecode import from_timecode, may_drop, sequence_rate
from tvr_cli.errors import DataError, TvrError
from tvr_cli.results.found import Hit, QueryReport
from tvr_cli.results.shown import LeftOut

# Times closer than this are the same: containers round to a thousandth of a second.
_SAME_S = Fraction(1, 1000)


@dataclass(frozen=True, slots=True)
class Event:
    """A moment in a timeline.

    first, count, peak: frames of its file at the file's rate, from the file's first frame on. at, length: frames of the
    sequence, from its first frame on. source_at, source_peak: where in the file it begins and is best, in frames of the
    sequence's rate.
    """

    number: int
    query: str
    hit: Hit
    media: Media
    first: int
    count: int
    peak: int
    at: int
    length: int
    source_at: int
    source_peak: int


@dataclass(frozen=True, slots=True)
class Edit:
    """A sequence. start: the frame that its timecode begins at, an hour. drop: of its timecode.

    notes: what an editor will not find as in the files.
    """

    name: str
    rate: Fraction
    start: int
    drop: bool
    events: Sequence[Event]
    left_out: Sequence[LeftOut]
    notes: Sequence[str]

    @property
    def length(self) -> int:
        return sum(event.length for event in self.events)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height: those of the first moment."""
        return self.events[0].media.width, self.events[0].media.height


def make_edit(report: QueryReport) -> Edit:
    """Put the moments of all answers one after another, at the rate of most of them.

    There is one at least. Files that cannot be read are left out. Raises DataError where nothing is left.
    """
    hits = [(answer.query, hit) for answer in report.results for hit in answer.hits]
    media: dict[tuple[str, int | None], Media | str] = {}
    for _, hit in hits:
        if (hit.path, track_of(hit.video_id, hit.path)) not in media:
            media[hit.path, track_of(hit.video_id, hit.path)] = _read(hit)
    wanted = [
        (number, query, hit, found)
        for number, (query, hit) in enumerate(hits, 1)
        if isinstance(found := media[hit.path, track_of(hit.video_id, hit.path)], Media)
    ]
    left_out = [LeftOut(path, found) for (path, _), found in media.items() if isinstance(found, str)]
    if not wanted:
        raise DataError(f"expected moments to put into a timeline, found none: {left_out[0].problem}")
    counted = Counter(sequence_rate(m.rate) for *_, m in wanted)  # of as many the first
    rate = counted.most_common(1)[0][0]
    drop = may_drop(rate) and any(m.drop for *_, m in wanted if m.rate == rate)
    begins = from_timecode("01:00:00;00" if drop else "01:00:00:00", rate)
    assert begins is not None
    events: list[Event] = []
    at = 0
    for number, query, hit, found in wanted:
        events.append(_event(number, query, hit, found, rate, at))
        at += events[-1].length
    name = report.results[0].query if len(report.results) == 1 else f"{len(report.results)} answers"
    return Edit(name, rate, begins[0], drop, events, left_out, _notes(rate, events))


def shown_rate(rate: Fraction) -> str:
    """Return a rate as people write it: 25, 23.976, 29.97."""
    return f"{float(rate):.5g}"


def _read(hit: Hit) -> Media | str:
    if hit.missing:
        return f"{hit.path!r} is {hit.why_missing}"
    try:
        return read_media(Path(hit.path), track_of(hit.video_id, hit.path))
    except TvrError as e:
        return str(e)


def _event(number: int, query: str, hit: Hit, media: Media, rate: Fraction, at: int) -> Event:
    first, last = _frames(hit, media.rate, media.frames)
    peak = min(max(first, math.floor((Fraction(hit.peak) + _SAME_S) * media.rate)), last - 1)
    if media.rate == rate:
        return Event(number, query, hit, media, first, last - first, peak, at, last - first, first, peak)
    source_at, source_last = _frames(hit, rate, max(1, math.floor(media.frames / media.rate * rate)))
    source_peak = min(max(source_at, math.floor((Fraction(hit.peak) + _SAME_S) * rate)), source_last - 1)
    length = source_last - source_at
    return Event(number, query, hit, media, first, last - first, peak, at, length, source_at, source_peak)


def _frames(hit: Hit, rate: Fraction, frames: int) -> tuple[int, int]:
    """Return the first frame of a moment, and the one behind its last, on a grid of some rate: one frame at least."""
    first = min(max(0, math.floor((Fraction(hit.start) + _SAME_S) * rate)), frames - 1)
    return first, min(max(first + 1, math.ceil((Fraction(hit.end) - _SAME_S) * rate)), frames)


def _notes(rate: Fraction, events: Sequence[Event]) -> list[str]:
    notes = []
    others = sorted({e.media.rate for e in events} - {rate})
    if others:
        said = ", ".join(shown_rate(other) for other in others)
        alike = sum(event.media.rate == rate for event in events)
        why = f"as {alike} of {len(events)} moments have" if alike else "the nearest that editors know"
        notes.append(
            f"the sequence has {shown_rate(rate)} frames a second, {why}; of files at {said} an editor shows the "
            "nearest frames"
        )
    varying = sorted({e.media.name for e in events if e.media.varies})
    if varying:
        notes.append(
            f"frames of {varying[0]!r}{' and others' if len(varying) > 1 else ''} do not follow each other evenly; an "
            "editor that counts them may show it some frames off"
        )
    return notes
