"""Score files as other tools leave them: turned, half-empty, of other types, or no score files at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from tvr_cli.cli import app

SCORES = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 2, 2, 3, 3]]
VIDEO = np.repeat(np.arange(4), 2)


def said(*args: object, code: int) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, (result.exit_code, result.stderr)
    return result.stderr


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (SCORES.T, "found shape (4, 8); transpose it: captions are rows"),
        (SCORES[:, :0], "V > 0 videos, found shape (8, 0)"),
        (SCORES[None], "found shape (1, 8, 4)"),
    ],
)
def test_a_matrix_of_another_shape_says_what_to_turn(tmp_path: Path, scores: np.ndarray, words: str) -> None:
    np.savez(tmp_path / "s.npz", scores=scores, video_of_caption=VIDEO)
    assert said("evaluate", "--scores", tmp_path / "s.npz", code=3).strip().endswith(words)


def test_a_video_filled_with_zeros_is_an_incomplete_gallery(tmp_path: Path) -> None:
    file = tmp_path / "s.npz"
    np.savez(file, scores=SCORES * [1, 1, 0, 1], video_of_caption=VIDEO)
    assert "1 of 4 videos have one score for every caption" in said("evaluate", "--scores", file, code=3)
    result = CliRunner().invoke(app, ["evaluate", "--scores", str(file), "--allow-missing"])
    assert result.exit_code == 0 and "4/4 videos, 1 zero-filled" in result.stdout


def test_bf16_asks_for_float32(tmp_path: Path) -> None:
    file = tmp_path / "s.safetensors"
    safetensors.torch.save_file({"scores": torch.tensor(SCORES).bfloat16()}, file)
    assert "type 'BF16', which NumPy lacks; save them as float32" in said("evaluate", "--scores", file, code=3)


@pytest.mark.parametrize("name", ["s.npz", "s.safetensors", "s.npy"])
def test_what_is_no_score_file_shows_how_to_write_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"junk" * 100)
    message = said("evaluate", "--scores", tmp_path / name, code=3)
    assert "np.savez('scores.npz', scores=…, video_of_caption=…)" in message and "pickle.load" not in message


@pytest.mark.parametrize("flags", [["--save-scores", "x.npz"], ["--dry-run"], ["--set", "a.b=1"]])
def test_flags_that_a_score_file_cannot_follow_are_refused(tmp_path: Path, flags: list[str]) -> None:
    np.savez(tmp_path / "s.npz", scores=SCORES, video_of_caption=VIDEO)
    assert "leave out" in said("evaluate", "--scores", tmp_path / "s.npz", *flags, code=2)


def test_one_form_of_output_at_a_time(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", scores=SCORES, video_of_caption=VIDEO)
    files = [tmp_path / "s.npz"] * 2
    assert "choose one" in said("compare", *files, "--csv", "--markdown", code=2)
    assert "choose one" in said("compare", *files, "--csv", "--json", code=2)
