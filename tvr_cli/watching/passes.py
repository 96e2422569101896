"""The work of a watcher: frames of what came and changed, features of those, and the index of these."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_cli import log
from tvr_cli.engine.extraction import estimate, extract
from tvr_cli.engine.extraction.difference import Seen
from tvr_cli.engine.extraction.extract import ExtractOptions
from tvr_cli.engine.searching.asked import Asked
from tvr_cli.plans import AskedFrames
from tvr_cli.watching.looking import Flaw
from tvr_cli.watching.status import PassReport
from tvr_cli.workspace import Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.extraction.estimate import ExtractEstimate
    from tvr_cli.engine.searching.session import Session


@dataclass
class Passes:
    """Brings a workspace up to date, as often as it is asked to.

    asked: what scores, as a query names it. size_for: a backbone that a new frame store is to serve (`--for`).
    processors: that arithmetic may use. Frames go on with the plan that they have, features with theirs.
    """

    workspace: Workspace
    asked: Asked = field(default_factory=Asked)
    options: ExtractOptions = field(default_factory=ExtractOptions)
    size_for: str | None = None
    device: str = "auto"
    offline: bool = False
    processors: int | None = None
    _session: Session | None = field(default=None, init=False)
    _stopped: _Stopped = field(init=False)

    def __post_init__(self) -> None:
        self._stopped = _Stopped()

    def run(self, sources: Sequence[Path], seen: Seen, watch: log.Watcher) -> PassReport:
        """Do what is due. watch: told of progress; what it raises ends the pass, as Ctrl-C does.

        Raises what the steps raise: what they have done until then is kept, and the next pass goes on from there. Its
        report counts that, too.
        """
        started = time.monotonic()
        options = dataclasses.replace(self.options, seen=seen)
        tally = extract.Tally()
        try:
            with log.watched(watch):
                plan = extract.frame_plan(self.workspace, AskedFrames(), options, backbone=self.size_for)
                found = extract.extract(sources, self.workspace, plan, options, tally)
                clips = self._bring_up() if self.workspace.frames().records else None
        except BaseException:  # also a pause and Ctrl-C: to the next pass all of this is as it was
            self._stopped = self._stopped.plus(tally, time.monotonic() - started)
            raise
        done, self._stopped = self._stopped.plus(tally, time.monotonic() - started), _Stopped()
        return PassReport(
            read=done.read,
            kept=found.kept,
            renamed=done.renamed,
            forgotten=done.forgotten,
            failures=[Flaw(failure.video, failure.reason) for failure in found.failures],
            unreachable=found.unreachable,
            clips=clips,
            seconds=done.seconds,
        )

    def estimate(self, sources: Sequence[Path], seen: Seen) -> ExtractEstimate:
        """Say what a pass would read. Raises as `run` does, and writes nothing."""
        options = dataclasses.replace(self.options, seen=seen)
        plan = extract.frame_plan(self.workspace, AskedFrames(), options, backbone=self.size_for)
        return estimate.estimate(sources, self.workspace, plan, options)

    def _bring_up(self) -> int:
        from tvr_cli.engine.device import use_threads
        from tvr_cli.engine.searching import query

        if self.processors is not None:
            use_threads(self.processors)
        if self._session is None:
            self._session = query.session(self.workspace, self.asked, device=self.device, offline=self.offline)
        return len(self._session.bring_up())


@dataclass(frozen=True)
class _Stopped:
    """What passes did that were stopped or failed, since the last that came to its end."""

    read: int = 0
    renamed: int = 0
    forgotten: int = 0
    seconds: float = 0.0

    def plus(self, tally: extract.Tally, seconds: float) -> _Stopped:
        return _Stopped(
            self.read + tally.ok,
            self.renamed + tally.renamed,
            self.forgotten + tally.forgotten,
            self.seconds + seconds,
        )
