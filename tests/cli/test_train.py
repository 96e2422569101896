"""`tvr train` as it is typed: streams, exit codes, JSON, and the words of each refusal."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from synthetic import SyntheticStore, write_backbone, write_frames
from typer.testing import CliRunner, Result

from tvr_cli.cli import app
from tvr_cli.files import lock

METHOD = "tests.synthetic"
FAST = ["--epochs", "2", "--batch-size", "4", "--threads", "1", "--device", "cpu"]


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def test_three_lines_of_json_and_a_table(tmp_path: Path) -> None:
    SyntheticStore().write(tmp_path)
    result = tvr("train", "--method", METHOD, *FAST, "--json", "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    payload = json.loads(result.stdout)
    assert payload["schema"] == "tvr/train@1" and payload["run"] == "synthetic" and payload["steps"] == 14
    assert "training tests.synthetic on features" in result.stderr
    again = tvr("train", "--method", METHOD, *FAST, "-o", tmp_path)
    assert "best on val" in again.stdout and "tvr evaluate synthetic-2" in again.stdout


def test_features_are_computed_from_frames_and_that_is_said(tmp_path: Path) -> None:
    backbone = write_backbone(tmp_path / "clip")
    write_frames(tmp_path / "out")
    result = tvr("train", "--method", METHOD, "--backbone", backbone, *FAST, "--json", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "computing features first (tvr precompute-features)" in result.stderr
    assert json.loads(result.stdout)["steps"] == 6  # 12 training videos, batches of 4, two epochs


def test_without_captions_the_file_is_shown(tmp_path: Path) -> None:
    backbone = write_backbone(tmp_path / "clip")
    write_frames(tmp_path / "out", captions=False)
    result = tvr("train", "--method", METHOD, "--backbone", backbone, *FAST, "-o", tmp_path / "out")
    assert result.exit_code == 3
    assert '{"video": "dogs/beach.mp4", "caption": "a dog runs along the beach"}\n{"video": "surf.mov"' in result.stderr


def test_captions_that_were_edited_are_read_again(tmp_path: Path) -> None:
    backbone = write_backbone(tmp_path / "clip")
    captions = write_frames(tmp_path / "out")
    args = ("train", "--method", METHOD, "--backbone", backbone, *FAST, "--json", "-o", tmp_path / "out")
    assert tvr(*args).exit_code == 0
    lines = captions.read_text().splitlines()
    captions.write_text("\n".join(lines[:16]) + "\n")
    result = tvr(*args)
    assert "captions.jsonl' has changed" in result.stderr
    assert json.loads(result.stdout)["steps"] == 2  # 6 training videos: one batch of 4 an epoch


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--method", "mean"], 2, "tvr evaluate --method mean"),
        (["--method", "glcl"], 2, "did you mean glccl?"),
        (["--method", METHOD, "--set", "train.epoch=3"], 2, "did you mean epochs?"),
        (["--method", METHOD, "--set", "train.epochs=many"], 2, "expected a whole number, found 'many'"),
        (["--method", METHOD, "--set", "method.tests.synthetic.dropp=1"], 2, "did you mean drop?"),
        (["--method", METHOD, "--batch-size", "1"], 2, "at least 2, found 1"),
        (["--method", METHOD, "--tune", "all"], 2, "one of head, full"),
        (["--method", METHOD, "--set", "train.freeze=[nothing]"], 2, "matches no parameter"),
        ([], 2, "give --method NAME"),
        (["--resume"], 3, "run to resume"),
        (["--resume", "--run", "nowhere"], 3, "expected a run 'nowhere'"),
        (["--method", METHOD, "--run", "../x"], 2, "a run's name holds letters"),
    ],
)
def test_each_refusal_has_its_exit_code_and_says_what_to_do(
    tmp_path: Path, args: list[str], code: int, words: str
) -> None:
    SyntheticStore().write(tmp_path)
    result = tvr("train", *args, "--threads", "1", "-o", tmp_path)
    assert result.exit_code == code, result.stderr
    assert words in result.stderr and result.stdout == ""


def test_an_empty_workspace_is_refused(tmp_path: Path) -> None:
    result = tvr("train", "--method", METHOD, "-o", tmp_path)
    assert result.exit_code == 3 and "tvr extract-frames videos/ -o" in result.stderr


def test_a_dry_run_prints_origins_and_groups(tmp_path: Path) -> None:
    SyntheticStore().write(tmp_path)
    result = tvr("train", "--method", METHOD, "--epochs", "3", "--set", "train.lr=1e-3", "--dry-run", "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    lines = {" ".join(line.split()) for line in result.stdout.splitlines()}
    assert "train.epochs 3 flag" in lines and "train.lr 0.001 --set" in lines and "train.seed 0 default" in lines
    assert any(line.startswith("head 0.001 0.2 1 256") for line in lines)
    assert not (tmp_path / "runs").exists()


def test_a_recipe_that_needs_a_vit_is_refused_on_a_resnet(tmp_path: Path) -> None:
    result = tvr("train", "--recipe", "eaglenet-msrvtt-b16", "--backbone", "demo-tiny", "--dry-run", "-o", tmp_path)
    assert result.exit_code == 2
    assert "temporal shift needs a ViT" in result.stderr and "ModifiedResNet" in result.stderr


def test_a_second_training_takes_another_name_and_a_named_one_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SyntheticStore().write(tmp_path)
    monkeypatch.setattr("tvr_cli.engine.training.train._WAIT_S", 0.1)
    with lock(tmp_path / "runs" / "synthetic"):  # as held by a training that has not written its configuration yet
        result = tvr("train", "--method", METHOD, *FAST, "--json", "-o", tmp_path)
        assert result.exit_code == 0 and json.loads(result.stdout)["run"] == "synthetic-2"
        named = tvr("train", "--method", METHOD, *FAST, "--run", "synthetic", "-o", tmp_path)
        assert named.exit_code == 4 and "another tvr process" in named.stderr
    assert not (tmp_path / "runs" / "synthetic" / "metrics.jsonl").exists()


def test_a_run_that_was_begun_while_another_waited_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SyntheticStore().write(tmp_path)
    config = tmp_path / "runs" / "mine" / "config.json"
    others = '{"format": 1, "method": {"glccl": {}}}'

    @contextlib.contextmanager
    def late(folder: Path, wait_s: float = 10.0) -> Iterator[None]:
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(others)  # the other process finished while this one waited for the lock
        yield

    monkeypatch.setattr("tvr_cli.engine.training.train.files.lock", late)
    result = tvr("train", "--method", METHOD, *FAST, "--run", "mine", "-o", tmp_path)
    assert result.exit_code == 2 and "the run 'mine' exists" in result.stderr and config.read_text() == others


def test_resume_with_another_seed_names_the_leaf(tmp_path: Path) -> None:
    SyntheticStore().write(tmp_path)
    assert tvr("train", "--method", METHOD, *FAST, "-o", tmp_path).exit_code == 0
    result = tvr("train", "--resume", "--method", METHOD, "--seed", "7", "-o", tmp_path)
    assert result.exit_code == 3 and "train.seed was 0, now 7" in result.stderr


def test_rerun_gives_the_same_weights_to_the_bit_and_says_so(tmp_path: Path) -> None:
    SyntheticStore().write(tmp_path)
    assert tvr("train", "--method", METHOD, *FAST, "-o", tmp_path).exit_code == 0
    result = tvr("rerun", "synthetic", "--method", METHOD, "--json", "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    payload = json.loads(result.stdout)
    assert payload["schema"] == "tvr/rerun@1" and payload["identical"] is True
    assert payload["train"]["run"] == "synthetic-again" and payload["before"] == payload["after"]
    assert "to the bit" in tvr("rerun", "synthetic", "--method", METHOD, "-o", tmp_path).stdout
    assert (tmp_path / "runs" / "synthetic-again-2").is_dir()


def test_two_reruns_at_once_take_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SyntheticStore().write(tmp_path)
    assert tvr("train", "--method", METHOD, *FAST, "-o", tmp_path).exit_code == 0
    monkeypatch.setattr("tvr_cli.engine.training.train._WAIT_S", 0.1)
    with lock(tmp_path / "runs" / "synthetic-again"):  # as held by a rerun that has not written its configuration yet
        result = tvr("rerun", "synthetic", "--method", METHOD, "--json", "-o", tmp_path)
        assert result.exit_code == 0, result.stderr
        payload = json.loads(result.stdout)
        assert payload["train"]["run"] == "synthetic-again-2" and payload["identical"] is True
        named = tvr("rerun", "synthetic", "--method", METHOD, "--run", "synthetic-again", "-o", tmp_path)
        assert named.exit_code == 4 and "another tvr process" in named.stderr


def test_a_dry_rerun_writes_nothing(tmp_path: Path) -> None:
    SyntheticStore().write(tmp_path)
    assert tvr("train", "--method", METHOD, *FAST, "-o", tmp_path).exit_code == 0
    result = tvr("rerun", "synthetic", "--method", METHOD, "--dry-run", "--json", "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    payload = json.loads(result.stdout)
    assert payload["dry_run"] and payload["train"]["run"] == "synthetic-again"
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["synthetic"]


def test_rerun_says_what_has_changed(tmp_path: Path) -> None:
    SyntheticStore().write(tmp_path)
    assert tvr("train", "--method", METHOD, *FAST, "-o", tmp_path).exit_code == 0
    env = tmp_path / "runs" / "synthetic" / "env.json"
    stored = json.loads(env.read_text())
    env.write_text(json.dumps({**stored, "versions": {**stored["versions"], "torch": "1.13"}}))
    assert "versions.torch was 1.13, is " in tvr("rerun", "synthetic", "--method", METHOD, "-o", tmp_path).stdout


def test_rerun_needs_a_finished_run(tmp_path: Path) -> None:
    SyntheticStore().write(tmp_path)
    assert tvr("rerun", "nothing", "-o", tmp_path).exit_code == 3
    assert tvr("train", "--method", METHOD, *FAST, "-o", tmp_path).exit_code == 0
    (tmp_path / "runs" / "synthetic" / "checkpoints" / "best.safetensors").unlink()
    result = tvr("rerun", "synthetic", "--method", METHOD, "-o", tmp_path)
    assert result.exit_code == 3 and "no weights to compare" in result.stderr


def test_the_name_of_a_trained_method_leads_to_its_runs(tmp_path: Path) -> None:
    """`tvr compare gare` proposed `tvr evaluate --method gare`, which proposed a flag that `evaluate` has not."""
    backbone, out = write_backbone(tmp_path / "clip"), tmp_path / "out"
    write_frames(out)
    nothing = tvr("compare", "gare", "mean", "-o", out)
    assert nothing.exit_code == 3 and f"tvr evaluate --method gare -o {out}" in nothing.stderr
    done = tvr("train", "--method", "gare", "--run", "first", "--backbone", backbone, *FAST, "-o", out)
    assert done.exit_code == 0, done.stderr
    assert tvr("compare", "gare", "mean", "-o", out).stderr.endswith("found nothing; runs of it: first\n")
    refused = tvr("evaluate", "--method", "gare", "-o", out)
    assert refused.exit_code == 2
    assert f"name the run: tvr evaluate first -o {out}, or: tvr query" in refused.stderr
    assert tvr("evaluate", "first", "--split", "val", "-o", out).exit_code == 0


def test_plot_draws_the_newest_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert tvr("plot", "-o", tmp_path).exit_code == 3
    SyntheticStore().write(tmp_path)
    assert tvr("train", "--method", METHOD, *FAST, "-o", tmp_path).exit_code == 0
    result = tvr("plot", "-o", tmp_path, "--json")
    path = Path(json.loads(result.stdout)["path"])
    assert path == tmp_path / "runs" / "synthetic" / "curves.png" and path.read_bytes()[1:4] == b"PNG"
    assert tvr("plot", "synthetic", "--out", tmp_path / "c.svg", "-o", tmp_path).stdout.strip().endswith("c.svg")
    assert tvr("plot", "synthetic", "--out", tmp_path / "c.txt", "-o", tmp_path).exit_code == 2


def test_a_resumed_session_is_recorded(tmp_path: Path) -> None:
    SyntheticStore().write(tmp_path)
    assert tvr("train", "--method", METHOD, *FAST, "-o", tmp_path).exit_code == 0
    assert tvr("train", "--resume", "--run", "synthetic", "--method", METHOD, "-o", tmp_path).exit_code == 0
    env = json.loads((tmp_path / "runs" / "synthetic" / "env.json").read_text())
    assert env["resumed"][0]["step"] == 14 and "torch" in env["resumed"][0]["versions"]
