"""A seeded sample of what `mutated_videos.py` does, and files whose names are meant to hurt."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import videos
from typer.testing import CliRunner

from faults.mutated_videos import read_mutated
from tvr_cli.cli import app
from tvr_cli.stores.frames.store import FrameStore

HOSTILE = (
    *("new\nline", "tab\there", "\x1b[31mred", "\u202egnp", "\u200bzero", "  blanks  ", "-o", "--help", "~", "%s%n"),
    *("$(id)", "`id`", "a;b", "a|b", "'quote", '"quote', "[b]", "<script>", "{0}", "a\\b", "con", "a...", "*", "?"),
    *("#t=1,2", "a#t=5", "犬 ünï 🐕", "e\u0301", "x" * 240, "\udcff\udcfe", "null", "true", "1e400"),
)  # fmt: skip


@pytest.mark.slow
def test_mutated_videos_are_read_or_refused_with_a_reason(tmp_path: Path) -> None:
    found = read_mutated(tmp_path, 300, seed=1)
    print(f"\ntried: {dict(found)}", file=sys.__stdout__)
    assert found["read"] > 20 and found["refused"] > 20


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names that other systems do not have")
def test_names_that_are_meant_to_hurt_are_names(tmp_path: Path) -> None:
    folder, out = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    made = videos.make_video(tmp_path / "whole.mp4", 4, fps=2, size=(64, 48))
    for name in HOSTILE:
        shutil.copy(made, os.fsencode(folder / f"{name}.mp4"))
    words = ["extract-frames", str(folder), "-o", str(out), "--size", "32", "--num-frames", "2", "--workers", "1"]
    first, again = (CliRunner().invoke(app, [*words, "--json"]) for _ in range(2))
    assert first.exit_code in (0, 5) and again.exit_code == first.exit_code, (first.output, again.output)
    said = json.loads(again.stdout)
    unwritable = [name for name in HOSTILE if any(0xD800 <= ord(c) < 0xE000 for c in name)]
    assert said["failed"] == 0 and said["kept"] == len(HOSTILE) - len(unwritable), said
    assert r"\udcff\udcfe" in again.stderr  # skipped, and named
    ids = {record.id for record in FrameStore.open(out / "frames").records}
    assert ids == {f"{name}.mp4" for name in HOSTILE if name not in unwritable}
    for run in HOSTILE:
        named = CliRunner().invoke(app, ["train", "--method", "glccl", f"--run={run}", "-o", str(out), "--dry-run"])
        assert named.exit_code in (0, 2, 3) and "a bug in tvr" not in named.stderr, (run, named.stderr)
        assert all(line.isprintable() for line in named.stderr.splitlines()), run
    print(f"\ntried: {{'names': {2 * len(HOSTILE)}}}", file=sys.__stdout__)
