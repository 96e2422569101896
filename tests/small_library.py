"""A small library of toy videos with an index, and commands whose JSON is read, for tests of what serves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.data.demo_world.corpus import WorldOptions, make

SENTENCE = "a red circle moves to the left"
SECRET = "nobody beyond this folder may read this"


def tvr(*arguments: object) -> dict[str, Any]:
    """Run a command, and return its JSON."""
    result = CliRunner().invoke(app, [*(str(a) for a in arguments), "--json"])
    assert result.exit_code == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def library(folder: Path, options: WorldOptions) -> Path:
    """Make videos and `out`, the workspace that searches them, and beside them `secret.txt`, which is none of it."""
    (folder / "secret.txt").write_text(SECRET)
    make(folder / "videos", options)
    out = folder / "out"
    tvr("extract-frames", folder / "videos", "-o", out, "--size", 64, "--num-frames", 4, "--workers", 1)
    tvr("precompute-features", "-o", out, "--backbone", "demo-tiny")
    tvr("index", "--method", "text_guided", "-o", out)
    return folder


def files_of(client: Any) -> list[str]:
    """Return the ids of all files that a server of eight videos answers with. client: Starlette's `TestClient`."""
    found = client.get("/api/search", params={"q": SENTENCE, "k": 50, "per_file": 1, "everything": True}).json()
    assert client.get("/api/library").json()["videos"] == 8
    return [hit["video_id"] for hit in found["results"][0]["hits"]]
