"""Workspaces of tvr 0.1.0 in tests/old, and holding what this tvr says of them against what 0.1.0 said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tvr_cli.cli import app

OLD = Path(__file__).parent / "old"
# Versions, seconds, and the hash of annotation files that are not here.
CHANGING = {"tvr", "commit", "cost", "data"}


def answers(name: str) -> Any:
    """Return what 0.1.0 said of a workspace."""
    return json.loads((OLD / name / "answers.json").read_text())


def copy(name: str, target: Path) -> Path:
    """Copy a workspace of 0.1.0."""
    return Path(shutil.copytree(OLD / name, target))


def ok(*args: object) -> Any:
    """Run a command, which must succeed, and return its JSON."""
    result = CliRunner().invoke(app, [str(a) for a in (*args, "--json")])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def close(now: Any, then: Any, path: str = "", *, within: float = 1e-6) -> None:
    """Hold everything that 0.1.0 said: numbers to `within`, the rest exactly."""
    if isinstance(then, dict):
        for key, value in then.items():
            close(now[key], value, f"{path}.{key}", within=within)
    elif isinstance(then, list):
        assert len(now) == len(then), path
        for i, value in enumerate(then):
            close(now[i], value, f"{path}[{i}]", within=within)
    else:
        assert now == (pytest.approx(then, rel=within, abs=within) if isinstance(then, float) else then), path
