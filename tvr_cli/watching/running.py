"""A watcher that runs: here, or in the background; paused and going on; whether it does; and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_cli import commands, files
from tvr_cli.engine.extraction.difference import Seen
from tvr_cli.errors import DataError, EnvironmentProblem
from tvr_cli.watching import budget, ears, status
from tvr_cli.watching.agenda import Agenda
from tvr_cli.watching.looking import look
from tvr_cli.watching.passes import Passes
from tvr_cli.watching.status import Board, WatchEvent, WatchStatus
from tvr_cli.watching.watcher import Watcher, orphaned, pausing_at_once
from tvr_cli.workspace import Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.extraction.estimate import ExtractEstimate

PARENT = "TVR_WATCH_PARENT"  # of the environment: the process that a watcher ends with
_STARTS_S, _ENDS_S = 120.0, 60.0
_SAYS_S = 5.0  # between a watcher's lock and its first word, on a machine that has much to do


@dataclass(frozen=True)
class WatchOptions:
    """How to watch. poll_s: seconds between two looks, None = events where there are some.

    settle_s: how long a file has to stay as it is. processors: None = half of them. parent: the process that it is to
    end with, None = none.
    """

    poll_s: float | None = None
    settle_s: float = 2.0
    processors: int | None = None
    once: bool = False
    parent: int | None = None


def watch(
    sources: Sequence[Path], passes: Passes, options: WatchOptions, tell: Callable[[WatchEvent], None]
) -> WatchStatus:
    """Keep a workspace up to date with its sources until Ctrl-C, or once. tell: told of events.

    Raises EnvironmentProblem where it is watched already and without the extra `watch`, DataError where no
    source is there; once also what the work raises, and Interrupted on Ctrl-C.
    """
    workspace = passes.workspace
    sources = sources_of(sources, workspace)
    follow = passes.options.follow
    take = partial(look, sources, follow=follow, besides=workspace.root)
    if options.once and not (seen := take()).sources:
        raise DataError("; ".join(f"{flaw.what!r}: {flaw.reason}" for flaw in seen.flaws))
    pace = ears.POLL_S if options.once else options.poll_s  # it only waits for what is still written
    ears.listen(sources, pace)[0].close()  # what is not installed is said before any work
    wanted = options.processors or budget.usual()
    passes = replace(passes, processors=wanted, options=replace(passes.options, workers=wanted))
    with _alone(workspace), budget.kept_to(wanted):
        if not options.once:
            budget.step_back()
        first = WatchStatus(
            workspace=str(workspace), state="starting", pid=os.getpid(), videos=list(map(str, sources)),
            processors=wanted, clips=status.searchable(workspace), updated=status.utc(),
        )  # fmt: skip
        board = Board(workspace, first)
        board.say()
        paused = status.paused_path(workspace)
        watcher = Watcher(
            Agenda(options.settle_s),
            look=take,
            hear=lambda: ears.listen(sources, pace),
            work=passes.run,
            board=board,
            paused=(lambda: False) if options.once else paused.exists,
            tell=tell,
            alone=orphaned(options.parent),
        )
        with pausing_at_once(watcher):
            return watcher.run(once=options.once)


def preview(sources: Sequence[Path], passes: Passes) -> ExtractEstimate:
    """Say what a watcher would read of what is there, also of files that it would let settle first. Writes nothing.

    Raises DataError where no source is there.
    """
    sources = sources_of(sources, passes.workspace)
    seen = look(sources, follow=passes.options.follow, besides=passes.workspace.root)
    if not seen.sources:
        raise DataError("; ".join(f"{flaw.what!r}: {flaw.reason}" for flaw in seen.flaws))
    return passes.estimate(seen.sources, Seen())


def sources_of(named: Sequence[Path], workspace: Workspace) -> list[Path]:
    """Return what to watch: what was named, else where the frames of the workspace came from. Raises DataError."""
    if named:
        return list(named)
    roots = workspace.video_roots() if workspace.has_frames else []
    if not roots or roots == [commands.VIDEOS]:
        raise DataError(
            f"expected videos to watch, and {str(workspace)!r} has none yet; name a folder: "
            + commands.tvr("watch", commands.VIDEOS, workspace=workspace)
        )
    return [Path(root) for root in roots]


def start(workspace: Workspace, arguments: Sequence[str]) -> WatchStatus:
    """Start `tvr watch` with some arguments in the background, and return when it watches.

    Raises EnvironmentProblem where it ends instead, with what it said.
    """
    refuse_second(workspace)
    process, log = spawn(workspace, arguments)
    until = time.monotonic() + _STARTS_S
    while time.monotonic() < until and process.poll() is None:
        if (found := status.read(workspace)).pid == process.pid:
            return replace(found, log=str(log))
        time.sleep(0.1)
    process.terminate()
    text = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    why = text[-1].removeprefix("error: ") if text else "it said nothing"
    raise EnvironmentProblem(f"the watcher did not start: {why} (all of it: {str(log)!r})")


def spawn(
    workspace: Workspace, arguments: Sequence[str], *, here: bool = False
) -> tuple[subprocess.Popen[bytes], Path]:
    """Start `tvr watch` with some arguments; returns the process, and where it says what it says.

    here: whether it ends with this process, and is not one that goes on behind the shell.
    """
    log = status.log_path(workspace)
    with files.disk_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "tvr_cli", "watch", *arguments],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
                env={**os.environ, **({PARENT: str(os.getpid())} if here else {})},
            )  # fmt: skip
    return process, log


def stop(workspace: Workspace) -> WatchStatus:
    """End the watcher of a workspace. Raises EnvironmentProblem where it does not end, or says not who it is."""
    found = _introduced(workspace)
    if found.state == "none":
        return found
    if found.pid is None:
        raise EnvironmentProblem(
            f"a watcher of {str(workspace)!r} is starting, or cannot write there, and has not said which process it "
            "is; try again in a moment: " + commands.tvr("watch", stop=True, workspace=workspace)
        )
    with contextlib.suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGTERM)
    until = time.monotonic() + _ENDS_S
    while time.monotonic() < until:
        if not files.is_locked(workspace.watch_folder):
            return WatchStatus(workspace=str(workspace), state="ended", pid=found.pid)
        time.sleep(0.1)
    raise EnvironmentProblem(f"the watcher (process {found.pid}) was told to end {_ENDS_S:.0f} s ago and still runs")


def pause(workspace: Workspace) -> WatchStatus:
    """Let the watcher of a workspace rest; what it was at is saved. Returns its status of this moment."""
    found = status.read(workspace)
    if found.state == "none":
        return found
    files.write_text(status.paused_path(workspace), "")
    # Only what is at work takes the signal; it would end one that has not come to its loop, or has left it.
    if found.state == "working" and found.pid is not None and hasattr(signal, "SIGUSR1"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGUSR1)
    return found


def go_on(workspace: Workspace) -> WatchStatus:
    """Let the watcher of a workspace go on. Returns its status of this moment."""
    found = status.read(workspace)
    with files.disk_errors(status.paused_path(workspace)):
        status.paused_path(workspace).unlink(missing_ok=True)
    return found


def refuse_second(workspace: Workspace) -> None:
    """Raise EnvironmentProblem where a watcher of a workspace runs already."""
    found = status.read(workspace)
    if found.state != "none":
        raise EnvironmentProblem(
            f"{str(workspace)!r} is watched already (process {found.pid or 'unknown'}); end it with: "
            + commands.tvr("watch", stop=True, workspace=workspace)
        )


def _introduced(workspace: Workspace) -> WatchStatus:
    """Return the status of the watcher of a workspace when it has said which process it is, or after a moment."""
    until = time.monotonic() + _SAYS_S
    while (found := status.read(workspace)).state != "none" and found.pid is None and time.monotonic() < until:
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    """Be the one watcher of a workspace in the block; what an earlier one said, and its pause, are over."""
    refuse_second(workspace)
    with files.lock(workspace.watch_folder, wait_s=1.0):
        for left in (status.status_path(workspace), status.paused_path(workspace)):
            left.unlink(missing_ok=True)
        yield
