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

    def run(self, sources: Sequence[Path], seen: Seen, watch: log.Watcher) -> PassReport:
        """Do what is due. watch: told of progress; what it raises ends the pass, as Ctrl-C does.

        Raises what the steps raise: what they have done until then is kept, and the next pass goes on from there.
        """
        started = time.monotonic()
        options = dataclasses.replace(self.options, seen=seen)
        with log.watched(watch):
            plan = extract.frame_plan(self.workspace, AskedFrames(), options, backbone=self.size_for)
            found = extract.extract(sources, self.workspace, plan, options)
            clips = self._bring_up() if self.workspace.frames().records else None
        return PassReport(
            read=found.ok,
            kept=found.kept,
            renamed=found.renamed,
            forgotten=found.forgotten,
            failures=[Flaw(failure.video, failure.reason) for failure in found.failures],
            unreachable=found.unreachable,
            clips=clips,
            seconds=time.monotonic() - started,
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
