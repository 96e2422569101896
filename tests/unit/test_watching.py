"""A watcher without a disk or a clock: what it takes for settled and gone, when it works, and what it survives."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tvr_cli import files, log
from tvr_cli.engine.extraction.difference import Seen
from tvr_cli.errors import DataError, EnvironmentProblem, Interrupted
from tvr_cli.watching import budget, running, status
from tvr_cli.watching.agenda import Agenda
from tvr_cli.watching.looking import Flaw, Look, Mark
from tvr_cli.watching.status import Board, PassReport, WatchEvent, WatchStatus
from tvr_cli.watching.watcher import Halt, Watcher, pausing_at_once
from tvr_cli.workspace import Workspace

A, B, C = Path("/v/a.mp4"), Path("/v/b.mp4"), Path("/v/c.mp4")
OLD, NEW = 0.0, 1_000_000.0  # when a file was written: long ago, and now


def mark(size: int, written: float = OLD) -> Mark:
    return Mark((size, int(written * 1e9), 0, size), 1)


def seen(**sizes: int) -> Look:
    """A look at files by their stems; they were written now."""
    return Look({Path(f"/v/{name}.mp4"): mark(size, NEW) for name, size in sizes.items()}, (Path("/v"),))


# -------------------------------------------------------------------------------------------------------- what is due


def test_what_was_there_before_is_due_at_once_and_what_grows_is_left() -> None:
    agenda = Agenda(2.0)
    agenda.take(Look({A: mark(1), B: mark(1, NEW)}), now=100.0, wall=NEW)
    due = agenda.due(100.0)
    assert due is not None and due.seen == Seen(leave=frozenset({B}))
    assert agenda.unsettled(100.0) == [B]


def test_a_file_counts_when_it_has_stayed_the_same_for_as_long_as_was_said() -> None:
    agenda = begun(2.0)
    agenda.take(seen(a=1), now=1.0, wall=NEW)
    agenda.take(seen(a=2), now=2.5, wall=NEW)
    assert agenda.due(3.5) is None
    due = agenda.due(4.5)
    assert due is not None and due.seen == Seen() and due.marks == {A: mark(2, NEW)}
    agenda.done(due)
    assert agenda.due(99.0) is None


def test_a_file_that_changed_after_it_was_handled_is_tried_again_whatever_its_size_and_time() -> None:
    agenda = begun(0.0, seen(a=1))
    touched = Mark((1, int(NEW * 1e9), 7, 1), 1)  # its rights were changed, say
    agenda.take(Look({A: touched}, (Path("/v"),)), now=5.0, wall=NEW)
    due = agenda.due(5.0)
    assert due is not None and due.seen.again == {A}


def test_a_file_that_went_is_left_for_a_moment_and_then_forgotten() -> None:
    agenda = begun(2.0, seen(a=1, b=1), gone=lambda path, device: True)
    agenda.take(seen(b=1, c=1), now=10.0, wall=NEW)  # a is called c now, or was deleted
    assert agenda.due(11.0) is None and agenda.unsettled(11.0) == [A, C]
    due = agenda.due(12.0)
    assert due is not None and due.seen == Seen(gone=frozenset({A})) and C in due.marks
    agenda.done(due)
    assert agenda.due(99.0) is None


def test_a_file_that_is_moved_counts_at_its_new_place_when_it_is_gone_from_the_old_one() -> None:
    agenda = begun(2.0, seen(a=1), gone=lambda path, device: True)
    agenda.take(Look({C: mark(1, OLD)}, (Path("/v"),)), now=10.0, wall=NEW)  # it keeps the time that it had
    assert agenda.due(11.9) is None
    due = agenda.due(12.0)
    assert due is not None and due.seen == Seen(gone=frozenset({A})) and C in due.marks


def test_a_file_that_comes_back_within_the_moment_was_never_gone() -> None:
    agenda = begun(2.0, seen(a=1), gone=lambda path, device: True)
    agenda.take(seen(), now=10.0, wall=NEW)
    agenda.take(seen(a=1), now=11.0, wall=NEW)
    assert agenda.due(99.0) is None


def test_what_lay_on_a_disk_that_is_away_is_left_for_as_long_as_it_is_away() -> None:
    agenda = begun(2.0, seen(a=1, b=1), gone=lambda path, device: False)
    agenda.take(seen(b=1, c=1), now=10.0, wall=NEW)
    due = agenda.due(999.0)
    assert due is not None and due.seen == Seen(leave=frozenset({A}))
    agenda.done(due)
    assert agenda.due(1999.0) is None and agenda.unsettled(1999.0) == []


def begun(settle_s: float, first: Look = Look({}), gone: Callable[[Path, int], bool] = lambda *_: False) -> Agenda:
    """An agenda on which everything of a first look was done."""
    agenda = Agenda(settle_s, gone)
    agenda.take(first, now=-100.0, wall=NEW)
    due = agenda.due(0.0)
    assert due is not None
    agenda.done(due)
    return agenda


# ------------------------------------------------------------------------------------------------------------ the loop


@dataclass
class World:
    """Time and a folder of files, of which a script changes one after each wait. plan: what happens, by the second."""

    plan: dict[float, Callable[[], None]]
    until: float = 100.0
    time: float = 0.0
    files: dict[str, int] = field(default_factory=dict)
    passes: list[tuple[float, Seen]] = field(default_factory=list)
    events: list[WatchEvent] = field(default_factory=list)
    paused: bool = False
    flaws: tuple[Flaw, ...] = ()
    result: Callable[[], PassReport] = lambda: report()
    how, every_s = "a script", 10.0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return NEW + self.time

    def wait(self, seconds: float) -> bool:
        """Let time pass, up to what happens next; that is heard."""
        if self.time >= self.until:
            raise KeyboardInterrupt
        coming = min((at for at in self.plan if at > self.time), default=float("inf"))
        if coming > self.time + seconds:
            self.time += seconds
            return False
        self.time = coming
        self.plan[coming]()
        return True

    def close(self) -> None: ...

    def look(self) -> Look:
        return Look(seen(**self.files).files, (Path("/v"),), self.flaws)

    def work(self, sources: Sequence[Path], what: Seen, watch: Callable[[str, int, int | None], None]) -> PassReport:
        self.passes.append((self.time, what))
        watch("extracting frames", 0, 1)
        return self.result()

    def put(self, **sizes: int) -> Callable[[], None]:
        return lambda: self.files.update(sizes)

    def told(self) -> list[str]:
        return [event.did for event in self.events]


def report(**changed: object) -> PassReport:
    plain: dict[str, object] = {
        "read": 0, "kept": 0, "renamed": 0, "forgotten": 0, "failures": [], "unreachable": [],
        "clips": 1, "seconds": 1.0,
    }  # fmt: skip
    return PassReport(**{**plain, **changed})  # type: ignore[arg-type]


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(Workspace(tmp_path), WatchStatus(workspace=str(tmp_path), state="starting", videos=["/v"]))


def watcher(world: World, board: Board, settle_s: float = 2.0) -> Watcher:
    return Watcher(
        Agenda(settle_s, lambda path, device: True), world.look, lambda: (world, ""), world.work, board,
        lambda: world.paused, world.events.append, clocks=world,
    )  # fmt: skip


def test_a_growing_file_is_read_once_when_it_has_settled(board: Board) -> None:
    world = World({}, until=60.0)
    world.plan = {5.0: world.put(a=1), 6.0: world.put(a=2), 7.0: world.put(a=3)}
    last = watcher(world, board).run()
    first, then = world.passes
    assert first == (0.0, Seen()) and 9.0 <= then[0] <= 12.0 and then[1] == Seen()
    assert last.state == "ended" and world.told() == ["started", "finished", "ended"]


def test_a_crowd_of_events_is_one_look(board: Board) -> None:
    world = World({}, until=30.0)
    looks: list[float] = []
    world.plan = {5.0 + i / 100: world.put(a=i) for i in range(40)}
    world.look = lambda real=world.look: (looks.append(world.time), real())[1]  # type: ignore[method-assign,misc]
    watcher(world, board).run()
    assert len([at for at in looks if 5.0 <= at < 6.0]) <= 2


def test_a_library_that_takes_long_to_look_at_is_looked_at_less_often(board: Board) -> None:
    world = World({}, until=30.0)
    looks: list[float] = []

    def slow_look(real: Callable[[], Look] = world.look) -> Look:
        looks.append(world.time)
        world.time += 1.0
        return real()

    world.look = slow_look  # type: ignore[method-assign]
    world.plan = {6.0 + i / 10: world.put(a=i) for i in range(200)}
    watcher(world, board).run()
    assert len([at for at in looks if 6.0 <= at < 26.0]) <= 5


def test_a_step_that_fails_is_listed_tried_again_and_does_not_end_it(board: Board) -> None:
    world = World({}, until=130.0)
    answers = iter([EnvironmentProblem("no space left"), ZeroDivisionError("bug"), report(read=1)])

    def result() -> PassReport:
        answer = next(answers)
        if isinstance(answer, Exception):
            problems.append([flaw.reason for flaw in board.now.problems])
            raise answer
        return answer

    problems: list[list[str]] = []
    world.result = result
    last = watcher(world, board).run()
    assert [at for at, _ in world.passes] == [0.0, 60.0, 120.0]
    assert problems == [[], ["no space left"]] and list(last.problems) == []
    assert [event.text for event in world.events if event.did == "failed"] == [
        "no space left; tried again in 60 s",
        "a bug in tvr: ZeroDivisionError: bug; tried again in 60 s",
    ]
    assert last.read == 1 and last.passes == 1


def test_the_same_trouble_is_said_once(board: Board) -> None:
    world = World({}, until=130.0)

    def failing() -> PassReport:
        raise EnvironmentProblem("no space left")

    world.result = failing
    last = watcher(world, board).run()
    assert len(world.passes) == 3 and world.told() == ["started", "failed", "ended"]
    assert [flaw.reason for flaw in last.problems] == ["no space left"]


def test_videos_that_went_before_it_was_started_are_listed(board: Board) -> None:
    world = World({}, until=5.0)
    world.result = lambda: report(unreachable=["a.mp4"])
    last = watcher(world, board).run()
    assert [flaw.what for flaw in last.problems] == ["a.mp4"] and "--forget" in last.problems[0].reason


def test_videos_that_fail_are_listed_and_said_once(board: Board) -> None:
    world = World({}, until=30.0)
    world.plan = {5.0: world.put(a=1)}
    world.result = lambda: report(failures=[Flaw("a.mp4", "zero bytes")])
    last = watcher(world, board).run()
    assert len(world.passes) == 2 and last.failed == 1 and last.failures == [Flaw("a.mp4", "zero bytes")]
    assert [event.text for event in world.events if event.did == "finished"] == [
        "failed: a.mp4: zero bytes; 1 clip to search (1.0 s)"
    ]


def test_a_source_that_is_not_there_is_a_problem_and_no_end(board: Board) -> None:
    world = World({}, until=30.0, flaws=(Flaw("/v", "there is no such folder"),))
    watching = watcher(world, board)
    world.plan = {15.0: lambda: setattr(world, "flaws", ())}
    last = watching.run()
    assert world.told() == ["started", "failed", "finished", "ended"] and list(last.problems) == []


def test_a_pause_stops_a_pass_and_going_on_does_it_again(board: Board) -> None:
    world = World({}, until=60.0)
    states: list[str] = []

    def interrupted() -> PassReport:
        world.paused = len(world.passes) == 1
        if world.paused:
            raise Interrupted("saved")  # as an extraction ends by Ctrl-C, or by Halt
        return report()

    world.result = interrupted
    world.plan = {
        20.0: lambda: states.append(board.now.state),
        30.0: lambda: setattr(world, "paused", False),
    }
    watcher(world, board).run()
    assert [at for at, _ in world.passes] == [0.0, 30.0] and states == ["paused"]
    assert world.told() == ["started", "paused", "continued", "finished", "ended"]


def test_a_pause_is_noticed_by_the_next_word_of_progress(board: Board) -> None:
    world = World({}, until=20.0)
    watching = watcher(world, board)
    world.paused = True
    with pytest.raises(Halt):
        watching._progress("encoding frames", 3, 9)
    assert board.now.progress is not None and board.now.progress.done == 3


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no such signal")
def test_the_signal_of_a_pause_stops_what_is_under_way_and_nothing_else(board: Board) -> None:
    world = World({}, until=0.0)
    watching = watcher(world, board)
    with pausing_at_once(watching):
        signal.raise_signal(signal.SIGUSR1)  # it waits
        world.paused = watching._working = True
        with pytest.raises(Halt):
            signal.raise_signal(signal.SIGUSR1)


def test_ctrl_c_ends_it_and_what_it_was_at_is_said_to_be_saved(board: Board, tmp_path: Path) -> None:
    world = World({}, until=100.0)

    def stopped() -> PassReport:
        raise Interrupted("saved")

    world.result = stopped
    last = watcher(world, board).run()
    assert last.state == "ended" and world.told() == ["started", "ended"]
    assert WatchStatus.from_file(status.status_path(Workspace(tmp_path))).state == "ended"


def test_once_waits_for_what_is_written_and_ends(board: Board) -> None:
    world = World({}, files={"a": 1})
    last = watcher(world, board).run(once=True)
    assert [(at, sorted(what.leave)) for at, what in world.passes] == [(0.0, [A]), (2.0, [])]
    assert last.state == "ended" and world.time == 2.0


def test_once_raises_what_its_work_raises(board: Board) -> None:
    world = World({})

    def failing() -> PassReport:
        raise DataError("another plan")

    world.result = failing
    with pytest.raises(DataError, match="another plan"):
        watcher(world, board).run(once=True)
    assert board.now.state == "ended"
    world.result = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(Interrupted, match="the same command goes on"):
        watcher(world, board).run(once=True)


def test_it_ends_with_the_process_that_it_was_started_for(board: Board) -> None:
    world = World({}, until=50.0)
    watching = watcher(world, board)
    watching.alone = lambda: world.time >= 5.0
    assert watching.run().state == "ended" and world.time == pytest.approx(5.0)


# ----------------------------------------------------------------------------------------------- status and the budget


def test_a_status_is_that_of_a_watcher_that_runs(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert status.read(workspace).state == "none"
    Board(workspace, WatchStatus(workspace="out", state="working", pid=7)).say(state="waiting")
    assert status.read(workspace).state == "none"  # it is what one left behind
    with files.lock(workspace.watch_folder):
        assert status.read(workspace).pid == 7
        status.status_path(workspace).write_text("{")
        assert status.read(workspace).state == "starting"
        with pytest.raises(EnvironmentProblem, match="is watched already"):
            running.refuse_second(workspace)
    running.refuse_second(workspace)


def test_a_process_of_an_earlier_watcher_is_never_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_SAYS_S", 0.0)
    workspace = Workspace(tmp_path)
    Board(workspace, WatchStatus(workspace="out", state="working", pid=7)).say(state="waiting")
    with running._alone(workspace):
        found = status.read(workspace)
        assert (found.state, found.pid) == ("starting", None)
        with pytest.raises(EnvironmentProblem, match=r"has not said which process it is; try again .* --stop"):
            running.stop(workspace)


def test_a_watcher_that_is_starting_is_stopped_when_it_has_said_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, sent = Workspace(tmp_path), list[tuple[int, int]]()
    holding = contextlib.ExitStack()
    holding.enter_context(running._alone(workspace))
    first = WatchStatus(workspace="out", state="starting", pid=7)
    monkeypatch.setattr(running.time, "sleep", lambda seconds: Board(workspace, first).say())
    monkeypatch.setattr(os, "kill", lambda *what: (sent.append(what), holding.close()))
    with holding:
        ended = running.stop(workspace)
    assert (ended.state, ended.pid, sent) == ("ended", 7, [(7, signal.SIGTERM)])


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no such signal")
@pytest.mark.parametrize(("state", "signals"), [("starting", 0), ("working", 1), ("ended", 0)])
def test_a_pause_sends_its_signal_to_work_alone_for_it_would_end_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: status.State, signals: int
) -> None:
    workspace, sent = Workspace(tmp_path), list[tuple[int, int]]()
    monkeypatch.setattr(os, "kill", lambda *what: sent.append(what))
    with files.lock(workspace.watch_folder):
        Board(workspace, WatchStatus(workspace="out", state=state, pid=7)).say()
        running.pause(workspace)
        assert sent == [(7, signal.SIGUSR1)] * signals and status.paused_path(workspace).is_file()


def test_a_status_that_cannot_be_written_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: object) -> None:
        raise EnvironmentProblem("the disk is full")

    board = Board(Workspace(tmp_path), WatchStatus(workspace="out", state="starting"))
    monkeypatch.setattr(files, "write_json", full)
    said: list[str] = []
    monkeypatch.setattr(log.logger, "warning", lambda text, *parts: said.append(text % parts))
    board.say(state="waiting")
    board.say(state="working")
    assert said == ["warning: what the watcher does cannot be noted: the disk is full"]
    assert board.now.state == "working"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system keeps no process to processors")
def test_a_budget_holds_in_the_block_and_not_beyond_it() -> None:
    before = os.sched_getaffinity(0)
    with budget.kept_to(1):
        assert os.sched_getaffinity(0) == {max(before)}
    assert os.sched_getaffinity(0) == before
    assert 1 <= budget.usual() <= len(before)


def test_sources_are_those_of_the_frames_where_none_are_named(tmp_path: Path) -> None:
    assert running.sources_of([Path("videos")], Workspace(tmp_path)) == [Path("videos")]
    with pytest.raises(DataError, match="tvr watch videos/"):
        running.sources_of([], Workspace(tmp_path))


def test_no_flaw_is_said_twice(board: Board) -> None:
    world = World({}, until=40.0, flaws=(Flaw("/v/closed", "cannot be looked through"),))
    last = watcher(world, board).run()
    assert world.told().count("failed") == 1 and last.problems == [Flaw("/v/closed", "cannot be looked through")]
