"""A part that is run by a pool: what it cannot do is a row, and a process that dies is counted."""

from __future__ import annotations

from pathlib import Path

from tvr_cli.engine.whole.parts import PartRow, attempted
from tvr_cli.errors import DataError
from tvr_cli.workspace import Workspace


class Killed(BaseException):
    """What a kill is to the code that it ends."""


def test_a_part_whose_process_died_three_times_is_given_up_and_may_be_begun_again(tmp_path: Path) -> None:
    workspace, started = Workspace(tmp_path / "parts" / "1-of-2"), []

    def dies(_: Workspace) -> PartRow:
        started.append(1)
        raise Killed

    for _ in range(3):
        try:
            attempted(workspace, 1, dies)
        except Killed:
            continue
    row = attempted(workspace, 1, dies)
    assert row.error == "its process died 3 times; it is given up" and len(started) == 3
    again = attempted(workspace, 1, lambda _: PartRow(1, done=2))
    assert (again.error, again.done, workspace.attempts.exists()) == (None, 2, False)


def test_what_a_part_cannot_do_is_a_row_and_no_error_of_the_others(tmp_path: Path) -> None:
    def refuses(_: Workspace) -> PartRow:
        raise DataError("no video in 'videos'")

    row = attempted(Workspace(tmp_path / "1"), 1, refuses)
    assert (row.part, row.error) == (1, "no video in 'videos'")
    assert not Workspace(tmp_path / "1").attempts.exists()
