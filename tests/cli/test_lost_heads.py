"""Stores without a readable store.json: what every command says, and that doing what it says ends well."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import forged_features
import pytest
import tiny_frames
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.errors import DataError
from tvr_cli.plans import FramePlan

VERBS = (
    ("precompute-features",),
    ("query", "a star"),
    ("index",),
    ("evaluate", "--method", "mean"),
    ("train", "--method", "glccl", "--epochs", "1", "--batch-size", "2"),
)


def tvr(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose frames are too small for the default backbone, with features of `demo-tiny`."""
    root = tmp_path_factory.mktemp("whole")
    tiny_frames.simple(root, {"a.mp4": 2, "b.mp4": 2}, plan=FramePlan(num_frames=2, size=64))
    captions = root / "captions.jsonl"
    captions.write_text('{"video": "a.mp4", "caption": "a star"}\n{"video": "b.mp4", "caption": "a ring"}\n')
    done = tvr("precompute-features", "--backbone", "demo-tiny", "--captions", captions, "-o", root)
    assert done.exit_code == 0, done.stderr
    return root


@pytest.fixture
def place(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A copy of it: its root, frames and features."""
    monkeypatch.delenv("TVR_BACKBONE", raising=False)
    root = Path(shutil.copytree(whole, tmp_path / "out"))
    (features,) = (root / "features").iterdir()
    return SimpleNamespace(root=root, frames=root / "frames", features=features)


def proposed(stderr: str) -> list[str]:
    """Return the arguments of the command with which a message ends."""
    return shlex.split(stderr.rpartition("tvr ")[2])


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_features_without_a_head_are_not_taken_for_none(place: SimpleNamespace, verb: tuple[str, ...]) -> None:
    (place.features / "store.json").unlink()
    refused = tvr(*verb, "-o" if verb[0] != "query" else "--index", place.root)
    assert refused.exit_code == 3 and "overwrite" not in refused.stderr
    assert f"'{place.features}' holds features and no store.json, which says what made them" in refused.stderr
    command = proposed(refused.stderr)
    assert command == ["precompute-features", "--repair", place.features.name, "-o", str(place.root)]
    taken_up = tvr(*command)
    assert taken_up.exit_code == 0 and "0 encoded, 2 kept" in taken_up.stdout, taken_up.stderr


def test_features_without_a_head_are_taken_up_by_their_backbone(place: SimpleNamespace) -> None:
    (place.features / "store.json").unlink()
    taken_up = tvr("precompute-features", "--backbone", "demo-tiny", "-o", place.root)
    assert taken_up.exit_code == 0 and "0 encoded, 2 kept" in taken_up.stdout, taken_up.stderr


def test_the_head_of_features_that_is_no_head_leads_to_their_backbone(place: SimpleNamespace) -> None:
    (place.features / "store.json").write_text("{}")
    for verb in VERBS:
        refused = tvr(*verb, "-o" if verb[0] != "query" else "--index", place.root)
        assert refused.exit_code == 3 and "move the folder elsewhere and compute them again" in refused.stderr
        assert proposed(refused.stderr) == ["precompute-features", "-o", str(place.root)]
    place.features.rename(place.root.parent / "elsewhere")
    assert tvr("precompute-features", "--backbone", "demo-tiny", "-o", place.root).exit_code == 0


def test_features_that_were_begun_keep_their_backbone(place: SimpleNamespace) -> None:
    forged_features.head(place.features, lambda body: {**body, "finished": None})
    for verb in (("index",), ("evaluate", "--method", "mean")):
        refused = tvr(*verb, "-o", place.root)
        assert refused.exit_code == 3 and "were begun and not finished" in refused.stderr
    command = proposed(refused.stderr)
    assert command == ["precompute-features", "--repair", place.features.name, "-o", str(place.root)]
    again = tvr("precompute-features", "-o", place.root)  # as Ctrl-C says: the same command once more
    assert again.exit_code == 0 and "features of demo-tiny" in again.stdout, again.stderr


def test_frames_without_a_head_get_it_back_from_their_records(place: SimpleNamespace) -> None:
    (place.frames / "store.json").unlink()
    shutil.rmtree(place.features)
    for verb in VERBS:
        refused = tvr(*verb, "-o" if verb[0] != "query" else "--index", place.root)
        assert refused.exit_code == 3
        command = proposed(refused.stderr)
        assert command == ["extract-frames", "--repair", "all", "-o", str(place.root)]
    with pytest.raises(DataError, match="extract-frames --repair all"):
        tiny_frames.simple(place.root, {"c.mp4": 2})
    assert tvr(*command).exit_code == 0
    assert tvr("info", place.frames).exit_code == 0


@pytest.mark.parametrize("how", ["lost", "lost with its list", "no json", "another kind"])
@pytest.mark.parametrize("part", ["frames", "features"])
def test_the_doctor_sees_a_store_whose_head_is_lost_or_damaged(place: SimpleNamespace, part: str, how: str) -> None:
    folder: Path = getattr(place, part)
    head = folder / "store.json"
    if how.startswith("lost"):
        head.unlink()
        for path in folder.glob("shards-*.jsonl") if "list" in how else ():
            path.unlink()
    else:
        head.write_text(head.read_text()[:-9] if how == "no json" else head.read_text().replace(f'"{part}"', '"xx"', 1))
    for told in (tvr("doctor", place.root), tvr("info", place.root)):
        assert told.exit_code == 3 and str(folder) in told.stdout, told.stdout
    said = tvr("doctor", place.root).stdout
    assert f"no  {folder.relative_to(place.root)} head: " in said, said
    if how == "another kind":
        assert "it is left as it is" in said
        return
    line = next(line for line in said.splitlines() if " head: " in line)
    mended = tvr(*proposed(line))
    assert mended.exit_code == 0, mended.stderr
    assert tvr("doctor", place.root).exit_code == 0
    assert tvr("query", "a star", "--index", place.root).exit_code == 0


def test_features_without_head_and_list_are_not_taken_for_none(place: SimpleNamespace) -> None:
    for path in (place.features / "store.json", *place.features.glob("shards-*.jsonl")):
        path.unlink()
    refused = tvr("query", "a star", "--index", place.root)
    assert refused.exit_code == 3 and "holds features and no store.json" in refused.stderr, refused.stderr


def test_the_doctor_sees_an_index_that_lost_what_says_which_generation_counts(place: SimpleNamespace) -> None:
    assert tvr("index", "--method", "mean", "-o", place.root).exit_code == 0
    (place.root / "index" / "current").unlink()
    for target in (place.root, place.root / "index"):
        told = tvr("doctor", target)
        assert told.exit_code == 3 and "index head: " in told.stdout, (told.stdout, told.stderr)
    command = proposed(told.stdout)
    assert command == ["index", "-o", str(place.root)]
    assert tvr(*command).exit_code == 0
    assert tvr("doctor", place.root).exit_code == 0


def test_a_generation_is_told_from_the_index_that_it_belongs_to(place: SimpleNamespace) -> None:
    assert tvr("index", "--method", "mean", "-o", place.root).exit_code == 0
    generation = place.root / "index" / "g000001"
    for result in (tvr("doctor", generation), tvr("info", generation)):
        assert result.exit_code == 3, result.stderr
        said = f"is a generation, a part of an index; the index that it belongs to is '{generation.parent}'"
        assert said in result.stdout + result.stderr


def test_an_index_that_is_left_alone_is_not_said_to_be_missing(place: SimpleNamespace) -> None:
    assert tvr("index", "--method", "mean", "-o", place.root).exit_code == 0
    shutil.rmtree(place.frames)
    shutil.rmtree(place.root / "features")
    refused = tvr("query", "a star", "--index", place.root)
    assert refused.exit_code == 3 and "expected frames or features in" in refused.stderr, refused.stderr


@pytest.mark.parametrize("file", ["current", "g000001/store.json"])
def test_the_doctor_proposes_no_rebuilding_that_would_be_refused(place: SimpleNamespace, file: str) -> None:
    assert tvr("index", "--method", "mean", "-o", place.root).exit_code == 0
    (place.root / "index" / file).write_text("{")
    told = tvr("doctor", place.root)
    assert told.exit_code == 3 and "Move the folder elsewhere" in told.stdout
    assert tvr("index", "--overwrite", "-o", place.root).exit_code == 3
    assert "--overwrite" not in told.stdout, told.stdout


def test_frames_that_are_too_small_are_never_to_be_overwritten(place: SimpleNamespace) -> None:
    refused = tvr("precompute-features", "--backbone", "clip-vit-b32", "-o", place.root)
    assert refused.exit_code == 3 and "--overwrite" not in refused.stderr
    beside = f"{place.root}-clip-vit-b32"
    words = f"extract-frames videos/ --for clip-vit-b32 --num-frames 2 -o {beside}"
    assert proposed(refused.stderr) == shlex.split(words)
