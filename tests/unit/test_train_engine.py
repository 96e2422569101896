"""`engine.train` on a small feature store on disk: what a user asks for, what is refused, what is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import REST, line_of
from synthetic import SyntheticStore
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.engine import scorers
from tvr_cli.engine.training.train import TrainOptions, dry_run, experiment_of, train
from tvr_cli.engine.training.train_result import Leaf
from tvr_cli.errors import ConfigError, DataError, Interrupted, StoreMismatch
from tvr_cli.runs import RunDir
from tvr_cli.types import Sizes
from tvr_cli.workspace import Workspace

METHOD = "tests.synthetic"
OPTIONS = TrainOptions(device="cpu", threads=1)
FLAGS = {"train.batch_size": 8, "train.epochs": 2, "train.lr": 1e-2}
REPOSITORY = Path(__file__).resolve().parents[2]


def workspace_in(folder: Path, **store) -> Path:
    SyntheticStore(**store).write(folder)
    return folder


def run_train(workspace: Path, options: TrainOptions = OPTIONS, method: str | None = METHOD, **flags):
    folder = Workspace(workspace)
    resolved, options = experiment_of(
        folder, options, method=method, flags={**({} if options.resume else FLAGS), **flags}
    )
    return train(resolved, folder, options)


def test_a_run_holds_configuration_environment_metrics_and_weights(tmp_path: Path) -> None:
    result = run_train(workspace_in(tmp_path))
    run = RunDir.open(tmp_path / "runs" / "synthetic")
    assert result.run == "synthetic" and result.steps == 6 and result.stopped == "finished"
    assert run.config()["train"]["batch_size"] == 8
    assert json.loads((run.path / "origins.json").read_text())["train.batch_size"] == "flag"
    assert run.env()["threads"] == 1 and run.env()["cpu_gemm"] in ("mkl", "onednn") and "commit" in run.env()["git"]
    assert sorted(p.name for p in run.checkpoints.iterdir()) == [
        "best.safetensors", "step-00000003.safetensors", "step-00000006.safetensors",
    ]  # fmt: skip
    assert {r["event"] for r in run.logged()} == {"step", "validation"}
    assert 0 <= result.best.metrics.t2v["R@1"] <= 100


def test_a_trained_run_can_be_scored(tmp_path: Path) -> None:
    from tvr_cli.engine.evaluation.evaluate import EvaluateOptions, evaluate

    workspace = workspace_in(tmp_path, splits=("train", "train", "val", "test"))
    run_train(workspace)
    store = scorers.store_for(Workspace(workspace), RunDir.open(tmp_path / "runs" / "synthetic"), None)
    scorer = scorers.trained(RunDir.open(tmp_path / "runs" / "synthetic"), store, METHOD)
    result = evaluate(scorer, store, workspace, EvaluateOptions(device="cpu"))
    assert result.subject.run == "synthetic" and result.subject.videos == 10


def test_a_second_run_takes_a_new_name_and_a_named_one_is_not_overwritten(tmp_path: Path) -> None:
    workspace = workspace_in(tmp_path)
    assert [run_train(workspace).run for _ in range(2)] == ["synthetic", "synthetic-2"]
    with pytest.raises(ConfigError, match="--resume"):
        run_train(workspace, TrainOptions(run="synthetic"))


def test_resuming_with_another_configuration_names_the_leaves(tmp_path: Path) -> None:
    workspace = workspace_in(tmp_path)
    run_train(workspace)
    again = TrainOptions(run="synthetic", resume=True)
    with pytest.raises(DataError, match=r"train\.epochs was 2, now 5; train\.lr was 0\.01, now 0\.5\."):
        run_train(workspace, again, **{"train.lr": 0.5, "train.epochs": 5})
    assert run_train(workspace, again, **{"train.lr": 1e-2, "train.keep_checkpoints": 7}).steps == 6
    assert run_train(workspace, TrainOptions(resume=True)).run == "synthetic"


def test_resuming_on_changed_captions_is_refused(tmp_path: Path) -> None:
    workspace = workspace_in(tmp_path)
    run_train(workspace)
    SyntheticStore(videos=41).write(workspace)
    with pytest.raises(StoreMismatch, match="have changed"):
        run_train(workspace, TrainOptions(run="synthetic", resume=True))


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run to resume"):
        run_train(workspace_in(tmp_path), TrainOptions(resume=True))


def test_a_method_without_parameters_points_to_evaluate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tvr evaluate --method mean"):
        train_resolved(Workspace(tmp_path), "mean")


def train_resolved(workspace: Workspace, method: str):
    from tvr_cli import config
    from tvr_cli.engine.training.train import resolve

    return train(resolve([config.Layer({"method": {method: {}}}, "test")]), workspace, OPTIONS)


def test_a_batch_of_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 2, found 1"):
        run_train(workspace_in(tmp_path), **{"train.batch_size": 1})


def test_a_single_training_pair_is_refused(tmp_path: Path) -> None:
    workspace = workspace_in(tmp_path, videos=3, captions_per_video=1, splits=("train", "val", "val"))
    with pytest.raises(DataError, match="two pairs to compare"):
        run_train(workspace)


def test_an_empty_workspace_and_missing_captions_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tvr extract-frames"):
        run_train(tmp_path)
    workspace = workspace_in(tmp_path / "w", captions_per_video=0)
    with pytest.raises(DataError, match=r"captions\.jsonl like this") as e:
        run_train(workspace)
    assert any('"caption": "a dog runs along the beach"' in line for line in e.value.example)


def test_a_store_of_another_plan_is_refused_by_field(tmp_path: Path) -> None:
    with pytest.raises(StoreMismatch, match=r"words\.length is 5, 32 is wanted"):
        run_train(workspace_in(tmp_path), **{"words.length": 32})


def test_a_dry_run_shows_store_configuration_and_groups_and_writes_nothing(tmp_path: Path) -> None:
    workspace = workspace_in(tmp_path)
    before = sorted(p for p in tmp_path.rglob("*"))
    resolved, options = experiment_of(workspace, OPTIONS, method=METHOD, flags=FLAGS)
    plan = dry_run(resolved, Workspace(workspace), options)
    assert sorted(p for p in tmp_path.rglob("*")) == before
    assert plan.store.exists and plan.pairs == 30 and plan.steps == 6
    assert Leaf("train.lr", 0.01, "flag") in plan.config
    assert {g.group: g.parameters for g in plan.groups} == {"head": 16, "logit scale": 1} or sum(
        g.parameters for g in plan.groups
    ) == 16 * 16 + 16 + 1


def test_a_dry_run_without_any_store_says_what_it_needs(tmp_path: Path) -> None:
    flags = {**FLAGS, "backbone.name": "clip-vit-b32", "frames.num_frames": 12, "shape": "fixed"}
    resolved, options = experiment_of(Workspace(tmp_path), OPTIONS, method=METHOD, flags=flags)
    plan = dry_run(resolved, Workspace(tmp_path), options)
    assert plan.store.exists is False and plan.store.backbone == "clip-vit-b32"
    assert plan.sizes == Sizes(dim=512, frames=12, words=32)
    assert "tvr extract-frames" in plan.store.next


def test_sigkill_in_the_middle_then_resume_gives_the_same_bytes(tmp_path: Path) -> None:
    flags = ["--set", "train.batch_size=8", "--set", "train.lr=1e-2", "--set", "train.checkpoint_every=2"]
    train_args = ["train", "--method", METHOD, "--epochs", "30", *flags, "--threads", "1", "--device", "cpu"]
    whole, killed = workspace_in(tmp_path / "whole"), workspace_in(tmp_path / "killed")
    assert CliRunner().invoke(app, [*train_args, "-o", str(whole)]).exit_code == 0
    process = tvr(*train_args, "-o", str(killed), first=_REST_BEFORE_STEP_12_IS_WHOLE)
    assert line_of(process) == "step-00000012.safetensors is written, and not yet whole"
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoints = killed / "runs" / "synthetic" / "checkpoints"
    assert max(p.name for p in checkpoints.glob("step-*.safetensors")) == "step-00000010.safetensors"
    assert CliRunner().invoke(app, ["train", "--resume", "--method", METHOD, "-o", str(killed)]).exit_code == 0
    assert contents(checkpoints) == contents(whole / "runs" / "synthetic" / "checkpoints")


# The worst moment: a checkpoint lies in its temporary file and has not taken its name.
_REST_BEFORE_STEP_12_IS_WHOLE = f"""
import os
replace = os.replace
def rest(source, target):
    if os.path.basename(target) == "step-00000012.safetensors":
        print("step-00000012.safetensors is written, and not yet whole", flush=True)
        {REST}
    replace(source, target)
