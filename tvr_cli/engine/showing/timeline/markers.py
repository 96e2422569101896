"""A list of the moments as CSV, for a spreadsheet or a script: seconds, and the timecode of each file."""

from __future__ import annotations

import csv
import io

from tvr_cli.engine.showing.timeline.edit import Edit, Event
from tvr_cli.engine.showing.timeline.timecode import to_timecode

COLUMNS = (
    *("number", "query", "rank", "score", "file", "start_s", "end_s", "peak_s", "rate"),
    *("timecode_in", "timecode_out", "timecode_peak", "channel", "said"),
)


def to_csv(edit: Edit) -> bytes:
    """Return the file, UTF-8: a row a moment. `timecode_out` is that of the frame behind the last one, as in an EDL."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    rows.writerows(_row(event) for event in edit.events)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _row(event: Event) -> list[object]:
    hit, media = event.hit, event.media

    def timecode(frame: int) -> str:
        return to_timecode(media.start + frame, media.rate, drop=media.drop)

    return [
        event.number, event.query, hit.rank, hit.score, hit.path, hit.start, hit.end, hit.peak,
        f"{media.rate.numerator}/{media.rate.denominator}", timecode(event.first), timecode(event.first + event.count),
        timecode(event.peak), hit.channel, hit.said or "",
    ]  # fmt: skip
