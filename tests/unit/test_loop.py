"""The training loop on a synthetic store: learning, resuming to the bit, stopping, guard rails."""

from __future__ import annotations

import json
import logging
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import Method, SyntheticStore

from tvr_cli.config import TrainConfig
from tvr_cli.engine.evaluation.gallery import gallery_of_captions, video_scores
from tvr_cli.engine.training import checkpoint, guards
from tvr_cli.engine.training.learner import Learner
from tvr_cli.engine.training.loop import Loop, Names
from tvr_cli.engine.training.sampling import PairSampler
from tvr_cli.engine.training.selection import numbers_of_videos, select
from tvr_cli.engine.training.sources import CachedSource
from tvr_cli.errors import DataError, Interrupted
from tvr_cli.metrics import evaluate
from tvr_cli.runs import RunDir

SETTINGS = {"batch_size": 8, "lr": 1e-2, "epochs": 3, "seed": 5, "weight_decay": 0.0}


def loop_in(folder: Path, store: SyntheticStore | None = None, *, validated: bool = True, **changes) -> Loop:
    store = store or SyntheticStore()
    train = TrainConfig(**(SETTINGS | changes))
    chosen = select(store, train)
    torch.manual_seed(train.seed)
    learner = Learner(Method(Method.Config(), store.sizes))
    source = CachedSource(store, torch.device("cpu"))
    positives = [store.captions[i].clips for i in chosen.train.tolist()]
    sampler = PairSampler(
        chosen.train.tolist(), positives, batch_size=train.batch_size, per_video=train.captions, seed=train.seed
    )
    gallery = gallery_of_captions(store, chosen.validation)

    def validate():
        scores = video_scores(learner.method, source, gallery, 10**8)
        return evaluate(scores.numpy(), gallery.video_of_caption)

    names = Names(lambda i: store.captions[i].id, lambda i: store.clips[i].id, numbers_of_videos(store))
    return Loop(
        learner, source, sampler, names, train, RunDir(folder),
        device=torch.device("cpu"), validate=validate if validated else None, about={"store": store.fingerprint},
    )  # fmt: skip


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "checkpoints").iterdir())}


def steps_of(folder: Path) -> list[dict]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k != "samples_per_s"} for r in records]


def test_training_lowers_the_loss_and_raises_recall_on_unseen_videos(tmp_path: Path) -> None:
    outcome = loop_in(tmp_path, SyntheticStore(videos=200), epochs=12).run()
    records = steps_of(tmp_path)
    losses = [r["loss"] for r in records if r["event"] == "step"]
    validations = [r for r in records if r["event"] == "validation"]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert validations[-1]["t2v"]["R@1"] > validations[0]["t2v"]["R@1"] + 20
    assert outcome.steps == len(losses) and outcome.stopped == "finished" and (outcome.peak_memory_bytes or 1) > 0
    assert outcome.best is not None and outcome.best.key[0] == max(v["t2v"]["R@1"] for v in validations)


def test_the_same_seed_gives_the_same_checkpoint_bytes_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        loop_in(tmp_path / name, seed=seed).run()
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert steps_of(tmp_path / "a") == steps_of(tmp_path / "b")
    assert files_of(tmp_path / "a")["best.safetensors"] != files_of(tmp_path / "c")["best.safetensors"]


@pytest.mark.parametrize("optimizer", ["adamw", "bertadam", "hf-adamw"])
@pytest.mark.parametrize(("killed_after", "saved"), [(1, None), (3, 3), (8, 8), (5, 4)])
def test_a_killed_run_resumes_to_the_same_bytes(
    tmp_path: Path, optimizer: str, killed_after: int, saved: int | None
) -> None:
    options = {"optimizer": optimizer, "checkpoint_every": 2, "schedule": "authors"}
    whole = loop_in(tmp_path / "whole", **options)
    whole.run()

    class Killed(BaseException):
        pass

    killed = loop_in(tmp_path / "killed", **options)
    original = killed.train_step

    def step(inputs):
        if inputs.step == killed_after:
            raise Killed
        return original(inputs)

    killed.train_step = step  # type: ignore[method-assign]
    with pytest.raises(Killed):
        killed.run()

    again = loop_in(tmp_path / "killed", **options)
    last = checkpoint.last_path(tmp_path / "killed" / "checkpoints")
    assert (None if last is None else checkpoint.read(last).step) == saved
    if last is not None:
        torch.rand(7)  # whatever happened in between
        again.resume(checkpoint.read(last))
    again.run()
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert steps_of(tmp_path / "killed") == steps_of(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    loop_in(tmp_path).run()
    before = files_of(tmp_path)
    again = loop_in(tmp_path)
    again.resume(checkpoint.read(checkpoint.last_path(tmp_path / "checkpoints")))
    assert again.run().steps == again.total
    assert files_of(tmp_path) == before


def test_ctrl_c_finishes_the_step_saves_and_says_so(tmp_path: Path) -> None:
    loop = loop_in(tmp_path)
    original = loop.train_step

    def step(inputs):
        if inputs.step == 1:
            signal.raise_signal(signal.SIGINT)
        return original(inputs)

    loop.train_step = step  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match=rf"after step 2 of {loop.total}"):
        loop.run()
    assert checkpoint.read(checkpoint.last_path(tmp_path / "checkpoints")).step == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_nan_stops_before_the_update_and_lists_the_batch(tmp_path: Path) -> None:
    store = SyntheticStore()
    store._text.pooled[:, 0] = float("nan")
    loop = loop_in(tmp_path, store)
    before = {k: v.clone() for k, v in loop.learner.state_dict().items()}
    with pytest.raises(DataError, match=r"step 1: the loss is nan \(in nce\).*not-finite-step-1.json"):
        loop.run()
    record = json.loads((tmp_path / "not-finite-step-1.json").read_text())
    assert len(record["captions"]) == len(record["clips"]) == 8
    assert record["captions"][0].startswith("c") and record["clips"][0].endswith(".mp4")
    assert all(torch.equal(v, before[k]) for k, v in loop.learner.state_dict().items())


