"""How close is close enough: the table, or twice what the authors' own code loses in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden import Closeness, GoldenFile, load
from safetensors.torch import save_file

REFERENCE = torch.tensor([0.5, 4.0], dtype=torch.float64)


def golden(folder: Path, lost: float, dtype: torch.dtype) -> GoldenFile:
    """Return a file whose authors' float32 result is off by `lost`, relative to max(1, |reference|)."""
    off = (REFERENCE + lost * REFERENCE.abs().clamp_min(1.0)).float()
    made = {"eval.out.sim": REFERENCE, "eval.fp32.sim": off}
    made |= {"train.grad.in.x": REFERENCE.clone(), "train.fp32.grad.in.x": off.clone()}
    save_file(made, folder / "made.safetensors")
    return load(folder / "made.safetensors", dtype)


def accepted(close: Closeness, off: float) -> bool:
    try:
        close.value("eval.out.sim", REFERENCE + off, REFERENCE)
    except AssertionError:
        return False
    return True


def test_twice_the_authors_own_error_is_allowed_and_not_more(tmp_path: Path) -> None:
    close = Closeness("any", torch.float32, file=golden(tmp_path, 3e-5, torch.float32))
    assert accepted(close, 5.8e-5) and not accepted(close, 6.2e-5)


def test_the_table_stands_where_the_authors_lose_less_or_nothing_is_known(tmp_path: Path) -> None:
    exact = Closeness("any", torch.float32, file=golden(tmp_path, 1e-7, torch.float32))
    for close in (exact, Closeness("any", torch.float32)):
        assert accepted(close, 0.9e-5) and not accepted(close, 1.1e-5)


def test_a_float64_run_is_held_to_the_table_whatever_float32_loses(tmp_path: Path) -> None:
    close = Closeness("any", torch.float64, file=golden(tmp_path, 3e-5, torch.float64))
    assert accepted(close, 0.9e-7) and not accepted(close, 1.1e-7)


def test_a_file_that_keeps_float64_is_held_to_it(tmp_path: Path) -> None:
    file = golden(tmp_path, 0.0, torch.float64)
    kept = GoldenFile(file.path, file.dtype, file.tensors, {"outputs": "float64"})
    close = Closeness("any", torch.float64, file=kept)
    assert accepted(close, 0.9e-10) and not accepted(close, 1.1e-10)
    assert not accepted(Closeness("any", torch.float32, file=kept), 1.1e-5)


def test_gradients_have_the_same_rule_on_their_own_scale(tmp_path: Path) -> None:
    file = golden(tmp_path, 3e-3, torch.float32)
    close = Closeness("any", torch.float32, file=file)
    scale = float(REFERENCE.max())  # the authors lose 3e-3 of the largest entry
    close.grad("train.grad.in.x", REFERENCE + 5.8e-3 * scale, REFERENCE)
    with pytest.raises(AssertionError, match=r"train\.grad\.in\.x: 1\.0\d times the tolerance"):
        close.grad("train.grad.in.x", REFERENCE + 6.2e-3 * scale, REFERENCE)


def test_a_twin_has_fp32_in_its_name(tmp_path: Path) -> None:
    file = golden(tmp_path, 0.0, torch.float32)
    assert file.authors("eval.out.sim") is file["eval.fp32.sim"]
    assert file.authors("train.grad.in.x") is file["train.fp32.grad.in.x"]
    assert file.authors("eval.in.x") is None and file.authors("eval.out.other") is None
