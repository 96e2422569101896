"""A disk that fails while a run begins: there is no run, or one that `--resume` goes on with."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from synthetic import SyntheticStore
from typer.testing import CliRunner, Result

from tvr_cli import files, runs
from tvr_cli.cli import app

FAST = ("--epochs", 1, "--batch-size", 4, "--threads", 1, "--device", "cpu")


def train(out: Path, *flags: object) -> Result:
    flags = ("train", "--method", "tests.synthetic", *flags, "-o", out)
    return CliRunner().invoke(app, [str(a) for a in flags])


@pytest.mark.parametrize("name", ["env.json", "origins.json", "config.json"])
def test_a_full_disk_at_the_start_leaves_no_run_that_cannot_be_resumed(
    tmp_path: Path, monkeypatch: Any, name: str
) -> None:
    SyntheticStore().write(tmp_path)

    def full(path: Path, value: Any) -> None:
        if path.name == name:
            with files.disk_errors(path):
                raise OSError(errno.ENOSPC, "No space left on device")
        files.write_json(path, value)

    monkeypatch.setattr(runs, "write_json", full)
    assert train(tmp_path, "--run", "one", *FAST).exit_code == 4
    monkeypatch.undo()
    resumed = train(tmp_path, "--run", "one", "--resume")
    assert resumed.exit_code == 3 and "expected a run 'one'" in resumed.stderr
    assert train(tmp_path, "--run", "one", *FAST).exit_code == 0
