"""What there is to do, from one look to the next: which files have settled, and which have gone for good.

A file that is copied or recorded grows, and one that is moved is at no place for a moment, or at two. So nothing counts
before it has stayed as it is for some seconds. No clock here and no disk: both are given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tvr_cli.engine.extraction.difference import Seen
from tvr_cli.watching.looking import Look, Mark, surely_gone


@dataclass(frozen=True)
class Due:
    """What a pass is for. seen: what the extraction is told. marks: of the files that it takes account of."""

    seen: Seen
    marks: Mapping[Path, Mark]


@dataclass
class _Known:
    """A file. since: when it was first seen as it is, or gone. deleted: whether it has gone for good."""

    mark: Mark
    since: float
    deleted: bool = False


@dataclass
class Agenda:
    """Compares looks. settle_s: how long a file has to stay as it is."""

    settle_s: float
    gone_for_good: Callable[[Path, int], bool] = surely_gone
    _there: dict[Path, _Known] = field(default_factory=dict, init=False)
    _away: dict[Path, _Known] = field(default_factory=dict, init=False)
    _handled: dict[Path, Mark] = field(default_factory=dict, init=False)
    _looked: bool = field(default=False, init=False)
    _begun: bool = field(default=False, init=False)

    def take(self, look: Look, now: float, wall: float) -> None:
        """Take a look. now: seconds of a clock that only goes on. wall: of the one by which files are dated."""
        first, self._looked = not self._looked, True
        for path, mark in look.files.items():
            known = self._there.get(path)
            if known is None:
                # At the first look a file's own time tells. Later one that is moved here keeps an old time, and the
                # look that finds it new finds the other gone: both are to count from the same moment on.
                quiet = first and wall - mark.stamp[1] / 1e9 >= self.settle_s
                self._there[path] = _Known(mark, now - self.settle_s if quiet else now)
                self._away.pop(path, None)
            elif known.mark != mark:
                self._there[path] = _Known(mark, now)
        for path in self._there.keys() - look.files.keys():
            self._away[path] = _Known(self._there.pop(path).mark, now)
        for path, gone in self._away.items():
            gone.deleted = self.gone_for_good(path, gone.mark.device)

    def due(self, now: float) -> Due | None:
        """Return what to do now, None for nothing. The first time it is all: what happened before is not known."""
        settled = {path: known.mark for path, known in self._there.items() if self._is_settled(known, now)}
        fresh = {path for path, mark in settled.items() if self._handled.get(path) != mark}
        gone = {path for path, known in self._away.items() if known.deleted and self._is_settled(known, now)}
        if self._begun and not fresh and not gone:
            return None
        leave = (self._there.keys() - settled.keys()) | (self._away.keys() - gone)
        again = fresh & self._handled.keys()
        return Due(Seen(frozenset(leave), frozenset(gone), frozenset(again)), settled)

    def done(self, due: Due) -> None:
        """Note that something was done, so that it is not due again."""
        self._begun = True
        self._handled.update(due.marks)
        for path in due.seen.gone:
            self._handled.pop(path, None)
            if path in self._away:
                del self._away[path]

    def unsettled(self, now: float) -> list[Path]:
        """Return the files that are still written, and those that went a moment ago, sorted."""
        moving = [path for path, known in self._there.items() if not self._is_settled(known, now)]
        going = [path for path, known in self._away.items() if known.deleted and not self._is_settled(known, now)]
        return sorted([*moving, *going])

    @property
    def files(self) -> int:
        """How many files there are."""
        return len(self._there)

    def _is_settled(self, known: _Known, now: float) -> bool:
        return now - known.since >= self.settle_s
