"""Talking to people: the logger, warnings that are said once, and the progress facade. Everything goes to stderr.

Layers below `cli` use `logger`, `warn_once` and `progress` and never know whether anyone watches. `cli` calls `set_up`
once per command and `finish` at its end; `api` says with `watched` who is told of progress. File names, captions and
what libraries say may hold any character: whatever is shown, here and in `cli.render`, goes through `printable`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar

# Told what is being done, how much of it is done, and of how much (None where that is not known).
Watcher = Callable[[str, int, int | None], None]

logger = logging.getLogger("tvr")

_state = {"bars": False, "person": False}
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


class _Audience:
    """Who hears what is said, and what they were told. repeats: how often each warning came."""

    def __init__(self) -> None:
        self.said: set[str] = set()
        self.repeats: Counter[str] = Counter()


_everybody = _Audience()
_listening: ContextVar[_Audience] = ContextVar("listening", default=_everybody)


def printable(text: str) -> str:
    """Escape what would break a line or steer the terminal, as Python writes it: `\\x1b`, `\\n`, `\\u202e`, `\\udcff`.

    That is every control character, also of Unicode (direction, joiners, odd blanks), half surrogates (bytes of a name
    that are no UTF-8) and characters without a meaning yet. The result has one line and is left alone a second time.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def clock(seconds: float) -> str:
    """Write a position in a video to a tenth of a second: 0:07.5, 12:34.0, 1:02:03.1."""
    tenths = round(seconds * 10)
    hours, rest = divmod(tenths, 36_000)
    minutes = f"{rest // 600:02d}" if hours else f"{rest // 600}"
    return f"{hours}:{minutes}:{rest % 600 / 10:04.1f}" if hours else f"{minutes}:{rest % 600 / 10:04.1f}"


class Bar:
    """One running line of progress; shows nothing unless somebody watches. show: told how many more, and the note.

    Watchers of a program are told of numbers alone, people at a terminal of notes, too.
    """

    def __init__(self, total: int | None = None, show: Callable[[int, str], None] | None = None):
        self._show = show
        self.total, self.done = total, 0

    def advance(self, n: int = 1, *, note: str = "") -> None:
        """Count `n` more units as done; `note` replaces the text behind the bar."""
        self.done += n
        if self._show is not None:
            self._show(n, note)

    def say(self, note: str) -> None:
        """Replace the text behind the bar while nothing more is done."""
        if self._show is not None:
            self._show(0, note)


def set_up(*, quiet: bool = False, debug: bool = False) -> None:
    """Send the log to stderr. Bars appear only on a terminal, without NO_COLOR-less colour codes elsewhere."""
    _everybody.repeats.clear()
    _everybody.said.clear()
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    handler = _Stderr()
    handler.setFormatter(_Line())
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    _state["person"] = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty() and not quiet
    _state["bars"] = sys.stderr.isatty() and not quiet and os.environ.get("TERM") != "dumb"


def show_details() -> None:
    """Show from now on what a command does beneath, too (`--verbose`)."""
    logger.setLevel(logging.DEBUG)


class _Stderr(logging.StreamHandler):
    """Writes to what stderr is by then: who puts another in its place, as a notebook does, may close the one before."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Line(logging.Formatter):
    """A record is a line."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(record.getMessage())


def finish() -> None:
    """Say how often each repeated warning came."""
    repeats = _listening.get().repeats
    for message, n in repeats.items():
        if n > 1:
            logger.warning("warning: (%d times) %s", n, message)
    repeats.clear()


def warn_once(message: str) -> None:
    """Warn the first time; later repeats are only counted, `finish` says how many there were."""
    repeats = _listening.get().repeats
    repeats[message] += 1
    if repeats[message] == 1:
        logger.warning("warning: %s", message)


def say_once(message: str) -> None:
    """Say something the first time that it is true."""
    said = _listening.get().said
    if message not in said:
        said.add(message)
        logger.info("%s", message)


@contextlib.contextmanager
def told() -> Iterator[list[str]]:
    """Give the lines that are said in the block, by this thread or task, to somebody who was told nothing before.

    That is whoever asks a process that goes on: what is said once is said once to each of them. The log has it, too.
    """
    lines: list[str] = []
    token = _listening.set(_Audience())
    listening = _listening.get()

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if _listening.get() is listening and record.levelno >= logging.INFO:
                lines.append(printable(record.getMessage()))

    handler = Listening()
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        _listening.reset(token)


def ask(question: str, answers: Sequence[str]) -> str | None:
    """Ask a person at the terminal for one of a few answers; Enter is the first. None where nobody can answer.

    An answer may be its number or the beginning of it; anything else is asked again.
    """
    if not _state["person"] or _watcher.get() is not None:
        return None
    listed = ", ".join(f"{i}: {answer}" for i, answer in enumerate(answers, 1))
    while True:
        sys.stderr.write(printable(f"{question} [{listed}] "))
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            sys.stderr.write("\n")
            return None
        said = line.strip()
        if said in {"", *(str(i) for i in range(1, len(answers) + 1))}:
            return answers[int(said or 1) - 1]
        if len(found := [answer for answer in answers if answer.startswith(said)]) == 1:
            return found[0]


@contextlib.contextmanager
def watched(watcher: Watcher | None) -> Iterator[None]:
    """Tell `watcher` of all progress within the block, instead of drawing bars; None leaves those to `set_up`.

    Only what this thread (or task) does in the block is told. At its end repeated warnings are counted (`finish`).
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
        finish()


def watcher() -> Watcher | None:
    """Return who is told of progress here: for work that another process does."""
    return _watcher.get()


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Say nothing but errors within the block, and draw nothing: another process speaks for this one."""
    level, audience, watcher = logger.level, _listening.set(_Audience()), _watcher.set(lambda *_: None)
    logger.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(level)
        _watcher.reset(watcher)
        _listening.reset(audience)


@contextlib.contextmanager
def progress(what: str, *, total: int | None = None, unit: str = "") -> Iterator[Bar]:
    """Show a bar while the block runs: `with progress("decoding", total=n, unit="video") as bar: bar.advance()`."""
    watcher = _watcher.get()
    if watcher is not None or not _state["bars"]:
        started = time.monotonic()
        bar = Bar(total) if watcher is None else _told(watcher, what, total)
        yield bar
        if time.monotonic() - started > 2:
            units = unit.removesuffix("s") if bar.done == 1 else unit or "steps"
            logger.info("%s: %d %s in %.1f s", what, bar.done, units, time.monotonic() - started)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    def words(text: str) -> TextColumn:
        return TextColumn(text, markup=False)  # a name may look like a style: "[/b]"

    columns = [words("{task.description}"), BarColumn(), MofNCompleteColumn(), words(unit), TimeRemainingColumn()]
    console = Console(stderr=True)
    with Progress(*columns, words("{task.fields[note]}"), console=console, transient=True) as shown:
        task = shown.add_task(printable(what), total=total, note="")
        yield Bar(total, lambda n, note: shown.update(task, advance=n, note=printable(note)))


def _told(watcher: Watcher, what: str, total: int | None) -> Bar:
    """Return a bar that tells a watcher, who hears at once that it begins."""
    watcher(what, 0, total)
    bar = Bar(total, lambda n, note: watcher(what, bar.done, total) if n else None)
    return bar
