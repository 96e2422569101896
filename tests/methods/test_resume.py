"""Every method that trains resumes to the bit: its own state (EagleNet's replay buffers) is in the checkpoint too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from synthetic import SyntheticStore

from tvr_cli.config import TrainConfig
from tvr_cli.engine.training import checkpoint
from tvr_cli.engine.training.learner import Learner
from tvr_cli.engine.training.loop import Loop, Names
from tvr_cli.engine.training.sampling import PairSampler
from tvr_cli.engine.training.sources import CachedSource
from tvr_cli.methods import base
from tvr_cli.runs import RunDir

# Small enough for a second; dmae in the form that trains on frozen features.
OPTIONS = {
    "dmae": {"interaction": "att_wti", "word_importance": False},
    "eaglenet": {"candidates": 3, "langevin_steps": 2, "replay_rows": 9},
    "tcmgc": {"keep_rate": 0.2},
}
SIZES = (12, 64, 3, 10)  # videos, D, F, L


def trained_names() -> list[str]:
    names = []
    for name in base.shipped():
        method = base.build(name, SyntheticStore(2, dim=64, frames=3, words=10).sizes, OPTIONS.get(name, {}))
        if type(method).loss is not base.Method.loss and method.trains:
            names.append(name)
    return names


def loop_in(name: str, folder: Path) -> Loop:
    videos, dim, frames, words = SIZES
    store = SyntheticStore(videos, 1, dim=dim, frames=frames, words=words, splits=("train",))
    train = TrainConfig(steps=4, batch_size=4, lr=1e-3, checkpoint_every=2, keep_checkpoints=9, seed=1)
    torch.manual_seed(0)
    learner = Learner(base.build(name, store.sizes, OPTIONS.get(name, {})))
    cpu = torch.device("cpu")
    sampler = PairSampler(range(videos), [c.clips for c in store.captions], batch_size=4, seed=1)
    names = Names(str, str, torch.arange(videos))
    source = CachedSource(store, cpu, patches=learner.method.reads_patches)
    return Loop(learner, source, sampler, names, train, RunDir(folder), device=cpu)


@pytest.mark.parametrize("name", trained_names())
def test_a_run_that_was_stopped_ends_in_the_same_bytes(name: str, tmp_path: Path) -> None:
    whole = loop_in(name, tmp_path / "whole")
    whole.run()

    stopped = loop_in(name, tmp_path / "stopped")
    stopped.total = 2
    stopped.run()
    torch.manual_seed(99)
    again = loop_in(name, tmp_path / "stopped")
    last = checkpoint.last_path(tmp_path / "stopped" / "checkpoints")
    assert last is not None
    again.resume(checkpoint.read(last))
    assert again.step == 2
    again.run()
    final = "checkpoints/step-00000004.safetensors"
    assert (tmp_path / "stopped" / final).read_bytes() == (tmp_path / "whole" / final).read_bytes()


def test_every_published_method_is_among_them() -> None:
    assert {"clip4clip_seq", "dmae", "eaglenet", "gare", "glccl", "tcmgc", "tmass", "ts2net", "xpool"} <= set(
        trained_names()
    )
