"""`tvr info` on what is damaged, on what is something else and on what is not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import forged_features
import pytest
import tiny_frames
from synthetic import SyntheticStore
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.stores.frames.store import FrameStore


def tvr(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with frames, features, an index and the result of a method without training."""
    root = tmp_path_factory.mktemp("whole")
    SyntheticStore().write(root)
    for verb in (("evaluate", "--method", "mean", "--split", "val"), ("index", "--method", "mean")):
        assert (done := tvr(*verb, "-o", root)).exit_code == 0, done.stderr
    tiny_frames.simple(root, {"a.mp4": 2})
    return root


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def lose_head_of_frames(out: Path) -> tuple[Path, str]:
    (out / "frames" / "store.json").unlink()
    return out / "frames", f"from the records beside it: tvr extract-frames --repair all -o {out}"


def empty_head_of_features(out: Path) -> tuple[Path, str]:
    (head,) = out.glob("features/*/store.json")
    head.write_text("{}")
    return head.parent, f"compute them again (--backbone): tvr precompute-features -o {out}"


def lose_head_of_features(out: Path) -> tuple[Path, str]:
    (head,) = out.glob("features/*/store.json")
    head.unlink()
    again = f"make it again from what lies beside it: tvr precompute-features --repair {head.parent.name} -o {out}"
    return head.parent, again


def leave_features_unfinished(out: Path) -> tuple[Path, str]:
    (folder,) = (out / "features").iterdir()
    forged_features.head(folder, lambda body: {**body, "finished": None})
    return folder, f"continue it with: tvr precompute-features --repair {folder.name} -o {out}"


def empty_config_of_a_run(out: Path) -> tuple[Path, str]:
    (out / "runs" / "x").mkdir(parents=True)
    (out / "runs" / "x" / "config.json").write_text("{}")
    return out / "runs" / "x", "put a copy of it back if there is one, or train again"


def cut_result_of_a_run(out: Path) -> tuple[Path, str]:
    (out / "runs" / "mean" / "results" / "test.json").write_text('{"schema": ')
    return out / "runs" / "mean", "move the file elsewhere and evaluate again"


def cut_index(out: Path) -> tuple[Path, str]:
    next((out / "index").glob("*/000001-00.bin")).unlink()
    return out / "index", "tvr index"


def lose_head_of_index(out: Path) -> tuple[Path, str]:
    (out / "index" / "current").unlink()
    return out / "index", "was begun but not finished; build it with: tvr index"


@pytest.mark.parametrize(
    "damage",
    [
        lose_head_of_frames, empty_head_of_features, lose_head_of_features, leave_features_unfinished,
        empty_config_of_a_run, cut_result_of_a_run, cut_index, lose_head_of_index,
    ],
    ids=lambda damage: damage.__name__,
)  # fmt: skip
def test_a_damaged_part_is_told_and_the_others_are_shown(out: Path, damage) -> None:
    before = [part["path"] for part in json.loads(tvr("info", out, "--json").stdout)["parts"]]
    assert [Path(path).name for path in before if "features" not in path] == ["frames", "mean", "index"]
    path, mends = damage(out)
    told = tvr("info", out, "--json")
    parts = json.loads(told.stdout)["parts"]
    (wrong,) = [part for part in parts if part["kind"] == "damaged"]
    assert wrong["path"] == str(path) and mends in wrong["problem"]
    assert [part["path"] for part in parts if part != wrong] == [other for other in before if other != str(path)]
    assert told.exit_code == 3 and told.stderr == f"error: 1 of {len(parts)} parts cannot be read, see above\n"
    shown = tvr("info", out)
    assert shown.exit_code == 3 and f"damaged {path}" in shown.stdout and mends in shown.stdout
    alone = tvr("info", path)
    assert alone.exit_code == 3 and mends in alone.stderr and alone.stdout == ""


def test_no_workspace_is_proposed_inside_of_another_or_where_something_is(out: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "frames").mkdir(parents=True)
    (own / "frames" / "holiday.jpg").write_bytes(b"mine")
    (own / "results").mkdir()
    for path, found in (
        (own, "found a folder of something else"),
        (own / "frames", "found a folder of something else"),
        (own / "frames" / "holiday.jpg", "found a file"),
        (out / "frames" / "store.json", f"found a file; what it belongs to: tvr info {out / 'frames'}"),
        (out / "features", f"found a folder of several; all of them: tvr info {out}"),
        (out / "runs", f"found a folder of several; all of them: tvr info {out}"),
        (
            tmp_path / "new",
            f"found nothing there; a workspace is made by: tvr extract-frames videos/ -o {tmp_path / 'new'}",
        ),
        (tmp_path / "new" / "frames", f"a workspace is made by: tvr extract-frames videos/ -o {tmp_path / 'new'}"),
        (out / "features" / "0123", f"a workspace is made by: tvr extract-frames videos/ -o {out}"),
    ):
        told = tvr("info", path)
        assert told.exit_code == 3 and told.stderr.endswith(f"{found}\n"), told.stderr
    assert FrameStore.open(out / "frames").records
