"""A checkpoint holds everything, its bytes depend on the state alone, and a broken one is refused."""

from __future__ import annotations

import dataclasses
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import nn

from tvr_cli.engine.training import checkpoint
from tvr_cli.engine.training.checkpoint import Best
from tvr_cli.engine.training.optimisers import BertAdam
from tvr_cli.errors import DataError, EnvironmentProblem, StoreMismatch


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    made.register_buffer("seen", torch.zeros((), dtype=torch.int64))
    return made


def optimizer_of(net: nn.Module, kind: str) -> torch.optim.Optimizer:
    if kind == "bertadam":
        return BertAdam(net.parameters(), 0.1, lambda step: 1.0 / (step + 1))
    return torch.optim.AdamW(net.parameters(), lr=0.1)


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, n: int) -> None:
    for _ in range(n):
        optimizer.zero_grad()
        net(torch.rand(5, 3)).square().sum().backward()
        optimizer.step()


def write(folder: Path, net: nn.Module, optimizer: torch.optim.Optimizer, step: int, **options) -> Path:
    settings = {"about": {"b": 1, "a": {"z": 1, "y": 2}}, "best": Best(3, (50.0, 200.0), {"t2v": {"R@1": 50.0}})}
    return checkpoint.write(
        folder, step=step, model=net, optimizer=optimizer, named=list(net.named_parameters()), keep=2,
        **(settings | options),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["adamw", "bertadam"])
def test_a_restored_run_goes_on_to_the_same_bytes(tmp_path: Path, kind: str) -> None:
    net = model()
    optimizer = optimizer_of(net, kind)
    steps(net, optimizer, 3)
    middle = write(tmp_path / "a", net, optimizer, 3)
    steps(net, optimizer, 4)
    wanted = write(tmp_path / "a", net, optimizer, 7).read_bytes()

    other = model(seed=9)
    again = optimizer_of(other, kind)
    steps(other, again, 1)
    checkpoint.restore(checkpoint.read(middle), other, again, list(other.named_parameters()))
    steps(other, again, 4)
    assert write(tmp_path / "b", other, again, 7).read_bytes() == wanted


def test_what_was_written_is_read(tmp_path: Path) -> None:
    net = model()
    read = checkpoint.read(write(tmp_path, net, optimizer_of(net, "adamw"), 5))
    assert read.step == 5 and read.best == Best(3, (50.0, 200.0), {"t2v": {"R@1": 50.0}})
    assert read.about["a"] == {"z": 1, "y": 2}
    assert set(read.model) == set(net.state_dict())


def test_only_the_last_are_kept_and_best_stays(tmp_path: Path) -> None:
    net = model()
    optimizer = optimizer_of(net, "adamw")
    checkpoint.write_best(tmp_path, model=net, about={}, best=Best(1, (1.0, 2.0)))
    for step in (1, 2, 3, 4):
        write(tmp_path, net, optimizer, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best.safetensors", "step-00000003.safetensors", "step-00000004.safetensors",
    ]  # fmt: skip
    assert checkpoint.last_path(tmp_path) == tmp_path / "step-00000004.safetensors"


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left = {"step-00000003.safetensors.77.tmp", "best.safetensors.8.tmp"}
    others = {"notes.tmp", "best.safetensors.old.tmp", "best.safetensors.8.tmp.txt"}
    for name in left | others:
        (tmp_path / name).write_bytes(b"")
    net = model()
    write(tmp_path, net, optimizer_of(net, "adamw"), 3)
    assert {path.name for path in tmp_path.iterdir()} == others | {"step-00000003.safetensors"}


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    net = model()
    path = write(tmp_path, net, optimizer_of(net, "adamw"), 1)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"step-00000001.*damaged"):
        checkpoint.read(path)
    with pytest.raises(DataError, match="found none"):
        checkpoint.read(tmp_path / "nothing.safetensors")


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(
        {"model.x": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"tvr": '{"format": "tvr/checkpoint@9"}'}
    )
    with pytest.raises(StoreMismatch, match="checkpoint@9"):
        checkpoint.read(tmp_path / "x.safetensors")


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    net = model()
    read = checkpoint.read(write(tmp_path, net, optimizer_of(net, "adamw"), 1))
    with pytest.raises(StoreMismatch, match=r"0\.weight: \[4, 3\], not \[4, 5\]"):
        checkpoint.load_model(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)).requires_grad_(), _without(read, "seen"))
    with pytest.raises(StoreMismatch, match="lacks"):
        checkpoint.load_model(net, _without(read, "1.bias"))


def test_a_full_disk_is_told_before_the_first_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoint.require_space(tmp_path / "not" / "yet", [model()], keep=2) > 0
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
    with pytest.raises(EnvironmentProblem, match="keep_checkpoints"):
        checkpoint.require_space(tmp_path, [model()], keep=2)


def _without(read: checkpoint.Checkpoint, name: str) -> checkpoint.Checkpoint:
    return dataclasses.replace(read, model={k: v for k, v in read.model.items() if k != name})
