"""What is asked: a sentence, a picture, a moment of the library, or a sum of such parts with weights. No torch.

A part is a direction among the features of the library's frames; a sum is that of its parts' unit vectors, each times
its weight. One plain sentence is a question too, and the only kind that words and a method's own rules can answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvr_cli.errors import ConfigError

# Below this length nothing is left of unit vectors that were taken from each other but rounding.
_NOTHING = 1e-3


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Picture:
    """A file with a picture, of anywhere."""

    path: Path

    def __str__(self) -> str:
        return f"image:{self.path}"


@dataclass(frozen=True, slots=True)
class Stretch:
    """Seconds of a file of the library. video: its id or path. start, end: None = all of it."""

    video: str
    start: float | None = None
    end: float | None = None

    def __str__(self) -> str:
        span = "" if self.start is None or self.end is None else f"@{self.start:g}-{self.end:g}"
        return f"like:{self.video}{span}"


What = Sentence | Picture | Stretch


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a sum. weight: not 0; what is negative is taken off."""

    what: What
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Question:
    """What one answer is to; it has a part or more."""

    parts: tuple[Part, ...]

    @property
    def sentence(self) -> str | None:
        """The sentence, where it is nothing else."""
        first = self.parts[0]
        alone = len(self.parts) == 1 and first.weight > 0
        return first.what.text if alone and isinstance(first.what, Sentence) else None

    @property
    def of_words(self) -> bool:
        """Whether all of it is said in sentences."""
        return all(isinstance(part.what, Sentence) for part in self.parts)

    @property
    def text(self) -> str:
        """How a report calls it: the sentence, or the sum as it may be typed."""
        if self.sentence is not None:
            return self.sentence
        said = ""
        for part in self.parts:
            sign = ("- " if part.weight < 0 else "") if not said else (" - " if part.weight < 0 else " + ")
            said += f"{sign}{'' if abs(part.weight) == 1 else f'{abs(part.weight):g}:'}{part.what}"
        return said

    def whats(self) -> list[What]:
        """Return what its parts are about, in their order."""
        return [part.what for part in self.parts]


def asking(asked: str | Question) -> Question:
    """Return the question that a sentence is; a question as it is."""
    return asked if isinstance(asked, Question) else Question((Part(Sentence(asked)),))


def sentences_of(questions: Sequence[Question]) -> list[str]:
    """Return all sentences in some questions, each once."""
    said = (what.text for question in questions for what in question.whats() if isinstance(what, Sentence))
    return list(dict.fromkeys(said))


def features_of(question: Question, features: Callable[[What], np.ndarray]) -> np.ndarray:
    """Return the features [D] of a question by those of its parts; a sum is as long as its parts are on average.

    Raises ConfigError for parts that leave nothing of each other.
    """
    if len(question.parts) == 1 and question.parts[0].weight > 0:
        return features(question.parts[0].what)
    parts = [(part.weight, features(part.what)) for part in question.parts]
    weights = np.array([weight for weight, _ in parts])
    lengths = np.array([np.linalg.norm(vector) for _, vector in parts])
    total = sum(weight * vector / length for (weight, vector), length in zip(parts, lengths, strict=True) if length)
    length = float(np.linalg.norm(total))
    if not length > _NOTHING * float(np.abs(weights).sum()):
        raise ConfigError(f"expected something to look for, found a sum of which nothing is left: {question.text}")
    mean = float((np.abs(weights) * lengths).sum() / np.abs(weights).sum())
    return np.asarray(mean / length * total, dtype=np.float32)
