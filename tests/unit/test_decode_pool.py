"""The worker processes: what one video does to its worker must not touch the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import WATCHDOG_S

from tvr_cli.errors import DecodeError, EnvironmentProblem
from tvr_cli.stores.decoding import pool as decode_pool
from tvr_cli.stores.decoding.pool import DecodePool, Stopped, Unread
from tvr_cli.stores.decoding.room import BYTES_A_PIXEL, Budget, Room
from tvr_cli.stores.decoding.types import Beat, Place, Stop


def act(task: str, beat: Beat) -> str:
    """What the workers of these tests do; runs in another process."""
    what, _, argument = task.partition(" ")
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "hang":
        if argument:
            Path(argument).write_text(str(os.getpid()))
        time.sleep(3600)
    if what == "slow":
        for _ in range(8):
            time.sleep(0.3)
            beat()
    if what == "whole":
        try:
            while True:
                time.sleep(0.05)
                beat(Place("decoded", 1))
        except Stop as stop:
            stop.part = "half"
            raise
    if what == "film":
        for second in (10, 20):
            beat(Place("decoded", second, 20))
            beat()  # at once after the other: nobody is told
            time.sleep(0.3)
    if what == "frames":
        _, folder, mine = argument.split(":")
        room = Room(*map(int, argument.split(":")[0].split("x")))
        beat(room)
        (Path(folder) / mine).touch()
        beat(room)  # as for a second decoder of the same file, while others wait
        time.sleep(0.1)
        at_once = len(os.listdir(folder))
        (Path(folder) / mine).unlink()
        return str(at_once)
    if what == "bad":
        raise DecodeError("no video stream")
    if what == "denied":
        raise PermissionError(13, "Permission denied")
    if what == "bug":
        raise ZeroDivisionError("division by zero")
    if what == "environment":
        raise EnvironmentProblem("decord is not installed")
    if what == "modules":
        return " ".join(sorted(sys.modules))
    if what == "pid":
        return str(os.getpid())
    if what == "noise":
        os.write(1, b"a C library talks to stdout\n")
        os.write(2, b"and to stderr\n")
    return argument


def run(tasks: list[str], *, workers: int = 2, timeout_s: float = WATCHDOG_S) -> dict[str, str | Unread]:
    with DecodePool(act, workers=workers, timeout_s=timeout_s) as pool:
        return dict(pool.run((task, task) for task in tasks))


def test_every_task_has_its_result() -> None:
    tasks = [f"echo {i}" for i in range(20)]
    assert run(tasks) == {f"echo {i}": str(i) for i in range(20)}


def test_who_watches_is_told_how_far_a_task_is() -> None:
    told: list[tuple[str, Place]] = []
    with DecodePool(act, workers=1, timeout_s=WATCHDOG_S) as pool:
        assert dict(pool.run([("a", "film"), ("b", "slow")], watch=lambda *at: told.append(at))) == {"a": "", "b": ""}
    assert told == [("a", Place("decoded", 10, 20)), ("a", Place("decoded", 20, 20))]


def test_readers_of_large_frames_share_one_budget(tmp_path: Path) -> None:
    """Two fit, three do not: of four readers never more than two have frames at once, and each has its turn."""
    tasks = [f"frames 1000x1000:{tmp_path}:{i}" for i in range(8)]
    with DecodePool(act, workers=4, timeout_s=WATCHDOG_S, memory=2_500_000 * BYTES_A_PIXEL) as pool:
        found = dict(pool.run((task, task) for task in tasks))
    assert sorted(found) == tasks and {str(n) for n in found.values()} <= {"1", "2"}


def test_a_frame_that_is_larger_than_the_budget_is_refused_and_others_go_on(tmp_path: Path) -> None:
    large, small = f"frames 11585x11585:{tmp_path}:0", f"frames 1000x1000:{tmp_path}:1"
    with DecodePool(act, workers=2, timeout_s=WATCHDOG_S, memory=1_000_000_000) as pool:
        found = dict(pool.run([("large", large), ("small", small)]))
    reason = (
        "a frame of 11585x11585 pixels takes about 2.7 GB to read, more than the 1 GB that all readers may take "
        "together; a larger --memory-budget with --retry-failed reads it"
    )
    assert found == {"large": Unread(reason, "transient"), "small": "1"}


def test_frames_that_take_little_are_not_counted() -> None:
    assert Budget(16_000_000_000, 16).uncounted == 250_000_000  # up to 4K of all readers: no question
    assert Room(3840, 2160).size_bytes < 250_000_000


def test_what_is_read_is_handed_over_when_a_run_is_interrupted() -> None:
    with DecodePool(act, workers=1, timeout_s=WATCHDOG_S) as pool:

        def stop(name: str, at: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(pool.run([("a", "whole")], watch=stop))
        assert list(pool.hand_over(WATCHDOG_S)) == [("a", Stopped("half"))]
        assert list(pool.hand_over(WATCHDOG_S)) == []


def test_workers_import_no_torch_even_if_the_main_script_does() -> None:
    loaded = str(run(["modules"], workers=1)["modules"]).split()
    assert "tvr_cli.stores.decoding.pool" in loaded
    assert not {"torch", "open_clip", "typer", "decord", "av"} & set(loaded)


def test_reading_a_video_imports_no_torch() -> None:
    decoding = "tvr_cli.stores.decoding.sample, tvr_cli.stores.decoding.pyav"
    code = f"import sys, {decoding}, tvr_cli.engine.extraction.extract, av, PIL.Image; "
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr


def test_a_crash_is_the_failure_of_that_video_only() -> None:
    results = run(["echo a", "crash", "echo b", "echo c"], workers=1)
    assert results["crash"] == Unread("the decoding process crashed (signal SIGSEGV)", "transient")
    assert [results[f"echo {x}"] for x in "abc"] == ["a", "b", "c"]


class Clock:
    """The pool's clock: it stands still but for what a test says passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, passes: Callable[[], float] = lambda: 0.0):
        self.now, self._passes = 0.0, passes
        monkeypatch.setattr(decode_pool, "time", SimpleNamespace(monotonic=self.read))

    def read(self) -> float:
        self.now += self._passes()
        return self.now


