"""A printed command that reads videos again is followed to the letter: it has the plan of the frames that are there."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import videos
from typed_commands import cannot_be_typed
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.plans import FramePlan
from tvr_cli.workspace import Workspace

pytestmark = pytest.mark.usefixtures("warm_readers")

PLANS = [
    ["--num-frames", "3"],
    ["--fps", "2"],
    ["--fps", "2.5", "--max-frames", "5"],
    ["--quality", "70"],
    ["--size", "64", "--fit", "crop"],
    ["--num-frames", "4", "--quality", "80", "--size", "64", "--fit", "squash"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("my videos")
    videos.make_video(path / "a.mp4", 20, size=(64, 48), fps=10)
    return path


@pytest.mark.parametrize("flags", PLANS, ids=" ".join)
def test_the_command_that_reads_again_keeps_what_is_there(folder: Path, tmp_path: Path, flags: list[str]) -> None:
    out = tmp_path / "out"
    assert CliRunner().invoke(app, ["extract-frames", str(folder), "-o", str(out), *flags]).exit_code == 0
    again = Workspace.at(out).extract_again()
    done = CliRunner().invoke(app, shlex.split(again)[1:])
    assert done.exit_code == 0 and "nothing new" in done.stdout, (again, done.stderr)


def test_the_usual_plan_needs_no_flag() -> None:
    assert FramePlan().flags() == {}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("tvr extract-frames VIDEOS", "a placeholder, VIDEOS"),
        ("tvr doctor NAME:ROOT", "a placeholder, NAME:ROOT"),
        ("tvr extract videos/", "no such command"),
        ("tvr index --neu", "No such option: --neu"),
        ("tvr extract-frames videos/ --num-frames many", "Invalid value for '--num-frames'"),
        ("tvr extract-frames videos/ -o out", ""),
    ],
)
def test_the_guard_of_these_tests_finds_what_cannot_be_typed(line: str, problem: str) -> None:
    assert problem in cannot_be_typed(line) and bool(cannot_be_typed(line)) == bool(problem)
