"""What a search has found: what `tvr query` reports. Here, for who asks a server for it needs no numpy."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tvr_cli.results.base import OPTIONAL, Result
from tvr_cli.results.shown import SavedClips, SavedTimeline


@dataclass(frozen=True, slots=True)
class Curve:
    """How well each second of a file fits a sentence (`curves.py`).

    ts: seconds of the file, ascending. values: on the scale of the scores, one a second of `ts`. low, high: the lowest
    and the highest score that the sentence has in the library.
    """

    ts: Sequence[float]
    values: Sequence[float]
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer: a moment. start, end, peak: seconds in the file at `path`; peak is where it is found best.

    confidence: how rare such a score is where nothing is, 0 to 1; None where the index cannot tell, and of what was
    found by what is said alone. more: how many moments of the same file score better than the last one shown and were
    left out, because a file gets only so many places. missing: the file is not at `path` any more (renamed, moved or
    deleted since), or never was (`why_missing`). channel: what found it: `picture`, `speech` or `both`. said: the words
    that were found, of the latter two. curve: that of its file, where it was asked for and the picture was searched.
    """

    rank: int
    score: float
    video_id: str
    path: str
    start: float
    end: float
    peak: float
    confidence: float | None = None
    more: int = 0
    missing: bool = False
    channel: str = "picture"
    said: str | None = field(default=None, metadata=OPTIONAL)
    curve: Curve | None = field(default=None, metadata=OPTIONAL)

    @property
    def percent(self) -> int | None:
        """`confidence` in whole per cent, rounded down: what is just below a line is shown below it."""
        return None if self.confidence is None else math.floor(100 * self.confidence + 1e-9)

    @property
    def why_missing(self) -> str:
        """See the function of that name; of what is missing alone."""
        return why_missing(self.path)


@dataclass(frozen=True)
class Answer:
    """The best moments of one question, best first. query: the question in words (`Question.text`).

    hits: what was found. found: whether anything was. confidence: the largest that a moment has; None where the index
    cannot tell, or was not asked. nearest: moments of less confidence than hits have, as far as an answer has place;
    their ranks go on.
    """

    query: str
    hits: Sequence[Hit]
    found: bool
    confidence: float | None
    nearest: Sequence[Hit]

    @property
    def places(self) -> int:
        """How many moments there are down to the last one, with those that files had no place for."""
        shown = [*self.hits, *self.nearest]
        return len(shown) + sum({hit.video_id: hit.more for hit in shown}.values())

    @staticmethod
    def of(query: str, moments: Sequence[Hit], least: float | None) -> Answer:
        """Return an answer of moments, best first. least: the confidence of a hit, None = every moment is one.

        What is said is heard or not: what was found by it is a hit, and so is a moment of an index that cannot tell.
        """
        sure = [
            least is None or m.channel != "picture" or m.confidence is None or m.confidence >= least for m in moments
        ]
        hits = list(itertools.compress(moments, sure))
        nearest = list(itertools.compress(moments, (not one for one in sure)))
        told = [moment.confidence for moment in moments if moment.confidence is not None]
        ranked = [replace(moment, rank=rank) for rank, moment in enumerate([*hits, *nearest], 1)]
        return Answer(query, ranked[: len(hits)], bool(hits), max(told, default=None), ranked[len(hits) :])


@dataclass(frozen=True)
class QueryReport(Result):
    """An answer to each question, in the order asked. clips, timeline: what its moments were written as."""

    schema, version = "query", 2
    results: Sequence[Answer]
    clips: SavedClips | None = field(default=None, metadata=OPTIONAL)
    timeline: SavedTimeline | None = field(default=None, metadata=OPTIONAL)

    @property
    def missing(self) -> list[str]:
        """The paths among the hits that are no file, or none any more, each once."""
        return list(dict.fromkeys(hit.path for answer in self.results for hit in answer.hits if hit.missing))

    def without_curves(self) -> QueryReport:
        """Return the report as one that was not asked for curves."""
        bare = [
            replace(
                answer,
                hits=[replace(hit, curve=None) for hit in answer.hits],
                nearest=[replace(hit, curve=None) for hit in answer.nearest],
            )
            for answer in self.results
        ]
        return replace(self, results=bare)


def why_missing(path: str) -> str:
    """Say why a path is no file: features can be imported without their videos, and an id is the path then."""
    return "not there any more" if os.path.isabs(path) else "imported without its file"
