"""Why a file answers a sentence: what `tvr explain` reports. Here, for who asks a server for it needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tvr_cli.results.base import OPTIONAL, Result


@dataclass(frozen=True, slots=True)
class WordShare:
    """What a word of the sentence does. contribution: to the score of the moment. values: to the curve, at its `ts`."""

    word: str
    contribution: float
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class ClipShare:
    """A clip of the file. ts: seconds of its frames; weights: of each in the clip's score, as the method explains."""

    start: float
    end: float
    score: float
    ts: Sequence[float]
    weights: Sequence[float]


@dataclass(frozen=True)
class ExplainReport(Result):
    """Why a file answers a sentence, or does not.

    seconds: the file's length. score, start, end, peak: of the best moment in what was asked about. ts, values: the
    curve, on the scale of the scores, from `low` on. clips: none of a file whose single frames score (frames by time).
    head: the run of the moment head whose scores these are, else they are the method's.
    """

    schema = "explain"
    sentence: str
    video_id: str
    path: str
    method: str
    run: str | None
    seconds: float
    score: float
    start: float
    end: float
    peak: float
    low: float
    high: float
    ts: Sequence[float]
    values: Sequence[float]
    words: Sequence[WordShare]
    clips: Sequence[ClipShare]
    head: str | None = field(default=None, metadata=OPTIONAL)

    @property
    def by(self) -> str:
        """Whose scores these are, in words."""
        if self.head is not None:
            return f"the moment head {self.head!r}"
        return f"{self.method}{f' (run {self.run})' if self.run else ''}"
