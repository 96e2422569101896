"""The loop of a watcher: look, wait until things have settled, do what is due, say so, and wait for the next change.

Whatever fails is listed and tried again: a video when its file changes, a step of the work a minute later. A pause and
an end come at any moment: the steps save what they have, and the next pass goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tvr_cli import log, os_errors
from tvr_cli.engine.extraction.difference import Seen
from tvr_cli.engine.extraction.discover import EXTENSIONS, counted
from tvr_cli.errors import Interrupted, TvrError, reason
from tvr_cli.watching.agenda import Agenda, Due
from tvr_cli.watching.ears import Ears
from tvr_cli.watching.looking import Flaw, Look
from tvr_cli.watching.status import MOST_FAILURES, Board, Doing, PassReport, WatchEvent, WatchStatus, utc

_BREATH_S = 0.5  # between two looks, at least: events come in crowds
_BREATHS = 4  # times what a look took, that too: a large library is not looked at without end while a film grows
_SLICE_S = 1.0  # of waiting, between two looks at whether it is to pause
_AGAIN_S = 60.0  # after which a step that failed is tried again


class Halt(KeyboardInterrupt):
    """A pass is to end because of a pause; what is under way is saved as on Ctrl-C, which this is to the steps."""


class Clockwork(Protocol):
    """Two clocks. now: only goes on. wall: by which files are dated."""

    def now(self) -> float:
        """Return seconds since whenever."""

    def wall(self) -> float:
        """Return seconds since 1970."""


class SystemClocks:
    """Those of the system."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


Work = Callable[[Sequence[Path], Seen, log.Watcher], PassReport]
Hear = Callable[[], tuple[Ears, str]]


@dataclass
class Watcher:
    """Keeps a workspace up to date. Everything that it needs of the world is given.

    look: looks at the sources. hear: returns what tells of changes, and a sentence where that is not what was wanted.
    work: does a pass. paused: whether it is to pause. alone: whether who started it has gone, and it is to end. tell:
    told of events. board: keeps the status.
    """

    agenda: Agenda
    look: Callable[[], Look]
    hear: Hear
    work: Work
    board: Board
    paused: Callable[[], bool]
    tell: Callable[[WatchEvent], None]
    alone: Callable[[], bool] = lambda: False
    clocks: Clockwork = field(default_factory=SystemClocks)

    def __post_init__(self) -> None:
        self._sources: tuple[Path, ...] | None = None
        self._ears: Ears | None = None
        self._looked = float("-inf")
        self._breath = _BREATH_S
        self._retry = float("-inf")  # not before
        self._problem: Flaw | None = None  # of a step of the work
        self._flaws: tuple[Flaw, ...] = ()
        self._lost: tuple[Flaw, ...] = ()  # videos that went before it was started
        self._working = False

    @property
    def working(self) -> bool:
        """Whether a pass is under way, which a pause has to stop."""
        return self._working

    def run(self, *, once: bool = False) -> WatchStatus:
        """Go on until Ctrl-C or, once, until all that there is has settled and was done; return the last status.

        Once raises what its work raises; otherwise that is listed, and it goes on.
        """
        self._say("started", f"watching {', '.join(self.board.now.videos)}")
        try:
            while not self.alone():
                if self.paused():
                    self._pause()
                    continue
                self._take_a_look()
                if self._work_off(once):
                    continue
                if once and not self.agenda.unsettled(self.clocks.now()):
                    break
                self._wait()
        except KeyboardInterrupt:
            if once:
                raise Interrupted("what was done is saved; the same command goes on") from None
        finally:
            if self._ears is not None:
                self._ears.close()
            self.board.say(state="ended", progress=None)
        self._say("ended", "ended; what was done is saved")
        return self.board.now

    def _take_a_look(self) -> None:
        self._looked = self.clocks.now()
        seen = self.look()
        self._breath = max(_BREATH_S, _BREATHS * (self.clocks.now() - self._looked))
        if seen.sources != self._sources:  # also the first time
            self._listen()
            self._sources = seen.sources
        self.agenda.take(seen, self.clocks.now(), self.clocks.wall())
        for flaw in seen.flaws:
            if flaw not in self._flaws:
                self._say("failed", f"{flaw.what}: {flaw.reason}")
        self._flaws = seen.flaws
        self._show("waiting")

    def _listen(self) -> None:
        if self._ears is not None:
            self._ears.close()
        self._ears, why = self.hear()
        if why:
            log.logger.info("%s", why)
        self.board.say(soon=True, how=self._ears.how)

    def _work_off(self, once: bool) -> bool:
        """Do what is due, and return whether anything was done."""
        now = self.clocks.now()
        due = self.agenda.due(now)
        if due is None or now < self._retry:
            return False
        self._show("working")
        found = self._pass(due, once)
        if found is None:
            return True
        self.agenda.done(due)
        self._problem, self._retry = None, float("-inf")
        self._lost = tuple(
            Flaw(video, "is not where it was, and kept in case a disk is not there; --forget forgets it")
            for video in found.unreachable[:MOST_FAILURES]
        )
        status = self.board.now
        self.board.say(
            soon=True,
            passes=status.passes + 1,
            read=status.read + found.read,
            renamed=status.renamed + found.renamed,
            forgotten=status.forgotten + found.forgotten,
            clips=status.clips if found.clips is None else found.clips,
            failed=len(found.failures),
            failures=found.failures[:MOST_FAILURES],
        )
        if changed := _changes(found, status):
            self._say("finished", changed, found)
        return True

    def _pass(self, due: Due, once: bool) -> PassReport | None:
        """Return what a pass did, None where it was stopped or failed."""
        try:
            self._working = True
            return self.work(self._sources or (), due.seen, self._progress)
        except Halt:
            pass
        except Interrupted:
            if not self.paused():
                raise KeyboardInterrupt from None
        except TvrError as e:
            if once:
                raise
            self._fail(str(e))
        except Exception as e:  # it stays up: what failed is said, and tried again
            if once:
                raise
            log.logger.debug("what failed", exc_info=True)
            self._fail(_why(e))
        finally:
            self._working = False
        return None

    def _fail(self, why: str) -> None:
        self._retry = self.clocks.now() + _AGAIN_S
        problem = Flaw("the last pass", why)
        if problem != self._problem:
            self._say("failed", f"{why}; tried again in {_AGAIN_S:.0f} s")
        self._problem = problem
        self._show("waiting")

    def _progress(self, what: str, done: int, of: int | None) -> None:
        """Note how far the work is, and end it where it is to pause."""
        self.board.say(soon=bool(done), progress=Doing(what, done, of))
        if self.paused() or self.alone():
            raise Halt

    def _pause(self) -> None:
        self._show("paused")
        self._say("paused", "paused")
        while self.paused() and not self.alone():
            self._nap(_SLICE_S)
        self._retry = float("-inf")
        self._say("continued", "going on")

    def _wait(self) -> None:
        """Wait until it is time for another look."""
        assert self._ears is not None, "a look has been taken"
        pace = self._ears.every_s
        if self.agenda.unsettled(self.clocks.now()):
            pace = min(pace, max(self.agenda.settle_s, self._breath))
        until = self._looked + pace
        if self.agenda.due(self.clocks.now()) is not None:  # what failed is waiting for another try
            until = min(until, max(self._retry, self._looked + self._breath))
        while (left := until - self.clocks.now()) > 0 and not self.paused() and not self.alone():
            if self._ears.wait(min(left, _SLICE_S)):
                if (rest := self._looked + self._breath - self.clocks.now()) > 0:
                    self._nap(rest)
                return

    def _nap(self, seconds: float) -> None:
        """Let time pass whatever happens."""
        until = self.clocks.now() + seconds
        while (left := until - self.clocks.now()) > 0:
            if self._ears is None:
                time.sleep(left)
            else:
                self._ears.wait(left)

    def _show(self, state: str) -> None:
        now = self.clocks.now()
        problems = [*self._flaws, *([self._problem] if self._problem is not None else []), *self._lost]
        moving = [path for path in self.agenda.unsettled(now) if path.suffix.lower() in EXTENSIONS]
        before = self.board.now
        shown: dict[str, Any] = {
            "state": state, "files": self.agenda.files, "settling": len(moving), "problems": problems, "progress": None,
        }  # fmt: skip
        if any(getattr(before, name) != value for name, value in shown.items()):
            self.board.say(**shown)

    def _say(self, did: str, text: str, done: PassReport | None = None) -> None:
        self.tell(WatchEvent(did=did, text=text, at=utc(), done=done))  # type: ignore[arg-type]


