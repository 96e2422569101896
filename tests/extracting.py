"""Clips of known frames, and `tvr extract-frames` on them, for tests of the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import videos
from typer.testing import CliRunner
from videos import read_barcode

from tvr_cli.cli import app
from tvr_cli.stores.frames.store import FrameStore, decode_jpeg

SMALL = ["--size", "48", "--num-frames", "4", "--workers", "1"]


def run(*arguments: str | Path, code: int = 0, plan: list[str] = SMALL) -> Any:
    """Run `tvr extract-frames` in process and check its exit code."""
    result = CliRunner().invoke(app, ["extract-frames", *map(str, arguments), *plan])
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
    return result


def report(*arguments: str | Path, code: int = 0, plan: list[str] = SMALL) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json", code=code, plan=plan).stdout)
    return found


def shown(store: FrameStore, clip_id: str) -> list[int]:
    return [read_barcode(decode_jpeg(data)) for data in next(store.read([clip_id])).jpegs]


def three_clips(folder: Path) -> Path:
    """Write clips of 20, 30 and 40 frames in a tree, and return the folder."""
    (folder / "cats").mkdir()
    videos.make_video(folder / "a.mp4", 20)
    videos.make_video(folder / "b.webm", 30, codec="libvpx")
    videos.make_video(folder / "cats" / "a.mkv", 40)
    return folder