def test_patience_stops_a_run_that_no_longer_improves(tmp_path: Path) -> None:
    loop = loop_in(tmp_path, epochs=50, patience=2, lr=0.0)
    outcome = loop.run()
    assert outcome.stopped == "early" and outcome.steps == 3 * loop.sampler.steps
    assert loop_in_again(tmp_path).run().steps == outcome.steps


def loop_in_again(folder: Path) -> Loop:
    again = loop_in(folder, epochs=50, patience=2, lr=0.0)
    again.resume(checkpoint.read(checkpoint.last_path(folder / "checkpoints")))
    return again


def test_without_validation_the_last_weights_are_kept(tmp_path: Path) -> None:
    loop = loop_in(tmp_path, validated=False)
    loop.run()
    best = checkpoint.read(checkpoint.best_path(tmp_path / "checkpoints"))
    assert best.about["best"]["step"] == loop.total
    assert torch.equal(best.model["map.weight"], loop.learner.method.state_dict()["map.weight"])


def test_the_logit_scale_stays_at_or_below_its_limit(tmp_path: Path) -> None:
    loop = loop_in(tmp_path, max_logit_scale=2.001, logit_scale_lr=1.0)
    loop.run()
    assert loop.learner.method.logit_scale.item() <= 2.0011
    assert all(r["logit_scale"] <= 2.0011 for r in steps_of(tmp_path) if r["event"] == "step")


def test_a_loss_at_chance_after_the_warm_up_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="tvr"):
        logging.getLogger("tvr").propagate = True
        assert guards.say_if_at_chance([{"nce": 2.08}] * 5, batch_size=8)  # ln 8 = 2.079
        assert not guards.say_if_at_chance([{"nce": 1.5}] * 5, batch_size=8)
        assert not guards.say_if_at_chance([{"energy": 9.0}] * 5, batch_size=8)
        assert not guards.say_if_at_chance([{"nce": 9.0}] * 5, batch_size=8, start=[{"nce": 12.0}] * 5)
        assert guards.say_if_at_chance([{"nce": 12.0}] * 5, batch_size=8, start=[{"nce": 12.0}] * 5)
    assert "guessing gives 2.079" in caplog.text


def test_a_run_that_learns_nothing_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr(
        guards, "say_if_at_chance", lambda parts, size, start: said.append((len(parts), size, len(start)))
    )
    loop_in(tmp_path, epochs=12, warmup=0.1).run()
    assert said == [(20, 8, 5)]


def test_steps_override_epochs_and_the_schedule_may_be_longer(tmp_path: Path) -> None:
    loop = loop_in(tmp_path, steps=5, schedule_epochs=4)
    assert loop.total == 5 and loop.schedule_total == 4 * loop.sampler.steps
    assert loop.run().steps == 5


def test_selection_prefers_val_and_holds_out_training_videos_where_there_is_none() -> None:
    with_val = select(SyntheticStore(), TrainConfig())
    assert len(with_val.train) == 60 and len(with_val.validation) == 10
    without = select(SyntheticStore(splits=("train",)), TrainConfig(validation_captions="all"))
    assert len(without.train) == 72 and len(without.validation) == 8
    assert not set(without.train.tolist()) & set(without.validation.tolist())
    test = select(SyntheticStore(splits=("train", "test")), TrainConfig(select_on="test"))
    assert test.where == "the test split"


def test_nothing_to_train_on_shows_two_lines_of_captions() -> None:
    with pytest.raises(DataError, match=r'(?s)"caption": "a dog runs.*\n.*"caption": "someone rides'):
        select(SyntheticStore(splits=("test",)), TrainConfig())


def test_accumulating_batches_gives_the_mean_of_their_gradients(tmp_path: Path) -> None:
    plain, summed = loop_in(tmp_path / "a"), loop_in(tmp_path / "b", accumulate=3)
    (inputs,) = plain.source.stream([(0, plain.sampler.epoch(0)[:24])])
    wanted: list[torch.Tensor] = []
    losses = []
    for i in range(3):
        plain.learner.train()
        part = plain._backward_batch(inputs, i, 1, 8)
        losses.append(part.total.item())
        wanted.append(plain.learner.method.map.weight.grad.clone())
        plain.optimizer.zero_grad()
    output = summed._backward(inputs)
    assert output.total.item() == pytest.approx(np.mean(losses), rel=1e-6)
    torch.testing.assert_close(summed.learner.method.map.weight.grad, sum(wanted) / 3, rtol=1e-4, atol=1e-7)
