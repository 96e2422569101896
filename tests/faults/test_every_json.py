"""Every kind of JSON that tvr writes into a workspace, with types swapped and bits flipped: a sentence, never a bug.

The kinds are listed from what the commands wrote, so a new file of JSON fails here until it has a row. What damage of a
kind may and may not change is in the tests of that kind; here any answer will do that is no bug. A seeded sample;
`TVR_FAULTS=N` tries N of each instead.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import videos
from typer.testing import CliRunner

from faults.damage import flipped, swaps
from tvr_cli.cli import app

TRIES = int(os.environ.get("TVR_FAULTS", "1"))
HEX = re.compile(r"[0-9a-f]{12,}")
READ = {
    "frames": [["info"], ["doctor"], ["precompute-features", "--backbone", "demo-tiny", "--dry-run"]],
    "features": [["info"], ["doctor"], ["evaluate", "--method", "mean", "--device", "cpu"]],
    "index": [["info"], ["doctor"], ["query", "a square", "--method", "mean"]],
    "runs": [["info"], ["evaluate", "one", "--device", "cpu"], ["compare", "one", "one"], ["plot", "one"]],
}
# Each kind of file by its place, with hashes as # and numbers as 0: where it is read is the first folder.
KINDS = {
    "frames/store.json", "frames/shards-0.jsonl", "frames/#.#.records.json", "frames/failures.jsonl",
    "features/#/store.json", "features/#/shards-0.jsonl",
    "features/#/video-#.#.rows.json", "features/#/text-#.#.rows.json",
    "index/current", "index/g0/store.json",
    "runs/one/config.json", "runs/one/env.json", "runs/one/origins.json", "runs/one/metrics.jsonl",
    "runs/one/results/test.json", "runs/one/results/test.ids.json",
}  # fmt: skip

pytestmark = pytest.mark.slow


def tvr(*args: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with everything that the pipeline writes."""
    folder = tmp_path_factory.mktemp("json")
    (folder / "videos").mkdir()
    lines = []
    for i, split in enumerate(("train", "train", "train", "val", "test", "test")):
        videos.make_video(folder / "videos" / f"{i}.mp4", 4 + i, fps=4, size=(64, 64))
        lines.append(json.dumps({"video": f"{i}.mp4", "caption": f"the square number {i}", "split": split}) + "\n")
    (folder / "videos" / "captions.jsonl").write_text("".join(lines))
    (folder / "videos" / "bad.mp4").write_bytes(b"no video")
    small = ("--size", 64, "--num-frames", 2, "--workers", 1, "--allow-failures")
    for words in (
        ("extract-frames", folder / "videos", *small),
        ("precompute-features", "--backbone", "demo-tiny", "--offline"),
        ("train", "--method", "glccl", "--run", "one", "--epochs", 1, "--batch-size", 2, "--device", "cpu"),
        ("evaluate", "one", "--device", "cpu"),
        ("index", "--method", "mean", "--device", "cpu"),
    ):
        done = tvr(*words, "-o", folder / "out")
        assert done.exit_code == 0, done.stderr
    return folder / "out"


def is_json(path: Path) -> bool:
    """Return whether a file is a JSON, or one a line, whatever it is called."""
    if path.suffix in (".json", ".jsonl"):
        return True
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except ValueError:
        return False


def kind_of(path: Path, out: Path) -> str:
    return re.sub(r"\d+", "0", HEX.sub("#", path.relative_to(out).as_posix()))


def files_of(out: Path) -> dict[str, Path]:
    """Return one file of each kind."""
    return {kind_of(p, out): p for p in sorted(out.rglob("*")) if p.is_file() and p.stat().st_size and is_json(p)}


def test_every_kind_of_json_has_its_row(out: Path) -> None:
    assert set(files_of(out)) == KINDS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_damage_of_any_kind_of_json_is_no_bug(out: Path, kind: str) -> None:
    path, rng = files_of(out)[kind], random.Random(kind)
    whole = path.read_bytes()
    first, *rest = whole.splitlines(keepends=True) if kind.endswith(".jsonl") else (whole,)
    every = list(swaps(json.loads(first)))
    tried = [
        (what, json.dumps(changed).encode() + b"\n" + b"".join(rest)) for what, changed in rng.sample(every, TRIES)
    ]
    tried += [(f"bit flip {i}", flipped(whole, rng)) for i in range(TRIES)]
    backup = path.parents[len(path.relative_to(out).parts) - 1].with_name("backup")
    shutil.copytree(out, backup)
    try:
        for what, data in tried:
            path.write_bytes(data)
            for words in READ[kind.partition("/")[0]]:
                done = tvr(*words, *([out] if words[0] == "doctor" else ["-o", out]))
                said = f"{kind}: {what}: tvr {' '.join(words)}: exit {done.exit_code}: {done.stderr}"
                assert done.exit_code in (0, 2, 3, 4, 5) and "a bug in tvr" not in done.stderr, said
            shutil.rmtree(out)
            shutil.copytree(backup, out)
    finally:
        shutil.rmtree(backup)
    print(f"\ntried: {len(tried)} of {kind}", file=sys.__stdout__)
