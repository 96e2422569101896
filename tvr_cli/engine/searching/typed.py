"""What parts of a question look like where they are typed: weights, pictures, moments and their seconds. No torch.

a dog                     words                 2:a dog                   words that count twice
image:beach.jpg           a picture             0.5:like:film.mp4@3-4.5   a moment, that counts half
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from tvr_cli import commands
from tvr_cli.engine.searching.question import Part, Picture, Question, Sentence, Stretch, What
from tvr_cli.errors import ConfigError
from tvr_cli.files import is_text

# What stands before a colon and means to be a number; "12:30 at noon" has to be said as "1:12:30 at noon".
_WEIGHT = re.compile(r"\s*([-+]?[\d.,]+(?:e[-+]?\d+)?|[-+]?(?:nan|inf|infinity))\s*:(.*)", re.IGNORECASE | re.DOTALL)
_SPAN = re.compile(r"(.*)@([\d:.]+)-([\d:.]+)", re.DOTALL)
_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)")


def questions(
    sentences: Sequence[str],
    *,
    images: Sequence[str | os.PathLike[str]] = (),
    likes: Sequence[str] = (),
    plus: Sequence[str] = (),
    minus: Sequence[str] = (),
) -> list[Question]:
    """Return a question for each sentence, with the other parts added to it; without sentences, one of these.

    Raises ConfigError for nothing to look for, and for what cannot be asked.
    """
    if not (sentences or images or likes or plus or minus) or not all(text.strip() for text in sentences):
        example = commands.tvr("query", "a dog surfing")
        raise ConfigError(f"expected a sentence to look for, found an empty one; for example: {example}")
    if unreadable := [text for text in sentences if not is_text(text)]:
        raise ConfigError(f"expected sentences in UTF-8, found {unreadable[0]!r}; convert them, for example with iconv")
    more = [_weighed("--image", os.fspath(path), _picture) for path in images]
    more += [_weighed("--like", text, stretch) for text in likes]
    more += [_weighed("--plus", text, _any) for text in plus]
    less = [_weighed("--minus", text, _any) for text in minus]
    taken = [Part(part.what, -part.weight) for part in less]
    if not sentences and not more:
        raise ConfigError("expected something to look for beside what --minus takes off, found nothing")
    if not more and not taken:
        return [Question((Part(Sentence(text)),)) for text in sentences]
    if not sentences:
        return [Question((*more, *taken))]
    return [Question((_weighed("a sum", text, _sentence), *more, *taken)) for text in sentences]


def stretch(text: str) -> Stretch:
    """Return the seconds of a file that `PATH` or `PATH@START-END` means. Raises ConfigError."""
    found = _SPAN.fullmatch(text)
    if found is None:
        return Stretch(text)
    start, end = seconds(found[2]), seconds(found[3])
    if not start < end:
        raise ConfigError(f"expected a moment that ends after it starts, found {text!r}")
    return Stretch(found[1], start, end)


def seconds(text: str) -> float:
    """Return the seconds that `75`, `1:15` or `0:01:15.5` means. Raises ConfigError."""
    found = _CLOCK.fullmatch(text)
    if found is None:
        raise ConfigError(f"expected seconds such as 75.5, or h:mm:ss such as 0:01:15.5, found {text!r}")
    return 3600 * int(found[1] or 0) + 60 * int(found[2] or 0) + float(found[3])


def _weighed(flag: str, text: str, read: Callable[[str], What]) -> Part:
    found = _WEIGHT.fullmatch(text)
    weight, what = (1.0, text) if found is None else (_weight(flag, found[1], text), found[2])
    if not what.strip():
        raise ConfigError(f"{flag}: expected something to look for, found {text!r}")
    if not is_text(what):
        raise ConfigError(f"{flag}: expected text in UTF-8, found {text!r}; convert it, for example with iconv")
    return Part(read(what), weight)


def _weight(flag: str, said: str, text: str) -> float:
    try:
        weight = float(said)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        less = "; --minus takes something off" if weight < 0 else ""
        raise ConfigError(
            f"{flag}: expected a weight above 0 before the colon, such as 2 or 0.5, found {said!r} in {text!r}{less}"
        )
    return weight


def _any(text: str) -> What:
    kind, colon, rest = text.partition(":")
    if colon and kind in ("image", "like") and not rest.strip():
        example = "image:beach.jpg" if kind == "image" else "like:film.mp4@3-4.5"
        raise ConfigError(f"expected a file behind {text!r}, such as {example}")
    if colon and kind == "image":
        return _picture(rest)
    return stretch(rest) if colon and kind == "like" else _sentence(text)


def _picture(text: str) -> Picture:
    return Picture(Path(text))


def _sentence(text: str) -> Sentence:
    return Sentence(text.strip())
