"""Reading videos in processes of their own, so that a bad one can neither hang nor take down the run.

Each worker is spawned (never forked), imports no torch, reads one video at a time with one decoder thread and is
replaced after many videos (leaks), after a crash, and when a video gives no sign of life for `timeout_s`.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from tvr_cli import commands
from tvr_cli.errors import DecodeError, EnvironmentProblem
from tvr_cli.stores.decoding.room import Budget, Room, free_bytes
from tvr_cli.stores.decoding.types import Beat, Place, Stop

_T = TypeVar("_T")
_R = TypeVar("_R")
_START_LIMIT_S = 120.0
_RECYCLE_AFTER = 5000  # videos; half a second to start anew, and 4 MB more after 4 000 tiny files (measured)
_LOOK_AROUND_S = 0.2
_STOP = None  # told to a worker instead of a task


@dataclass(frozen=True, slots=True)
class Unread:
    """A video that gave no frames. kind: permanent (the file is bad) or transient (another try may succeed)."""

    reason: str
    kind: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """A task that was ended early. part: what its reading left in `Stop`, None = nothing."""

    part: object


class DecodePool(Generic[_T, _R]):
    """Apply `read(task, beat)` to tasks in `workers` processes.

    read: importable function that calls `beat` while it makes progress. timeout_s: seconds without a beat after which
    a task is given up. memory: bytes that frames of all of them may take, None = half of what is free. Use as a context
    manager: leaving it ends the workers, whatever they do.
    """

    def __init__(self, read: Callable[[_T, Beat], _R], *, workers: int, timeout_s: float, memory: int | None = None):
        self._read, self._timeout_s = read, timeout_s
        self._budget = Budget(free_bytes() if memory is None else memory, workers)
        self._slots = [_Slot(read, self._budget.uncounted) for _ in range(workers)]

    def __enter__(self) -> DecodePool[_T, _R]:
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._slots:
            slot.stop()

    def run(
        self,
        tasks: Iterable[tuple[str, _T]],
        *,
        until: float | None = None,
        watch: Callable[[str, Place], None] = lambda name, at: None,
    ) -> Iterator[tuple[str, _R | Unread]]:
        """Yield (name, result) for each (name, task), in the order in which they finish.

        until: time.monotonic() at which to stop, whatever is left. watch: told a few times a second how far a task is.
        Raises EnvironmentProblem when workers cannot start or a decoder is not installed.
        """
        waiting = iter(tasks)
        while True:
            for slot in self._slots:
                if slot.name is None and (item := next(waiting, None)) is not None:
                    slot.give(*item)
            busy = [slot for slot in self._slots if slot.name is not None]
            if not busy or (until is not None and time.monotonic() > until):
                return
            ready = wait([x for slot in busy for x in (slot.pipe, slot.process.sentinel)], timeout=_LOOK_AROUND_S)
            for slot in busy:
                if (done := slot.collect(ready, self._timeout_s)) is not None:
                    yield done
                elif slot.name is not None and slot.at is not None:
                    watch(slot.name, slot.at)
                    slot.at = None
            self._give_room()

    def _give_room(self) -> None:
        """Answer those who wait for memory: who has some already, then the others as they came."""
        waiting = [slot for slot in self._slots if slot.wants is not None]
        for slot in sorted(waiting, key=lambda slot: (not slot.holds, slot.waits_since)):
            wants, others = slot.wants, sum(other.holds for other in self._slots if other is not slot)
            assert wants is not None
            refusal = self._budget.refusal(wants)
            if not refusal and others + wants.size_bytes > self._budget.size_bytes:
                return  # nor is anybody behind it served: a large frame would wait for ever
            slot.answer(refusal)

    def hand_over(self, within_s: float) -> Iterator[tuple[str, _R | Unread | Stopped]]:
        """End what is being read now, and yield what each task that answers in time has, whole or not.

        For a `run` that was interrupted at any point.
        """
        until = time.monotonic() + within_s
        busy = [slot for slot in self._slots if slot.name is not None and slot.tell_to_stop()]
        while busy and (left := until - time.monotonic()) > 0:
            ready = wait([x for slot in busy for x in (slot.pipe, slot.process.sentinel)], timeout=left)
            for slot in busy:
                if (done := slot.collect(ready, math.inf)) is not None:
                    yield done
            busy = [slot for slot in busy if slot.name is not None]


class _Slot:
    """One worker process and what it is doing. at: how far its task is, None where nothing new is known.

    uncounted: bytes that its frames may take unasked. wants: memory that its task waits for; holds: bytes that it has.
    """

    def __init__(self, read: Callable[..., Any], uncounted: int):
        self._read, self._uncounted = read, uncounted
        self.wants: Room | None = None
        self.holds, self.waits_since = 0, 0.0
        self.process: Any = None
        self.pipe: Connection
        self.name: str | None = None
        self.at: Place | None = None
        self._started, self._served, self._last_sign = False, 0, 0.0
        self._receiving = False  # or interrupted in the middle of a message: what follows in the pipe is its rest

    def give(self, name: str, task: object) -> None:
        if self.process is None or self._served >= _RECYCLE_AFTER or not self.process.is_alive():
            self._start()
        self.name, self._last_sign = name, time.monotonic()
        self._served += 1
        with contextlib.suppress(OSError):  # a worker that died in between is found by `collect`
            self.pipe.send(task)

    def tell_to_stop(self) -> bool:
        """Ask for what there is of the task. Return whether an answer can come."""
        if self.process is None or self._receiving or not self._started:
            return False
        try:
            self.pipe.send(_STOP)
        except OSError:
            return False
        return True

    def collect(self, ready: list[Any], timeout_s: float) -> tuple[str, Any] | None:
        """Return (name, result) when the task is over, for whatever reason."""
        if self.pipe in ready:
            self._receiving = True
            try:
                kind, value = self.pipe.recv()
            except (EOFError, OSError):
                return self._crashed()
            self._receiving = False
            self._last_sign = time.monotonic()
            if kind == "started":
                self._started = True
            elif kind == "environment":
                raise EnvironmentProblem(value)
            elif kind == "beat":
                self.at = value
            elif kind == "room":
                self.wants, self.waits_since = value, self._last_sign
            else:
                return self._over(value)
            return None
        if self.process.sentinel in ready and not self.pipe.poll():
            return self._crashed()
        limit = timeout_s if self._started else max(timeout_s, _START_LIMIT_S)
        if self.wants is None and time.monotonic() - self._last_sign > limit:
            self.stop()
            return self._over(Unread(f"timeout: no progress for {limit:g} s", "transient"))
        return None

    def answer(self, refusal: str) -> None:
        """Tell the task that waits for memory that it has it, or why it never will."""
        assert self.wants is not None
        self.holds, self.wants = 0 if refusal else self.wants.size_bytes, None
        self._last_sign = time.monotonic()
        with contextlib.suppress(OSError):
            self.pipe.send(refusal)

    def stop(self) -> None:
        if self.process is not None:
            if self.process.pid is not None:  # None: interrupted before it was started
                self.process.kill()
                self.process.join()
            self.pipe.close()
            self.process = None

    def _start(self) -> None:
        self.stop()
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, self._read, os.getpid(), self._uncounted), daemon=True
        )
        with _no_main_module(), _no_interrupt():
            self.process.start()
        theirs.close()
        self._started, self._served, self._receiving = False, 0, False

    def _crashed(self) -> tuple[str, Any]:
        self.process.join()
        code, started = self.process.exitcode, self._started
        self.stop()
        if not started:
            raise EnvironmentProblem(
                f"a decoding process ended with code {code} before it was ready; see: {commands.tvr('doctor')}, or try "
                "--workers 1"
            )
        what = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return self._over(Unread(f"the decoding process crashed ({what})", "transient"))

    def _over(self, value: object) -> tuple[str, Any]:
        name, self.name = self.name, None
        self.wants, self.holds = None, 0
        assert name is not None
        return name, value


def default_workers() -> int:
    """Return how many videos to read at once: the processors that this process may use, at most 16."""
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        usable = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError), open("/sys/fs/cgroup/cpu.max") as f:  # a container's share
        quota, period = f.read().split()
        usable = min(usable, max(1, round(int(quota) / int(period))))
    return max(1, min(usable, 16))


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """Hide the main module from a spawned child, which would import it again, and with it whatever a script imports."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back while a child starts: the child never sees one, the parent gets its own afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, read: Callable[[Any, Beat], Any], parent: int, uncounted: int) -> None:
    """Read videos until the pipe closes. The body of a worker process. uncounted: as of a `_Slot`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _silence()
    last_beat = 0.0

    def beat(at: Place | Room | None = None, /) -> None:
        nonlocal last_beat
        if isinstance(at, Room):
            if at.size_bytes > uncounted:
                _wait_for_room(pipe, at)
            return
        now = time.monotonic()
        if now - last_beat > 0.25:
            last_beat = now
            pipe.send(("beat", at))
            if pipe.poll():  # nobody gives a task to who has one
                pipe.recv()
                raise Stop

    pipe.send(("started", None))
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        if task is _STOP:  # the answer to it, and the task, crossed on their way
            continue
        try:
            reply = ("done", read(task, beat))
        except Stop as e:
            reply = ("done", Stopped(e.part))
        except EnvironmentProblem as e:
            reply = ("environment", str(e))
        except Exception as e:
            reply = ("done", _unread(e))
        try:
            pipe.send(reply)
        except OSError:
            return


def _wait_for_room(pipe: Connection, room: Room) -> None:
    """Return when the parent says that there is memory. Raises MemoryError where there never will, or Stop."""
    pipe.send(("room", room))
    answer = pipe.recv()
    if answer is _STOP:
        raise Stop
    if answer:
        raise MemoryError(answer)


def _unread(e: Exception) -> Unread:
    if isinstance(e, DecodeError):
        return Unread(str(e), "permanent")
    if isinstance(e, FileNotFoundError):
        return Unread("there is no file at its path", "transient")
    if isinstance(e, OSError):
        return Unread(f"the file cannot be read: {e.strerror or e}", "transient")
    if isinstance(e, MemoryError):
        return Unread(str(e) or "out of memory while reading it", "transient")
    return Unread(f"unexpected {type(e).__name__}: {e}", "transient")


def _silence() -> None:
    """Send what C libraries print to nowhere; the reasons that matter travel through the pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(nowhere, stream.fileno())


def _end_with(parent: int) -> None:
    """End this process when its parent has gone, even while a decoder hangs."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
