"""What a researcher types wrong: values out of range, settings a run cannot take, kernels, checkpoints, score files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import SyntheticStore
from typer.testing import CliRunner, Result

from tvr_cli.cli import app

METHOD = "tests.synthetic"


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def refused(*args: object, code: int) -> str:
    result = tvr(*args)
    assert result.exit_code == code, (result.exit_code, result.stderr)
    assert "a bug in tvr" not in result.stderr and result.stdout == ""
    return result.stderr


@pytest.fixture
def out(tmp_path: Path) -> Path:
    SyntheticStore().write(tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        ("epochs=-1", "train.epochs: expected 1 or more, found -1"),
        ("steps=0", "train.steps: expected 1 or more, found 0"),
        ("patience=0", "train.patience: expected 1 or more, found 0"),
        ("lr=-1", "train.lr: expected 0 or more, found -1"),
        ("lr=.nan", "train.lr: expected 0 or more, found nan"),
        ("backbone_lr=.inf", "train.backbone_lr: expected 0 or more, found inf"),
        ("warmup=10", "train.warmup: expected a fraction of all steps, 0 to 1, found 10"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_values_out_of_range_are_refused_before_any_work(out: Path, leaf: str, words: str, dry: list[str]) -> None:
    assert words in refused("train", "--method", METHOD, "--set", f"train.{leaf}", "-o", out, *dry, code=2)


def test_a_dry_run_refuses_the_name_that_the_run_would(out: Path) -> None:
    assert "a run's name holds letters" in refused(
        "train", "--method", METHOD, "--run", "../x", "--dry-run", "-o", out, code=2
    )


def test_bad_yaml_is_one_line_with_its_number(out: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("train: {\n  epochs: [1\n}\n")
    said = refused("train", "--method", METHOD, "--config", tmp_path / "bad.yaml", "-o", out, "--dry-run", code=2)
    assert "bad.yaml:3: not valid YAML: expected ',' or ']'" in said and said.count("\n") == 1


def test_settings_are_not_for_a_trained_run(out: Path) -> None:
    trained = tvr(
        "train", "--method", METHOD, "--run", "r", "--epochs", 1, "--batch-size", 4, "--threads", 1, "-o", out
    )
    assert trained.exit_code == 0, trained.stderr
    assert "as it was trained" in refused("evaluate", "r", "--set", "method.x.y=1", "-o", out, code=2)
    assert "as it was trained" in refused("evaluate", "--set", "method.x.y=1", "-o", out, code=2)


def test_saved_scores_are_of_the_kind_that_their_name_says(out: Path, tmp_path: Path) -> None:
    results = []
    for name in ("s.npz", "s.safetensors"):
        saved = tvr("evaluate", "--method", "mean", "--split", "val", "-o", out, "--save-scores", tmp_path / name)
        assert saved.exit_code == 0, saved.stderr
        results.append(tvr("evaluate", "--scores", tmp_path / name).stdout.partition("\n")[2])
    assert results[0] == results[1] != ""
    assert np.load(tmp_path / "s.npz")["scores"].ndim == 2
    said = refused(
        "evaluate", "--method", "mean", "--split", "val", "-o", out, "--save-scores", tmp_path / "s.csv", code=2
    )
    assert ".safetensors or .npz" in said


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [("foldd", 2, "did you mean folded?"), ("triton", 4, "text_pooling: TVR_KERNELS asks for 'triton', but")],
)
def test_kernels_that_cannot_be_had(
    out: Path, name: str, code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVR_KERNELS", name)
    assert words in refused(
        "evaluate", "--method", "text_guided", "--split", "val", "--device", "cpu", "-o", out, code=code
    )
    doctor = tvr("doctor", "-o", out)
    assert "TVR_KERNELS" in doctor.stdout, doctor.stderr


@pytest.mark.parametrize("name", ["junk.pt", "junk.safetensors", "module.pt"])
def test_a_checkpoint_that_is_none_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if name == "module.pt":
        torch.save(torch.nn.Linear(2, 2), file)
    else:
        file.write_bytes(b"junk" * 30)
    said = refused("import-checkpoint", file, "--method", "gare", "-o", tmp_path, code=3)
    assert "is not a readable weights file" in said and said.count("\n") == 1
    assert ("reading it would run torch.nn.modules.linear.Linear" in said) == (name == "module.pt")
    assert "\x1b" not in said and "two options" not in said
    assert "expected a checkpoint" in refused("import-checkpoint", tmp_path, "--method", "gare", "-o", tmp_path, code=3)


def test_what_comes_next_names_the_workspace_where_it_is_not_the_default(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = ["train", "--method", METHOD, "--epochs", 1, "--batch-size", 4, "--threads", 1]
    assert tvr(*fast, "--run", "a", "-o", out).stdout.endswith(f"next: tvr evaluate a --method {METHOD} -o {out}\n")
    monkeypatch.chdir(out.parent)
    assert tvr(*fast, "--run", "b").stdout.endswith(f"next: tvr evaluate b --method {METHOD}\n")
    monkeypatch.setenv("TVR_WORKSPACE", str(out))
    assert tvr(*fast, "--run", "c").stdout.endswith(f"next: tvr evaluate c --method {METHOD}\n")
