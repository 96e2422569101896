"""One damaged file of a workspace, of each kind: it is found and named, and the command that is named mends it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import indexes
import pytest
import tiny_frames
from typer.testing import CliRunner, Result

from tvr_cli.cli import app
from tvr_cli.engine.searching import light
from tvr_cli.plans import FramePlan

CAPTIONS = ('{"video": "a.mp4", "caption": "a red star"}', '{"video": "b.mp4", "caption": "a blue box"}')

PLAN = ("--backbone", "demo-tiny", "--max-words", 24)  # not the default: the command that mends has to keep it


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("damage") / "out"
    tiny_frames.simple(out, {"a.mp4": 2, "b.mp4": 2}, plan=FramePlan(num_frames=2, size=64))
    captions = out / "captions.jsonl"
    captions.write_text("".join(line.replace("}", ', "split": "test"}') + "\n" for line in CAPTIONS))
    done = tvr("precompute-features", *PLAN, "--captions", captions, "-o", out)
    assert done.exit_code == 0, done.stderr
    assert tvr("index", "--method", "mean", "-o", out).exit_code == 0
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy at the same kind of place: the captions are named by their absolute path, which stays."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flip":  # one bit of a letter in the middle: often still JSON
        at = next(i for i in range(len(data) // 2, len(data)) if chr(data[i]).isalnum())
        data[at] ^= 1
    path.write_bytes(data if how == "flip" else data[: len(data) // 2])


@pytest.fixture(autouse=True)
def one_way(monkeypatch):
    """Answer every query with torch: who mends does, and answers are compared to the last digit."""
    monkeypatch.setattr(light, "answer", lambda *args, **options: None)


def asks(out: Path) -> list[Result]:
    return [
        tvr("evaluate", "--method", "mean", "-o", out),
        tvr("query", "a red star", "--index", out, "--json"),
    ]


@pytest.mark.parametrize("how", ["flip", "cut"])
@pytest.mark.parametrize(
    "file",
    [
        "clips-*.table",
        "captions-*.table",
        "store.json",
        "shards-*.jsonl",
        "video-*.rows.json",
        "video-*.safetensors",
        "text-*.safetensors",
    ],
)
def test_a_damaged_file_of_a_feature_store_is_mended_by_the_command_that_is_named(out, file, how):
    before = [r.stdout for r in asks(out)]
    path = next((out / "features").glob(f"*/{file}"))
    damage(path, how)
    results = asks(out)
    assert {r.exit_code for r in results} <= {0, 3}
    failed = [r for r in results if r.exit_code]
    if not failed:  # who reads does not look at the keys of rows, and not at every column of a table
        assert file == "video-*.rows.json" or how == "flip", (file, how)
        assert [r.stdout for r in results] == before
        told = tvr("doctor", out)
        assert told.exit_code == 3 and path.name in told.stdout
        mend(out, told.stdout)
        assert tvr("doctor", out).exit_code == 0
        return
    said = failed[0].stderr
    assert "a bug in tvr" not in said and (path.name in said or "incomplete" in said), said
    mend(out, said)
    assert [r.stdout for r in asks(out)] == before


@pytest.mark.parametrize("how", ["flip", "cut"])
@pytest.mark.parametrize("file", ["current", "store.json", "clip.id.bytes", "coarse", "t.frames", "sums"])
def test_a_damaged_index_is_built_again_or_says_what_to_do(out, file, how):
    before = asks(out)[1].stdout
    damage(file_of(out / "index", file), how)
    result = tvr("query", "a red star", "--index", out, "--method", "mean", "--json")
    if (
        file in ("store.json", "current") and how == "cut"
    ):  # nothing says any more that it is an index: it may be anybody's
        assert result.exit_code == 3
    if result.exit_code:
        assert result.exit_code == 3 and "a bug in tvr" not in result.stderr
        assert file in result.stderr or "damaged" in result.stderr or "lacks" in result.stderr, result.stderr
        told = tvr("doctor", out)
        assert told.exit_code == 3 and "no  index" in told.stdout and "ok  frames" in told.stdout, told.stdout
        if "move the folder elsewhere" in result.stderr.lower():
            (out / "index").rename(out / "elsewhere")
        assert tvr("index", "--method", "mean", "--overwrite", "-o", out).exit_code == 0
        result = tvr("query", "a red star", "--index", out, "--method", "mean", "--json")
    assert result.stdout == before


def file_of(index: Path, what: str) -> Path:
    """The file of the index that holds a part, or is called so."""
    segment = indexes.head(index)["segments"][0]
    parts = {part["name"]: part["file"] for part in segment["parts"]}
    return (
        index / what
        if what == "current"
        else index / "g000001" / {**parts, "sums": segment["sums"]["file"]}.get(what, what)
    )


def test_the_doctor_reads_a_workspace_and_names_what_is_damaged(out):
    whole = tvr("doctor", out)
    assert whole.exit_code == 0, whole.stdout
    lines = [line.split(":")[0] for line in whole.stdout.splitlines()]
    assert lines == [f"ok  {name}" for name in sorted(["frames", "index", *map(features_name, [out])])], lines
    damage(file_of(out / "index", "coarse"), "flip")
    shard = next((out / "features").glob("*/video-*.safetensors"))
    damage(shard, "cut")
    told = tvr("doctor", out)
    assert told.exit_code == 3
    for words in (
        "index 000001-00.bin (coarse): ",
        "index --overwrite",
        f"{shard.name}: expected",
        f"--repair {shard.name}",
    ):
        assert words in told.stdout, told.stdout
    assert "ok  frames" in told.stdout
    assert tvr("doctor", out / "frames").exit_code == 0 and tvr("doctor", out / "index").exit_code == 3


def features_name(out: Path) -> str:
    return next((out / "features").iterdir()).relative_to(out).as_posix()


def test_a_damaged_list_of_shards_is_named(out):
    shards = out / "frames" / "shards-1.jsonl"
    shards.write_text(shards.read_text().replace('"rows"', '"rowz"'))
    result = tvr("query", "a red star", "--index", out)
    assert result.exit_code == 3 and "shards-1.jsonl' is damaged: its first" in result.stderr


def test_captions_that_changed_since_are_said_and_not_cited(out, tmp_path):
    captions = tmp_path / "mine.jsonl"
    captions.write_text((out / "captions.jsonl").read_text())
    assert tvr("precompute-features", *PLAN, "--captions", captions, "-o", out).exit_code == 0
    fresh = tvr("evaluate", "--method", "mean", "-o", out, "--json")
    assert "mine.jsonl" in fresh.stdout and "warning" not in fresh.stderr
    captions.write_text(captions.read_text() + CAPTIONS[0].replace("red", "green").replace("}", ', "split": "test"}\n'))
    later = captions.stat().st_mtime + 5
    os.utime(captions, (later, later))
    stale = tvr("evaluate", "--method", "mean", "-o", out, "--json")
    assert "mine.jsonl' has changed since the features were computed" in stale.stderr and stale.exit_code == 0
    assert '"captions": 2' in stale.stdout and "mine.jsonl" not in stale.stdout
    named = re.search(r"tvr (precompute-features --repair .*-o \S+)", stale.stderr)
    assert named is not None
    os.utime(captions)
    assert tvr(*shlex.split(named[1])).exit_code == 0
    again = tvr("evaluate", "--method", "mean", "-o", out, "--json")
    assert '"captions": 3' in again.stdout and "warning" not in again.stderr


def mend(out: Path, said: str) -> None:
    """Do what the message says: move away what it names, then type its command."""
    folder = next((out / "features").iterdir())
    if "move the folder elsewhere" in said:
        folder.rename(out / "elsewhere")
    named = re.search(r"tvr (precompute-features .*-o \S+)", said)
    assert named is not None, said
    words = shlex.split(named[1])
    captions = [] if "safetensors" in said else ["--captions", str(out / "captions.jsonl")]
    result = tvr(*words, *([] if "--repair" in words else PLAN), *captions)
    assert result.exit_code == 0, result.stderr