os.replace = rest
"""


def tvr(*args: str, first: str) -> subprocess.Popen[str]:
    """Start a command in a process of its own, after the code `first`."""
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'kernels'}", "OMP_NUM_THREADS": "1"}
    program = f"{first}\nfrom tvr_cli.cli import main; main()"
    command = [sys.executable, "-c", program, "--quiet", *args]
    return subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}


def test_ctrl_c_prints_the_command_that_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tvr_cli.engine.training.loop import Loop

    workspace, original = workspace_in(tmp_path), Loop.train_step

    def step(self, inputs):
        if inputs.step == 1:
            signal.raise_signal(signal.SIGINT)
        return original(self, inputs)

    monkeypatch.setattr(Loop, "train_step", step)
    with pytest.raises(Interrupted, match=rf"tvr train --resume --run synthetic --method {METHOD} -o {workspace}"):
        run_train(workspace)
    monkeypatch.undo()
    assert run_train(workspace, TrainOptions(run="synthetic", resume=True)).steps == 6


def test_initial_weights_depend_on_the_seed_only(tmp_path: Path) -> None:
    from tvr_cli.engine.training.assemble import build_learner

    store = SyntheticStore().write(tmp_path)
    made = []
    for seed in (1, 1, 2):
        torch.rand(3)
        resolved, _ = experiment_of(Workspace(tmp_path), OPTIONS, method=METHOD, flags={"train.seed": seed})
        made.append(build_learner(resolved, store, offline=True, device=torch.device("cpu")).method.map.weight)
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_a_store_that_does_not_fit_in_memory_gives_the_same_batches(tmp_path: Path) -> None:
    from tvr_cli.engine.training.sampling import PairSampler
    from tvr_cli.engine.training.sources import CachedSource

    store = SyntheticStore().write(tmp_path)
    cpu = torch.device("cpu")
    kept, read = CachedSource(store, cpu), CachedSource(store, cpu, keep_bytes=0)
    sampler = PairSampler(range(len(store.captions)), [c.clips for c in store.captions], batch_size=8)
    plan = list(enumerate(sampler.batches(0)))
    for a, b in zip(kept.stream(plan), read.stream(plan), strict=True):
        assert a.step == b.step
        for x, y in zip(kept.encode(a, slice(2, 5)), read.encode(b, slice(2, 5)), strict=True):
            assert all(
                torch.equal(getattr(x, n), getattr(y, n))
                for n in ("key", "pooled", "tokens", "frames")
                if getattr(x, n, None) is not None
            )


def test_idle_cores_decide_the_threads_unless_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from tvr_cli.engine import device

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert device.default_threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    for idle, wanted in ((0.2, 1), (1.9, 2), (40.0, 4)):
        monkeypatch.setattr(device, "idle_cores", lambda idle=idle: idle)
        assert device.default_threads() == wanted
    monkeypatch.undo()
    assert 0 <= device.idle_cores() <= (os.cpu_count() or 1)
    before = torch.get_num_threads()
    try:
        assert device.use_threads(2) == 2 == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
