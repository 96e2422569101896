"""Starting the ranks of a training on the devices of this machine, and ending them together (`tvr train --devices`).

Each rank is a process of its own that calls the same function with its place among them. This process holds their
store, passes Ctrl-C on to rank 0, tells whoever watches of rank 0's progress, and returns what rank 0 returns. Where
the process of a rank ends before its time it says so in the store, which ends the others with that sentence, and raises
it here. Several machines: torchrun.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

import torch
from torch import distributed

from tvr_cli import log
from tvr_cli.engine.device import pick_device
from tvr_cli.engine.training import presence
from tvr_cli.engine.training.presence import Place, RankLost
from tvr_cli.errors import EnvironmentProblem

_T = TypeVar("_T")
_HOST = "127.0.0.1"
_LEAVE_S = presence.SILENT_S + 10  # for the other ranks to end by themselves after one is lost


class _Progress(NamedTuple):
    """What rank 0 tells of while it works, as `log.Watcher` is told of it."""

    what: str
    done: int
    total: int | None


@dataclass
class _Rank:
    """A process that was started. problem: what it raised. done: whether it said how it ended."""

    process: BaseProcess
    said: Connection
    value: Any = None
    problem: BaseException | None = None
    done: bool = False

    def listen(self, watcher: log.Watcher | None) -> bool:
        """Take what it says next, progress for `watcher` or how it ended; return whether it has ended."""
        try:
            said = self.said.recv()
        except EOFError:
            self.said.close()
            return True
        if isinstance(said, _Progress):
            if watcher is not None:
                watcher(said.what, said.done, said.total)
            return False
        self.value, self.problem = said
        self.done = True
        self.said.close()
        return True


def require_devices(wanted: int, device: str) -> None:
    """Raise EnvironmentProblem where this machine has fewer devices: CUDA devices, or processors where it has none."""
    kind = pick_device(device)
    there, what = processors(), "processors that this process may use"
    if kind.type == "cuda":
        there, what = torch.cuda.device_count(), "CUDA devices"
    if kind.type not in ("cpu", "cuda") or kind.index is not None:
        raise EnvironmentProblem(
            f"--devices {wanted} starts ranks on processors or CUDA devices, each on its own, and --device {device} "
            "names another; give --device cpu or --device cuda"
        )
    if wanted > there:
        raise EnvironmentProblem(
            f"--devices {wanted}: this machine has {there} {what}; ask for at most that many, or start ranks on "
            "several machines with torchrun"
        )


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launch(world: int, call: Callable[[Place], _T]) -> _T:
    """Run `call` in `world` processes, each with its place, and return what rank 0 returns.

    call: can be pickled, and so can what it returns and raises. Raises what a rank raised, RankLost where the process
    of one ended without a word. Who watches here (`log.watched`) is told of rank 0's progress.
    """
    store = presence.connect(_HOST, 0, hosts=True)
    ranks: list[_Rank] = []
    try:
        for number in range(world):
            ranks.append(_start(call, Place(number, world, number, world, _HOST, store.port)))
        with _passing_on(ranks[0].process):
            deaths = _wait(ranks, store)
    finally:
        for rank in ranks:
            if rank.process.is_alive():
                rank.process.kill()
            rank.process.join()
    for number, rank in sorted(enumerate(ranks), key=lambda item: isinstance(item[1].problem, RankLost)):
        if rank.problem is not None:
            if number and not isinstance(rank.problem, RankLost):
                log.logger.error("rank %d of %d failed:", number, world)
            raise rank.problem
    if deaths:
        raise RankLost(deaths[0])
    found: _T = ranks[0].value
    return found


def _start(call: Callable[[Place], Any], place: Place) -> _Rank:
    context = get_context("spawn")
    here, there = context.Pipe(duplex=False)
    level = log.logger.level if log.logger.handlers else None
    watched = place.rank == 0 and log.watcher() is not None
    process = context.Process(target=_run, args=(call, place, there, level, watched), name=f"tvr rank {place.rank}")
    process.start()
    there.close()
    return _Rank(process, here)


def _run(call: Callable[[Place], Any], place: Place, out: Connection, level: int | None, watched: bool) -> None:
    """Be a rank: the body of a process. level: of the log, None where nobody set it up. watched: by the starter."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C reaches the process that started this one, which passes it on to rank 0 alone
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if level is not None:
        log.set_up(quiet=level >= logging.WARNING, debug=level <= logging.DEBUG)
    value: Any = None
    problem: BaseException | None = None
    try:
        telling = log.watched(lambda *told: out.send(_Progress(*told)))
        with telling if watched else contextlib.nullcontext():
            value = call(place)
    except BaseException as e:  # told to the starter, which raises it
        problem = _sendable(e)
    if place.rank == 0:
        log.finish()
    try:
        out.send((value, problem))
    except OSError:  # the starter was killed, and nobody else can say it
        if problem is not None:
            log.logger.error("error: %s", problem)


def _sendable(e: BaseException) -> BaseException:
    """Return an error that survives the way to another process, else its traceback as one that does."""
    try:
        copy.copy(e)  # made anew from what it says of itself, as it will be there
    except Exception:
        return RuntimeError("".join(traceback.format_exception(e)))
    return e


def _wait(ranks: list[_Rank], store: distributed.Store) -> list[str]:
    """Wait until every rank has ended; when one ends without a word, tell the others, and give them time to end.

    Returns how those ended that said nothing, the first one first.
    """
    deaths: list[str] = []
    until = float("inf")
    waiting = dict(enumerate(ranks))
    while waiting and time.monotonic() < until:
        connection.wait([rank.said for rank in waiting.values()], timeout=min(until - time.monotonic(), 3600))
        for number, rank in list(waiting.items()):
            if not rank.said.poll():
                continue
            if not rank.listen(log.watcher()):
                continue
            rank.process.join()
            del waiting[number]
            if not rank.done:
                deaths.append(_how(number, len(ranks), rank.process))
                presence.note_death(store, number, deaths[-1])
            if not rank.done or rank.problem is not None:
                until = min(until, time.monotonic() + _LEAVE_S)
    return deaths


def _how(number: int, world: int, process: BaseProcess) -> str:
    """Say how the process of a rank ended that said nothing."""
    code = process.exitcode or 0
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"rank {number} of {world} {how}"


@contextlib.contextmanager
def _passing_on(process: BaseProcess) -> Iterator[None]:
    """Pass Ctrl-C and SIGTERM on to a process, which agrees with the others where to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, frame: Any) -> None:
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