def test_a_hang_is_ended_and_the_worker_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = tmp_path / "hanging"

    def passes() -> float:  # time passes while the worker hangs, not while another starts
        return 0.4 if hanging.exists() and (pid := hanging.read_text()) and _runs(int(pid)) else 0.0

    Clock(monkeypatch, passes)
    results = run([f"hang {hanging}", "echo a"], workers=1, timeout_s=1.0)
    assert results == {f"hang {hanging}": Unread("timeout: no progress for 1 s", "transient"), "echo a": "a"}
    assert not _runs(int(hanging.read_text()))


def test_slow_progress_is_no_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, collect = Clock(monkeypatch), decode_pool._Slot.collect

    def slow(slot: decode_pool._Slot, ready: list[object], timeout_s: float) -> object:
        if slot.pipe in ready:  # each sign of life comes late, and all of them together long after the limit
            clock.now += 0.6
        return collect(slot, ready, timeout_s)

    monkeypatch.setattr(decode_pool._Slot, "collect", slow)
    assert run(["slow x"], workers=1, timeout_s=1.0) == {"slow x": "x"}
    assert clock.now > 5


@pytest.mark.parametrize(
    ("task", "reason", "kind"),
    [
        ("bad", "no video stream", "permanent"),
        ("denied", "the file cannot be read: Permission denied", "transient"),
        ("bug", "unexpected ZeroDivisionError: division by zero", "transient"),
    ],
)
def test_errors_become_reasons(task: str, reason: str, kind: str) -> None:
    assert run([task], workers=1) == {task: Unread(reason, kind)}


def test_a_missing_decoder_ends_the_run() -> None:
    with pytest.raises(EnvironmentProblem, match="decord is not installed"):
        run(["environment"], workers=1)


def test_workers_are_replaced_after_many_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_pool, "_RECYCLE_AFTER", 2)
    with DecodePool(act, workers=1, timeout_s=WATCHDOG_S) as pool:
        pids = [value for _, value in pool.run((str(i), "pid") for i in range(5))]
    assert pids[0] == pids[1] and pids[2] == pids[3] and len(set(pids)) == 3


def test_what_libraries_print_does_not_reach_the_user(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["noise x"], workers=1) == {"noise x": "x"}
    assert capfd.readouterr() == ("", "")


def test_leaving_the_pool_ends_its_workers() -> None:
    with DecodePool(act, workers=1, timeout_s=WATCHDOG_S) as pool:
        _, pid = next(pool.run([("a", "pid"), ("b", "hang")]))
    with pytest.raises(ProcessLookupError):
        os.kill(int(str(pid)), 0)


def test_workers_end_when_their_parent_is_killed() -> None:
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; from test_decode_pool import act, DecodePool\n"
        "with DecodePool(act, workers=1, timeout_s=600.0) as pool:\n"
        "    for _, pid in pool.run([('a', 'pid'), ('b', 'hang')]): print(pid, flush=True)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + WATCHDOG_S
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.1)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Return whether a process runs; one that has ended but was not collected does not."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_there_are_as_many_workers_as_processors_at_most() -> None:
    assert 1 <= decode_pool.default_workers() <= min(16, os.cpu_count() or 1)
