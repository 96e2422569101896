"""The commands beside files that tvr did not make, or on a workspace whose files name others: exit 3, all as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import forged_features
import forged_frames
import pytest
import tiny_frames
from indexes import edit_head, head, write_old
from synthetic import SyntheticStore
from typer.testing import CliRunner, Result

from tvr_cli.cli import app
from tvr_cli.errors import DataError
from tvr_cli.plans import FramePlan
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.frames.store import FrameStore

HOSTILE = ("../x", "/etc/passwd", "a/b", "a\\b", "", ".", "..", "a\0b", "\udc80", "C:x")
FAST = ("--epochs", 1, "--batch-size", 4, "--threads", 1, "--device", "cpu")


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def tree(folder: Path) -> dict[str, bytes]:
    """Return what is in a folder, but for the files that only say that somebody writes."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "out"
    tiny_frames.simple(out, {"a.mp4": 2, "b.mp4": 2}, plan=FramePlan(num_frames=2, size=64))
    captions = out / "captions.jsonl"
    captions.write_text('{"video": "a.mp4", "caption": "a red star", "split": "test"}\n')
    done = tvr("precompute-features", "--backbone", "demo-tiny", "--captions", captions, "-o", out)
    assert done.exit_code == 0, done.stderr
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A workspace with features that a run can be trained on in a second."""
    SyntheticStore(videos=24, splits=("train", "train", "val", "test")).write(tmp_path / "out")
    return tmp_path / "out"


# ------------------------------------------------------------------------------------------------ an index of one's own


@pytest.mark.parametrize(
    "command",
    [("query", "a red star", "--method", "mean", "--index"), ("index", "--method", "mean", "--overwrite", "-o")],
    ids=lambda command: command[0],
)
def test_a_folder_that_tvr_never_made_is_not_replaced_by_an_index(out: Path, command: tuple) -> None:
    (out / "index").mkdir()
    (out / "index" / "index.html").write_text("thesis")
    before = tree(out)
    result = tvr(*command, out)
    assert result.exit_code == 3 and result.stdout == ""
    assert "index' holds 'index.html'" in result.stderr and "choose another workspace with -o" in result.stderr
    assert tree(out) == before


def test_a_dry_run_says_that_the_place_of_the_index_is_taken(out: Path) -> None:
    (out / "index").mkdir()
    (out / "index" / "index.html").write_text("thesis")
    assert tvr("index", "--method", "mean", "--dry-run", "-o", out).exit_code == 3


def test_a_note_in_the_index_folder_hinders_only_who_would_remove_it(out: Path) -> None:
    assert tvr("index", "--method", "mean", "-o", out).exit_code == 0
    (out / "index" / "notes.txt").write_text("mine")
    assert tvr("query", "a red star", "--index", out).exit_code == 0
    before = tree(out)
    result = tvr("index", "--method", "text_guided", "-o", out)
    assert result.exit_code == 3 and "holds 'notes.txt'" in result.stderr
    assert tree(out) == before


# ----------------------------------------------------------------------------------------- frames and runs of one's own


def test_frames_that_tvr_never_made_are_not_written_into(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"not read: the place is looked at first")
    (tmp_path / "out" / "frames").mkdir(parents=True)
    (tmp_path / "out" / "frames" / "0001.jpg").write_bytes(b"rendered for days")
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    for flags in ((), ("--overwrite",), ("--dry-run",)):
        result = tvr("extract-frames", folder, "-o", tmp_path / "out", *flags)
        assert result.exit_code == 3 and "something else than a frame store: '0001.jpg'" in result.stderr
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


def test_a_folder_of_something_else_never_becomes_a_run(trained: Path) -> None:
    (trained / "runs" / "synthetic").mkdir(parents=True)
    (trained / "runs" / "synthetic" / "thesis.txt").write_text("mine")
    before = tree(trained / "runs")
    named = tvr("train", "--method", "tests.synthetic", *FAST, "--run", "synthetic", "-o", trained)
    assert named.exit_code == 3 and "something else than a run: 'thesis.txt'" in named.stderr
    assert tree(trained / "runs") == before
    free = tvr("train", "--method", "tests.synthetic", *FAST, "-o", trained, "--json")
    assert free.exit_code == 0 and json.loads(free.stdout)["run"] == "synthetic-2"
    assert (trained / "runs" / "synthetic" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["notes.txt", "results/test.json"])
def test_a_result_is_not_written_over_files_of_something_else(trained: Path, name: str) -> None:
    mine = trained / "runs" / "mean" / name
    mine.parent.mkdir(parents=True)
    mine.write_text('{"grade": 1}')
    before = tree(trained)
    for flags in ((), ("--dry-run",)):
        result = tvr("evaluate", "--method", "mean", *flags, "-o", trained)
        assert result.exit_code == 3 and Path(name).name in result.stderr
    assert tree(trained) == before


# ------------------------------------------------------------------------------------------------- names that lead out


def test_repairing_a_shard_never_deletes_outside_the_workspace(out: Path, tmp_path: Path) -> None:
    (tmp_path / "victim.txt").write_text("precious")
    features = next((out / "features").iterdir())
    forged_features.line(features, lambda line: {**line, "shard": "../../../victim.txt"})
    before = tree(tmp_path)
    for command in (
        ("precompute-features", "--repair", "../../../victim.txt", "-o"),
        ("evaluate", "--method", "mean", "-o"),
        ("query", "a red star", "--index"),
    ):
        result = tvr(*command, out)
        assert result.exit_code == 3 and "'../../../victim.txt' where the bare name" in result.stderr, command
        assert "--repair" not in result.stderr
    assert before.items() <= tree(tmp_path).items()
    assert tvr("precompute-features", "--repair", features.name, "-o", out).exit_code in (0, 3)  # a list of its own
    assert (tmp_path / "victim.txt").read_text() == "precious"


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("field", ["shard", "keys", "clips", "captions", "frames"])
def test_every_name_in_a_store_is_bare(out: Path, field: str, name: str) -> None:
    features = next((out / "features").iterdir())
    if field in ("clips", "captions"):

        def named(body):
            return {**body, "finished": {**body["finished"], field: {**body["finished"][field], "file": name}}}

        forged_features.head(features, named)
    elif field == "frames":
        forged_frames.line(out / "frames", lambda line: {**line, "shard": name})
    else:
        forged_features.line(features, lambda line: {**line, field: name})
    with pytest.raises(DataError, match="bare name"):
        if field == "frames":
            FrameStore.open(out / "frames")
        else:
            FeatureStore.open(features).video()


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp", ".."])
def test_a_run_names_features_of_its_own_workspace(trained: Path, name: str) -> None:
    assert tvr("train", "--method", "tests.synthetic", *FAST, "--run", "one", "-o", trained).exit_code == 0
    from safetensors import safe_open
    from safetensors.torch import save_file

    best = trained / "runs" / "one" / "checkpoints" / "best.safetensors"
    with safe_open(best, "pt") as f:
        about = {**json.loads(f.metadata()["tvr"]), "store": name}
        tensors = {key: f.get_tensor(key).clone() for key in f.keys()}  # noqa: SIM118 - not a mapping
    save_file(tensors, best, metadata={"tvr": json.dumps(about)})
    result = tvr("evaluate", "one", "-o", trained)
    assert result.exit_code == 3 and f"best.safetensors' names {name!r} where the bare name" in result.stderr


def test_the_run_that_an_index_was_built_for_is_a_bare_name(out: Path) -> None:
    assert tvr("index", "--method", "mean", "-o", out).exit_code == 0
    edit_head(out / "index", lambda head: head.update(asked={"run": "../../given/run"}))
    result = tvr("query", "a red star", "--index", out)
    assert result.exit_code == 3 and "'../../given/run' where the bare name" in result.stderr


# --------------------------------------------------------------------------------------------------- what is it, whole?


@pytest.mark.parametrize("name", ["frames", "index", "copy", "features"])
@pytest.mark.parametrize("kind", ["frames", "features", "index"])
def test_info_tells_a_store_by_its_header_wherever_it_lies(out: Path, tmp_path: Path, kind: str, name: str) -> None:
    assert tvr("index", "--method", "mean", "-o", out).exit_code == 0
    original = next((out / "features").iterdir()) if kind == "features" else out / kind
    copy = shutil.copytree(original, tmp_path / name)
    told, expected = (tvr("info", path, "--json") for path in (copy, original))
    assert told.exit_code == 0, told.stderr
    assert json.loads(told.stdout) == {**json.loads(expected.stdout), "path": str(copy)}


def test_info_tells_a_copied_run(trained: Path, tmp_path: Path) -> None:
    assert tvr("train", "--method", "tests.synthetic", *FAST, "--run", "one", "-o", trained).exit_code == 0
    copy = shutil.copytree(trained / "runs" / "one", tmp_path / "index")
    assert json.loads(tvr("info", copy, "--json").stdout)["kind"] == "run"


def test_an_index_of_0_1_0_says_how_to_build_it_again_and_a_query_does(out: Path) -> None:
    write_old(out / "index", {"method": "mean", "backbone": "demo-tiny"}, {"method": "mean"}, kind=False)
    told = tvr("info", out / "index")
    assert told.exit_code == 3 and "has format 1, this tvr reads 2; build it again with: tvr index" in told.stderr
    answer = tvr("query", "a red star", "--index", out)
    assert answer.exit_code == 0 and "the index is out of date (format" in answer.stderr
    assert head(out / "index")["asked"] == {"method": "mean"} and not (out / "index" / "store.json").exists()


@pytest.mark.parametrize("header", ['{"kind": "features", "format": 9}', '{"kind": "frames", "format": 9}', "{"])
def test_a_store_of_another_version_is_never_proposed_to_be_removed(out: Path, header: str) -> None:
    for path in (next((out / "features").glob("*/store.json")), out / "frames" / "store.json"):
        path.write_text(header)
        said = tvr("info", path.parent).stderr + tvr("query", "a red star", "--index", out).stderr
        assert "elsewhere" in said or "left as it is" in said or "nothing of it was changed" in said, said
        assert not any(word in said for word in ("remove", "delete", "--overwrite")), said


def test_info_does_not_know_the_store_of_another_program(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"kind": "redux"}')
    result = tvr("info", tmp_path)
    assert result.exit_code == 3 and "says kind 'redux'" in result.stderr and "remove" not in result.stderr
