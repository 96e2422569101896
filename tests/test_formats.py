"""docs/formats.md names every key of every JSON object that a command prints, and every file and tensor on disk."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import indexes
import pytest
from miniature import write_dataset
from safetensors import safe_open
from synthetic import SyntheticStore
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.errors import DataError
from tvr_cli.results.base import schemas

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "formats.md").read_text()
OWN = "tests.synthetic"  # not built in: named again with its run
FAST = ("--epochs", 1, "--batch-size", 4, "--threads", 1, "--device", "cpu")
# Keys that are data, not format: ids, names of options and files, metrics explained in evaluation.md.
OPEN = {"options", "config", "identity", "provenance", "data", "decoders", "norms", "results", "env", "known"}
OPEN |= {"protocols", "reports", "sizes", "cost", "environment", "by_kind", "versions"}


def tvr(*args: object, codes: tuple[int, ...] = (0,)) -> dict:
    result = CliRunner().invoke(app, [*map(str, args), "--json"])
    assert result.exit_code in codes, (args, result.stderr[-1500:])
    return json.loads(result.stdout)


def keys(value: object) -> set[str]:
    """All keys of an object and of the objects in it, without those below the open ones."""
    if isinstance(value, list):
        return set().union(*map(keys, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(keys(v) for k, v in value.items() if k not in OPEN))


def undocumented(payload: dict) -> list[str]:
    assert payload["schema"] in PAGE
    assert json.dumps(payload) in read_back(payload)
    named = set(re.findall(r'[`"]([A-Za-z_@0-9 ]+)[`"]', PAGE))
    return sorted(keys(payload) - named)


def read_back(payload: dict) -> list[str]:
    """The lines that the classes of a schema print again of an object which they can read."""
    lines = []
    for cls in schemas()[payload["schema"]]:
        with contextlib.suppress(DataError):
            lines.append(json.dumps(cls.from_json(payload, "the line").to_json()))
    return lines


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("formats") / "out"
    SyntheticStore(videos=24, splits=("train", "train", "val", "test")).write(out)
    assert not undocumented(tvr("train", "--method", OWN, *FAST, "--run", "one", "-o", out))
    return out


@pytest.mark.parametrize(
    "args",
    [
        ("evaluate", "one", "--method", OWN),
        ("evaluate", "--method", "mean", "--post", "dsl,qbnorm"),
        ("evaluate", "--method", "mean", "--metrics", "clip4clip"),
        ("evaluate", "--method", "mean", "--stream"),
        ("train", "--method", OWN, "--dry-run"),
        ("train", "--method", OWN, *FAST, "--seeds", "0,1"),
        ("train", "--method", OWN, "--seeds", "0,1", "--dry-run"),
        ("index", "--method", "mean"),
        ("rerun", "one", "--method", OWN),
    ],
    ids=lambda args: " ".join(map(str, args)),
)
def test_every_key_of_a_workspace_command_is_documented(args: tuple, workspace: Path) -> None:
    assert undocumented(tvr(*args, "-o", workspace)) == []


def test_every_key_of_comparing_and_describing_is_documented(workspace: Path) -> None:
    for args in (("evaluate", "one", "--method", OWN), ("evaluate", "--method", "mean")):
        tvr(*args, "-o", workspace)
    tvr("index", "--method", "mean", "-o", workspace)
    scores = workspace.parent / "scores.safetensors"
    tvr("evaluate", "--method", "mean", "--save-scores", scores, "-o", workspace)
    runs = workspace / "runs"
    for payload in (
        tvr("compare", runs / "one", runs / "mean"),
        tvr("compare", runs / "one", scores),
        tvr("evaluate", "--scores", scores),
        tvr("audit", scores, runs / "mean" / "results" / "test.json"),
        tvr("audit", "--queries", 1000, "--r1", "47.0", "--against-queries", 1000, "--against-r1", "48.5"),
        tvr("info", runs / "one"),
        tvr("info", workspace / "index"),
        tvr("info", next((workspace / "features").iterdir())),
        tvr("info", workspace),
    ):
        assert undocumented(payload) == []


def test_every_key_of_the_other_objects_is_documented(tmp_path: Path) -> None:
    data = f"msrvtt:{write_dataset('msrvtt', tmp_path / 'MSRVTT')}"
    for payload in (
        tvr("methods"),
        tvr("backbones"),
        tvr("backbones", "show", "clip-vit-b32"),
        tvr("datasets"),
        tvr("datasets", "show", "msrvtt"),
        tvr("reproduce"),
        tvr("reproduce", "gare-msrvtt-b32", "--data", data, "--dry-run", "-o", tmp_path / "out"),
        tvr("doctor", data, codes=(3,)),
        tvr("demo", "--dry-run"),
    ):
        assert undocumented(payload) == []


def test_every_file_of_a_run_and_an_index_is_documented(workspace: Path) -> None:
    tvr("evaluate", "one", "--method", OWN, "-o", workspace)
    tvr("index", "--method", "mean", "-o", workspace)
    for path in [p for part in ("runs/one", "index") for p in (workspace / part).rglob("*") if p.is_file()]:
        name = path.name.replace("test.", "<split>.")
        name = re.sub(r"step-\d{8}", "step-00000120", name)
        name = re.sub(r"^\d{6}(-\d\d)?\.", lambda found: "000001-00." if found[1] else "000001.", name)
        assert name in PAGE, path
    with safe_open(workspace / "runs" / "one" / "results" / "test.ranks.safetensors", "np") as f:
        assert all(f"`{name}`" in PAGE for name in f.keys())  # noqa: SIM118 - not a mapping
    found = indexes.head(workspace / "index")
    parts = [part["name"] for part in found["segments"][0]["parts"]]
    assert all(f"`{name}`" in PAGE for name in [*found, *found["segments"][0], *(p for p in parts if p[:2] != "t.")])


def test_the_examples_are_json() -> None:
    blocks = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 6
    for block in blocks:
        try:
            json.loads(block)
        except json.JSONDecodeError:
            [json.loads(line) for line in block.splitlines()]
