"""The pipeline over real clips of many containers and codecs: read, described, asked. Runs where the clips are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tvr_cli.cli import app

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "videos"
CORRUPT = "decord_corrupted.mp4"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not here")]


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def report(*args: object, code: int = 0) -> dict:
    result = tvr(*args, "--json")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def manifest() -> list[dict]:
    return json.loads((CLIPS / "manifest.json").read_text())


@pytest.fixture(scope="module")
def workspace(manifest: list[dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of every clip, and features of them and of their captions."""
    out = tmp_path_factory.mktemp("real") / "out"
    made = report("extract-frames", CLIPS, "--size", 64, "--num-frames", 4, "--workers", 1, "-o", out, code=5)
    assert made["ok"] == len(manifest) - 1
    assert [f["video"] for f in made["failures"]] == [CORRUPT] and made["failures"][0]["reason"]
    lines = [{"video": v["file"], "caption": c} for v in manifest for c in v.get("captions", [])]
    captions = out / "captions.jsonl"
    captions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    features = report("precompute-features", "--backbone", "demo-tiny", "--captions", captions, "-o", out)
    corrupt = next(v for v in manifest if v["file"] == CORRUPT)
    assert features["captions"]["set_aside"] == len(corrupt["captions"])
    return out


def test_every_readable_clip_can_be_an_answer(workspace: Path, manifest: list[dict]) -> None:
    asked = ("-k", 100, "--per-file", 1, "--all", "--method", "text_guided")
    found = report("query", "a red car", *asked, "-o", workspace)
    hits = found["results"][0]["hits"]
    assert sorted(h["video_id"] for h in hits) == sorted(v["file"] for v in manifest if v["file"] != CORRUPT)
    length = {v["file"]: v["duration"] for v in manifest}
    for hit in hits:
        assert Path(hit["path"]).is_file()
        assert 0 <= hit["start"] < hit["end"] <= length[hit["video_id"]] + 0.5


def test_the_corrupt_clip_is_recorded_with_its_reason(workspace: Path) -> None:
    lines = (workspace / "frames" / "failures.jsonl").read_text().splitlines()
    failed = [json.loads(line) for line in lines]
    assert [f["video"] for f in failed] == [CORRUPT] and failed[0]["kind"] == "permanent"


def test_the_demo_backbone_says_that_it_does_not_know_them(workspace: Path) -> None:
    result = tvr("precompute-features", "--backbone", "demo-tiny", "-o", workspace)
    assert result.exit_code == 0 and "toy world" in result.stderr


def test_a_stem_of_two_files_is_refused_with_its_line(workspace: Path, tmp_path: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    captions.write_text(
        '{"video": "mmaction2_demo", "caption": "arm wrestling"}\n{"video": "mmaction2_test", "caption": "a pool"}\n'
    )
    result = tvr("precompute-features", "--captions", captions, "-o", workspace)
    assert result.exit_code == 3
    assert f"{captions}:2" in result.stderr
    assert "mmaction2_test.avi" in result.stderr and "mmaction2_test.mp4" in result.stderr
