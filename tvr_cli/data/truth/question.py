"""What truth about moments says: questions, each with its true moments. Seconds are in the video's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Format = Literal["jsonl", "qvhighlights", "charades-sta", "activitynet-captions", "didemo", "tvr-ranking"]
FORMATS: tuple[Format, ...] = (
    "jsonl", "qvhighlights", "charades-sta", "activitynet-captions", "didemo", "tvr-ranking",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Moment:
    """Seconds `start` to `end` of a video. grade: how well they answer, where truth is graded."""

    video: str
    start: float
    end: float
    grade: float = 1.0


@dataclass(frozen=True, slots=True)
class Question:
    """A query and every moment that answers it; none = it is absent.

    id: unique in its file. video: the one video that is asked, None = the whole library is. source: where it stands,
    for messages. segments: DiDeMo's, an annotator's each: first and last of the video's pieces of five seconds.
    """

    id: str
    text: str
    video: str | None
    moments: tuple[Moment, ...]
    source: str
    segments: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Truth:
    """What a file of truth holds. durations: of videos, in seconds, where it says them. notes: what was left out."""

    format: Format
    path: Path
    questions: tuple[Question, ...]
    durations: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def videos(self) -> list[str]:
        """Return the videos that it names, each once, in the order of the file."""
        named = (
            name
            for question in self.questions
            for name in (question.video, *(moment.video for moment in question.moments))
        )
        return [name for name in dict.fromkeys(named) if name is not None]