def _why(e: Exception) -> str:
    """Say what the machine refuses as any command would, and of anything else that it is a bug."""
    refusal = os_errors.refusal(e) if isinstance(e, OSError) else None
    refusal = os_errors.no_memory() if isinstance(e, MemoryError) else refusal
    return str(refusal) if refusal is not None else f"a bug in tvr: {type(e).__name__}: {reason(e)}"


def _changes(found: PassReport, before: WatchStatus) -> str:
    """Say what a pass changed, in a sentence; nothing where it found everything as it was."""
    parts = []
    if found.read:
        parts.append(f"{counted(found.read, 'video')} read")
    if found.renamed:
        parts.append(f"{found.renamed} renamed or moved")
    if found.forgotten:
        parts.append(f"{found.forgotten} forgotten")
    new = [flaw for flaw in found.failures if flaw not in before.failures]
    parts += [f"failed: {flaw.what}: {flaw.reason}" for flaw in new[:3]]
    if len(new) > 3:
        parts.append(f"{len(new) - 3} more failed")
    if found.unreachable:
        parts.append(f"{counted(len(found.unreachable), 'video')} not where they were, and kept")
    if not parts and before.passes:
        return ""
    return f"{', '.join(parts) or 'nothing new'}; {_searchable(found.clips)} ({found.seconds:.1f} s)"


def _searchable(clips: int | None) -> str:
    return "no video yet" if clips is None else f"{counted(clips, 'clip')} to search"


@contextlib.contextmanager
def pausing_at_once(watcher: Watcher) -> Iterator[None]:
    """Let the signal that comes with a pause stop what is under way: a film takes long without a word of progress."""
    import signal

    if not hasattr(signal, "SIGUSR1"):
        yield
        return

    def pause(*_: object) -> None:
        if watcher.working and watcher.paused():
            raise Halt

    before = signal.signal(signal.SIGUSR1, pause)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def orphaned(parent: int | None) -> Callable[[], bool]:
    """Return what tells whether the process that started this one has ended. parent: None = nobody in particular."""
    return (lambda: False) if parent is None else (lambda: os.getppid() != parent)
