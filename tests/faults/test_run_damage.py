"""Types swapped in the JSON files of a run, and in what stands beside its weights: a sentence, never a bug.

A seeded sample; `TVR_FAULTS=N` tries N swaps a file instead.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from synthetic import SyntheticStore
from typer.testing import CliRunner

from faults.damage import swaps
from tvr_cli.cli import app

SWAPS = int(os.environ.get("TVR_FAULTS", "3"))
METHOD = ("--method", "tests.synthetic")
FAST = ("--epochs", "1", "--batch-size", "4", "--threads", "1", "--device", "cpu")


def tvr(*args: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "out"
    SyntheticStore(videos=12, splits=("train", "train", "val", "test")).write(out)
    for words in (("train", *METHOD, "--run", "one", *FAST), ("evaluate", "one", *METHOD)):
        done = tvr(*words, "-o", out)
        assert done.exit_code == 0, done.stderr
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def command(name: str, out: Path) -> tuple[object, ...]:
    run = out / "runs" / "one"
    of: dict[str, tuple[object, ...]] = {
        "info": ("info", out),
        "compare": ("compare", run, run, "-o", out),
        "evaluate": ("evaluate", "one", *METHOD, "-o", out),
        "resume": ("train", *METHOD, "--run", "one", "--resume", "-o", out),
        "plot": ("plot", "one", "-o", out),
        "rerun": ("rerun", "one", *METHOD, "--dry-run", "-o", out),
    }
    return of[name]


def refuses(out: Path, name: str, what: str) -> bool:
    """Return whether a command refuses a damaged file, in a sentence. What it writes is taken back."""
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    result = tvr(*command(name, out))
    said = f"{what}: {name}: {result.stderr}"
    assert result.exit_code in (0, 2, 3, 4), said
    assert not result.exit_code or ("a bug in tvr" not in result.stderr and len(result.stderr.strip()) > 30), said
    for path in [path for path in out.rglob("*") if path.is_file() and path not in before]:
        path.unlink()
    for path, data in before.items():
        if not path.is_file() or path.read_bytes() != data:
            path.write_bytes(data)
    return bool(result.exit_code)


def json_file(path: Path) -> tuple[Any, Callable[[Any], None]]:
    return json.loads(path.read_text()), lambda value: path.write_text(json.dumps(value))


def last_line(path: Path) -> tuple[Any, Callable[[Any], None]]:
    *rest, last = path.read_text().splitlines(keepends=True)
    return json.loads(last), lambda value: path.write_text("".join(rest) + json.dumps(value) + "\n")


def first_line(path: Path) -> tuple[Any, Callable[[Any], None]]:
    first, *rest = path.read_text().splitlines(keepends=True)
    return json.loads(first), lambda value: path.write_text(json.dumps(value) + "\n" + "".join(rest))


def metadata(path: Path) -> tuple[Any, Callable[[Any], None]]:
    tensors = load_file(path)
    with safe_open(path, "pt") as f:
        about = json.loads(f.metadata()["tvr"])
    return about, lambda value: save_file(tensors, path, metadata={"tvr": json.dumps(value)})


@pytest.mark.parametrize(
    ("name", "opened", "readers"),
    [
        ("config.json", json_file, "info evaluate resume rerun"),
        ("origins.json", json_file, "compare"),
        ("env.json", json_file, "info evaluate resume rerun"),
        ("metrics.jsonl", first_line, "info resume plot"),
        ("metrics.jsonl", last_line, "info resume plot"),
        ("results/test.json", json_file, "info compare evaluate"),
        ("checkpoints/best.safetensors", metadata, "info evaluate"),
        ("checkpoints/step-*.safetensors", metadata, "resume"),
    ],
)
def test_a_value_of_another_type_in_a_file_of_a_run_is_a_sentence(
    out: Path, name: str, opened: Any, readers: str
) -> None:
    path = sorted((out / "runs" / "one").glob(name))[-1]
    whole = path.read_bytes()
    value, write = opened(path)
    every, refused = list(swaps(value)), 0
    whole_type = ("all of it = []", [])  # this one everybody refuses
    for what, changed in [whole_type, *random.Random(name).sample(every, min(SWAPS, len(every)))]:
        write(changed)
        refused += sum(refuses(out, reader, f"{name}: {what}") for reader in readers.split())
        path.write_bytes(whole)
    assert refused > 0
