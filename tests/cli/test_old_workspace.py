"""A workspace that tvr 0.1.0 wrote (scripts/make_old_workspace.py): migrated, it gives the answers of 0.1.0."""

from __future__ import annotations

from pathlib import Path

import pytest
from old_answers import CHANGING, answers, close, copy, ok
from typer.testing import CliRunner

from tvr_cli.cli import app

ANSWERS = answers("0.1.0")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = copy("0.1.0", tmp_path_factory.mktemp("old") / "out")
    result = CliRunner().invoke(app, ["evaluate", "--method", "mean", "-o", str(out)])
    assert result.exit_code == 3 and "run: tvr migrate -o" in result.stderr
    ok("migrate", "-o", out)
    return out


@pytest.mark.parametrize(("name", "flags"), [("mean", ("--method", "mean")), ("small", ("small",))])
def test_evaluate_gives_the_numbers_of_0_1_0(out: Path, name: str, flags: tuple[str, ...]) -> None:
    now, then = ok("evaluate", *flags, "-o", out), ANSWERS["evaluate"][name]
    close(now, {key: value for key, value in then.items() if key not in CHANGING})


@pytest.mark.parametrize(("name", "flags"), [("mean", ("--method", "mean")), ("small", ("--run", "small"))])
def test_an_exhaustive_query_gives_the_scores_of_0_1_0(out: Path, name: str, flags: tuple[str, ...]) -> None:
    ok("index", *flags, "--overwrite", "-o", out)
    for then in ANSWERS["query"][name]:
        (asked,) = then["results"]
        now = ok("query", asked["query"], "--exhaustive", "--per-file", 1, "--all", "--index", out)
        close(now, {**then, "schema": "tvr/query@2"})


def test_features_of_0_1_0_are_as_new_as_the_frames(out: Path) -> None:
    """The hash of the content is the same, so nothing is computed again."""
    told = ok("precompute-features", "--dry-run", "--max-words", 16, "--backbone", "demo-tiny", "-o", out)
    (features,) = (out / "features").iterdir()
    assert told["fingerprint"] == features.name
    assert told["clips"] == {"total": ANSWERS["info"]["clips"], "encoded": 0, "kept": ANSWERS["info"]["clips"]}
    now, then = ok("info", out / "frames"), ANSWERS["info"]
    close(now, {key: value for key, value in then.items() if key not in ("path", "bytes")})
