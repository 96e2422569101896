"""What hears words in sound: faster-whisper, the one file that imports it (the extra `[speech]`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tvr_cli.errors import DataError, EnvironmentProblem, reason

PACKAGE = "faster-whisper"


@dataclass(frozen=True, slots=True)
class Word:
    """A word, with the blank before it where its script has blanks, and its seconds in the sound."""

    start: float
    end: float
    text: str


class Listener(Protocol):
    """What hears words. A test has one of its own."""

    def hear(self, path: Path, language: str | None) -> tuple[str, Iterator[Word]]:
        """Return the language that is spoken in a file, guessed where none is named, and the words as they come.

        Raises DataError for a file whose sound cannot be read, at once or on the way.
        """


class Whisper:
    """faster-whisper with one model."""

    def __init__(self, model: Any):
        self._model = model

    def hear(self, path: Path, language: str | None) -> tuple[str, Iterator[Word]]:
        try:
            segments, info = self._model.transcribe(
                str(path), language=language, word_timestamps=True, vad_filter=True, condition_on_previous_text=False
            )
        except Exception as e:  # a stranger's file in the hands of three libraries: it is this file that cannot be read
            raise DataError(f"its sound cannot be read ({reason(e)})") from e
        return info.language, self._words(segments)

    def _words(self, segments: Any) -> Iterator[Word]:
        try:
            for segment in segments:
                if segment.words is None:
                    raise EnvironmentProblem(
                        f"{PACKAGE} gave no seconds of words; update it: pip install -U 'tvr-cli[speech]'"
                    )
                yield from (Word(word.start, word.end, word.word) for word in segment.words)
        except EnvironmentProblem:
            raise
        except Exception as e:
            raise DataError(f"its sound cannot be read ({reason(e)})") from e


def load(model: str, *, device: str, offline: bool) -> Whisper:
    """Return what hears with a model: a name that faster-whisper knows, a repository of the hub, or a folder.

    device: auto, cpu or cuda. offline: never touch the network. Raises EnvironmentProblem without the package, or
    without the weights.
    """
    try:
        from faster_whisper import WhisperModel
    except ImportError as e:
        raise EnvironmentProblem(f"transcribing needs {PACKAGE}: pip install 'tvr-cli[speech]'") from e
    try:
        return Whisper(WhisperModel(model, device=device, compute_type="default", local_files_only=offline))
    except Exception as e:
        where = "is not on this machine, and --offline was said" if offline else "cannot be loaded"
        raise EnvironmentProblem(f"the model {model!r} {where} ({reason(e)}); name another one with --model") from e
