"""Parts as people run them: a list, a job a part by whatever starts it, a merge, and the store of one process again."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_clip
import torch
import videos
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.frames.store import FrameStore
from tvr_cli.workspace import Workspace

pytestmark = pytest.mark.usefixtures("warm_readers")

PLAN = ["--size", "32", "--workers", "1"]
DOCS = Path(__file__).resolve().parents[2] / "docs" / "scale.md"


def tvr(*arguments: str | Path, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
    return result


def said(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tvr(*arguments, "--json", code=code).stdout)
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local:{tiny_clip.folder(tmp_path_factory.mktemp('weights') / 'tiny')}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five short videos in two folders, one of 50 seconds, and captions of two of them."""
    folder = tmp_path_factory.mktemp("corpus")
    for i, frames in enumerate((20, 12, 30, 8, 16)):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        videos.make_video(folder / "ab"[i % 2] / f"{i}.mp4", frames, gop=4)
    videos.make_video(folder / "long.mp4", 200, fps=4, gop=4)
    lines = [{"video": "a/0.mp4", "caption": "bars"}, {"video": "long.mp4", "caption": "more bars"}]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module", params=["films", pytest.param("clips", marks=pytest.mark.slow)])
def whole(request: pytest.FixtureRequest, corpus: Path, weights: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of the corpus: frames by time, which windows share, or frames of each clip."""
    out = tmp_path_factory.mktemp(request.param) / "whole"
    plan = [] if request.param == "films" else ["--num-frames", "4"]
    tvr("extract-frames", corpus, "-o", out, *PLAN, *plan)
    tvr("precompute-features", "-o", out, "--backbone", weights, "--device", "cpu")
    return out


def flags(whole: Path) -> list[str]:
    return PLAN if whole.parent.name.startswith("films") else [*PLAN, "--num-frames", "4"]


def same(one: Path, other: Path) -> None:
    """Hold that two workspaces have the same rows, to the bit."""
    a, b = Workspace(one).frames(), Workspace(other).frames()
    assert a.records == b.records and a.content_hash() == b.content_hash() and a.counts == b.counts
    assert a.captions_beside == b.captions_beside
    for x, y in zip(a.read([r.id for r in a.records]), b.read([r.id for r in b.records]), strict=True):
        assert x.jpegs == y.jpegs and x.ts.tolist() == y.ts.tolist() and x.until.tolist() == y.until.tolist()
    (c, d) = (Workspace(w).newest_features() for w in (one, other))
    assert isinstance(c, FeatureStore) and isinstance(d, FeatureStore)
    assert (c.fingerprint, c.content_hash()) == (d.fingerprint, d.content_hash())
    assert list(c.clips) == list(d.clips) and list(c.captions) == list(d.captions)
    for name in ("video", "text"):
        for field, value in dataclasses.asdict(getattr(c, name)()).items():
            twin = getattr(getattr(d, name)(), field)
            assert (value is None and twin is None) or torch.equal(value, twin), (name, field)
    assert c.has_films == d.has_films
    for key in [part.key for film in a.films() for part in film.parts]:
        film, twin = c.films.get(key), d.films.get(key)
        assert film is not None and twin is not None
        assert torch.equal(film.frames, twin.frames) and torch.equal(film.ts, twin.ts)


def test_parts_of_a_list_are_merged_into_the_store_of_one_process(
    whole: Path, corpus: Path, weights: str, tmp_path: Path
) -> None:
    out, parts = tmp_path / "out", [tmp_path / "parts" / str(i) for i in (1, 2, 3)]
    planned = said("extract-frames", corpus, "--plan-parts", "3", "-o", out)
    assert (planned["parts"], planned["videos"]) == (3, 6) and planned["list"] == str(out / "parts.jsonl")
    for i, part in enumerate(parts, 1):
        done = tvr("extract-frames", out / "parts.jsonl", "--shard", f"{i}/3", "-o", part, *flags(whole))
        assert f"part {i} of 3: done" in done.stderr
        made = said("precompute-features", "-o", part, "--shard", f"{i}/3", "--backbone", weights, "--device", "cpu")
        assert made["captions"]["total"] == 0 and made["clips"]["encoded"] == made["clips"]["total"] > 0
    merged = said("merge", *parts, "-o", out)
    assert merged["missing"] == [] and merged["frames"]["videos"] == 6
    made = said("precompute-features", "-o", out, "--backbone", weights, "--device", "cpu")
    assert made["clips"]["encoded"] == 0 and made["captions"]["encoded"] == 2
    same(whole, out)
    found = said("extract-frames", corpus, "-o", out, *flags(whole))
    assert (found["kept"], found["ok"]) == (6, 0)


def test_shares_by_hash_are_merged_from_copies_of_the_frames(
    whole: Path, corpus: Path, weights: str, tmp_path: Path
) -> None:
    """The frames are in one place, and each job encodes its share of them: no part holds all of what it says."""
    out, copies = tmp_path / "out", [tmp_path / "1", tmp_path / "2"]
    encoded = 0
    for i, copy in enumerate(copies, 1):
        shutil.copytree(whole / "frames", copy / "frames")
        made = said("precompute-features", "-o", copy, "--shard", f"{i}/2", "--backbone", weights, "--device", "cpu")
        encoded += made["clips"]["encoded"]
    assert encoded == len(Workspace(whole).frames())
    tvr("merge", *copies, "-o", out)
    assert said("precompute-features", "-o", out, "--backbone", weights, "--device", "cpu")["clips"]["encoded"] == 0
    same(whole, out)


def test_a_list_of_parts_shares_bytes_evenly_and_keeps_what_is_read_of_one_file_together(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for i, size in enumerate((900, 500, 400, 300, 200, 100)):
        (folder / f"{i}.mp4").write_bytes(b"x" * size)
    lines = [{"path": f"{i}.mp4"} for i in range(1, 6)]
    lines += [{"path": "0.mp4", "start": s, "end": s + 1, "id": f"clip {s}"} for s in range(3)]
    (folder / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = said("extract-frames", folder / "list.jsonl", "--plan-parts", "3", "-o", tmp_path)
    assert (found["bytes"], found["smallest"], found["largest"]) == (2400, 700, 900)
    head, *rows = map(json.loads, (tmp_path / "parts.jsonl").read_text().splitlines())
    assert [n for n, *_ in head["parts"]] == [3, 3, 2]
    assert [row["id"] for row in rows] == ["clip 0", "clip 1", "clip 2", "1.mp4", "4.mp4", "5.mp4", "2.mp4", "3.mp4"]
    assert said("extract-frames", folder, "--plan-parts", "6", "-o", tmp_path, "--dry-run")["largest"] == 900
    assert len((tmp_path / "parts.jsonl").read_text().splitlines()) == 9  # the dry run wrote nothing
    refused = tvr("extract-frames", folder, "--plan-parts", "7", "-o", tmp_path, code=2)
    assert "expected at most 6, which is the number of files; found 7" in refused.stderr


@pytest.fixture
def listed(corpus: Path, tmp_path: Path) -> Path:
    tvr("extract-frames", corpus, "--plan-parts", "2", "-o", tmp_path)
    return tmp_path / "parts.jsonl"


@pytest.mark.parametrize(
    ("typed", "code", "message"),
    [
        (["--shard", "1/3"], 2, "has 2 parts, found 1/3; expected I/2"),
        ([], 2, "has 2 parts, found 1/1"),
        (["--shard", "1/2", "--segment", "none"], 2, "a list of parts says which videos there are"),
        (["--shard", "1/2", "--include", "*.mp4"], 2, "a list of parts says which videos there are"),
        (["--plan-parts", "2"], 2, "--plan-parts takes videos, found a list of parts"),
        (["--shard", "auto/2"], 2, "SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX"),
        (["--shard", "two/2"], 2, "expected I/N such as 3/16, or auto/16"),
        (["--shard", "²/3"], 2, "expected I/N such as 3/16, or auto/16 in a job of an array, found '²/3'"),
        (["--shard", "1/³"], 2, "expected I/N such as 3/16, or auto/16"),
    ],
)
def test_a_list_of_parts_is_used_as_it_is_or_refused(
    listed: Path, tmp_path: Path, typed: list[str], code: int, message: str
) -> None:
    assert message in tvr("extract-frames", listed, "-o", tmp_path / "out", *PLAN, *typed, code=code).stderr


@pytest.mark.parametrize("line", [0, 1, -1])
def test_a_damaged_list_of_parts_is_refused_by_the_part_that_reads_it(listed: Path, tmp_path: Path, line: int) -> None:
    rows = listed.read_text().splitlines()
    rows[line] = rows[line].replace("bytes", "Bytes").replace('"segment"', '"Segment"')
    listed.write_text("\n".join(rows) + "\n")
    codes = [
        CliRunner().invoke(
            app, ["extract-frames", str(listed), "--shard", f"{i}/2", "-o", str(tmp_path / str(i)), *PLAN]
        )
        for i in (1, 2)
    ]
    hurt = [r for r in codes if r.exit_code == 3]
    assert len(hurt) == (2 if line == 0 else 1) and all("is damaged" in r.stderr for r in hurt)


@pytest.mark.parametrize(
    ("variables", "part"),
    [({"SLURM_ARRAY_TASK_ID": "1"}, 1), ({"SLURM_ARRAY_TASK_ID": "4"}, 4), ({"JOB_COMPLETION_INDEX": "0"}, 1),
     ({"JOB_COMPLETION_INDEX": "3"}, 4)],
)  # fmt: skip
def test_a_job_of_an_array_knows_its_part(
    variables: dict[str, str], part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvr_cli.api_flags import shard_of

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert shard_of("auto/4") == (part, 4)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SLURM_ARRAY_TASK_ID": "0"}, "expected SLURM_ARRAY_TASK_ID to be a number from 1 to 4, found '0'"),
        ({"JOB_COMPLETION_INDEX": "4"}, "expected JOB_COMPLETION_INDEX to be a number from 0 to 3, found '4'"),
        ({"SLURM_ARRAY_TASK_ID": "1", "JOB_COMPLETION_INDEX": "1"}, "(one of them)"),
    ],
)
def test_a_job_with_a_number_that_is_no_part_is_refused(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvr_cli.api_flags import shard_of
    from tvr_cli.errors import ConfigError

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=re.escape(message)):
        shard_of("auto/4")


def test_features_of_another_part_than_the_one_that_is_here_are_refused(
    listed: Path, weights: str, tmp_path: Path
) -> None:
    part = tmp_path / "1"
    tvr("extract-frames", listed, "--shard", "1/2", "-o", part, *PLAN)
    wrong = tvr("precompute-features", "-o", part, "--shard", "2/2", "--backbone", weights, code=3)
    assert "holds part 1 of 2, but this run is for part 2 of 2" in wrong.stderr
    both = tvr("precompute-features", "-o", part, "--shard", "1/2", "--captions", "c.jsonl", code=2)
    assert "captions are encoded once, where parts are merged" in both.stderr


def test_a_missing_part_is_named_with_what_reads_it_and_the_others_are_merged(listed: Path, tmp_path: Path) -> None:
    tvr("extract-frames", listed, "--shard", "2/2", "-o", tmp_path / "2", *PLAN)
    merged = tvr("merge", tmp_path / "2", "-o", tmp_path, code=5)
    again = f"tvr extract-frames {listed} --shard 1/2 -o parts/1"
    assert f"missing: part 1/2: no part notes that its extraction ended; run: {again}" in merged.stderr
    assert len(FrameStore.open(tmp_path / "frames")) > 0


def recipe(language: str) -> str:
    """Return the block of docs/scale.md that is of a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def job(language: str) -> str:
    """Return what a job of a recipe runs, as its shell gets it."""
    text = recipe(language)
    if language == "parallel":
        (command,) = re.findall(r"'([^']*)'", text)
        return command.replace("{}", "$PART")
    if language == "yaml":
        script = re.findall(r"- \|\n((?: {14}.*\n)+)", text)[0]
        return "set -e\n" + re.sub(r"^ {14}", "", script, flags=re.MULTILINE)
    return text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "jobs"),
    [
        ("slurm", [{"SLURM_ARRAY_TASK_ID": str(i), "SLURM_CPUS_PER_TASK": "1"} for i in (1, 2, 3, 4)]),
        ("parallel", [{"PART": str(i)} for i in (1, 2, 3, 4)]),
        ("yaml", [{"JOB_COMPLETION_INDEX": str(i)} for i in (0, 1, 2, 3)]),
    ],
)
def test_the_recipe_of_a_scheduler_runs_as_it_stands(
    language: str, jobs: list[dict[str, str]], corpus: Path, weights: str, tmp_path: Path
) -> None:
    """Each job with the variables that its scheduler sets; the weights alone are others, which need no network."""
    (tmp_path / "videos").symlink_to(corpus)
    (tmp_path / "bin").mkdir()
    tvr_here = tmp_path / "bin" / "tvr"
    tvr_here.write_text(f'#!/bin/sh\nexec {sys.executable} -m tvr_cli "$@"\n')
    tvr_here.chmod(0o755)
    path = {"PATH": f"{tvr_here.parent}{os.pathsep}{os.environ['PATH']}"}
    script = job(language).replace("--backbone clip-vit-b32", f"--backbone {weights} --device cpu")
    assert weights in script

    def bash(text: str, **variables: str) -> None:
        done = subprocess.run(
            ["bash", "-c", text], cwd=tmp_path, env={**os.environ, **path, **variables}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    bash("tvr extract-frames videos/ --plan-parts 4 -o out")
    for variables in jobs:
        bash(script, **variables)
    bash(f"tvr merge parts/* -o out && tvr precompute-features -o out --backbone {weights} --device cpu")
    assert len(list((tmp_path / "parts").iterdir())) == 4
    assert Workspace(tmp_path / "out").frames().video_count() == 6
    store = Workspace(tmp_path / "out").newest_features()
    assert (
        store is not None and len(store.captions) == 2 and len(store.clips) == len(Workspace(tmp_path / "out").frames())
    )
