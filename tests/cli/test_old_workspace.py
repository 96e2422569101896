"""A workspace that tvr 0.1.0 wrote (scripts/make_old_workspace.py): migrated, it gives the answers of 0.1.0."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tvr_cli.cli import app

OLD = Path(__file__).parent.parent / "old" / "0.1.0"
ANSWERS = json.loads((OLD / "answers.json").read_text())


def ok(*args: object) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in (*args, "--json")])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = Path(shutil.copytree(OLD, tmp_path_factory.mktemp("old") / "out"))
    result = CliRunner().invoke(app, ["evaluate", "--method", "mean", "-o", str(out)])
    assert result.exit_code == 3 and "run: tvr migrate -o" in result.stderr
    ok("migrate", "-o", out)
    return out


def close(now: Any, then: Any, path: str = "") -> None:
    """Hold everything that 0.1.0 said: numbers to 1e-6, the rest exactly."""
    if isinstance(then, dict):
        for key, value in then.items():
            close(now[key], value, f"{path}.{key}")
    elif isinstance(then, list):
        assert len(now) == len(then), path
        for i, value in enumerate(then):
            close(now[i], value, f"{path}[{i}]")
    else:
        assert now == (pytest.approx(then, rel=1e-6, abs=1e-6) if isinstance(then, float) else then), path


@pytest.mark.parametrize(("name", "flags"), [("mean", ("--method", "mean")), ("small", ("small",))])
def test_evaluate_gives_the_numbers_of_0_1_0(out: Path, name: str, flags: tuple[str, ...]) -> None:
    now, then = ok("evaluate", *flags, "-o", out), ANSWERS["evaluate"][name]
    changing = {"tvr", "commit", "cost", "data"}  # versions, seconds, and the hash of a captions file that is not here
    close(now, {key: value for key, value in then.items() if key not in changing})


@pytest.mark.parametrize(("name", "flags"), [("mean", ("--method", "mean")), ("small", ("--run", "small"))])
def test_an_exhaustive_query_gives_the_scores_of_0_1_0(out: Path, name: str, flags: tuple[str, ...]) -> None:
    ok("index", *flags, "--overwrite", "-o", out)
    for then in ANSWERS["query"][name]:
        (asked,) = then["results"]
        close(ok("query", asked["query"], "--exhaustive", "--index", out), then)


def test_features_of_0_1_0_are_as_new_as_the_frames(out: Path) -> None:
    """The hash of the content is the same, so nothing is computed again."""
    told = ok("precompute-features", "--dry-run", "--max-words", 16, "--backbone", "demo-tiny", "-o", out)
    (features,) = (out / "features").iterdir()
    assert told["fingerprint"] == features.name
    assert told["clips"] == {"total": ANSWERS["info"]["clips"], "encoded": 0, "kept": ANSWERS["info"]["clips"]}
    now, then = ok("info", out / "frames"), ANSWERS["info"]
    close(now, {key: value for key, value in then.items() if key not in ("path", "bytes")})
