"""`tvr train --devices` and ranks of torchrun: the same run, one writer, and what becomes of it when a rank dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import WATCHDOG_S, line_of
from safetensors.numpy import load_file
from synthetic import SyntheticStore, write_frames
from tvr_kernels import gemm
from typer.testing import CliRunner, Result

import tvr_cli
from tvr_cli.cli import app
from tvr_cli.engine.training import launch

ROOT = Path(__file__).resolve().parents[2]
METHOD = "tests.synthetic"
FAST = ("--epochs", "2", "--batch-size", "5", "--threads", "1", "--device", "cpu")
# Chunks of three pairs, as each of two ranks has: the products of the towers have one shape then, and round alike.
FULL = (
    *("--tune", "full", "--method", "glccl", "--backbone", "demo-tiny", "--epochs", "4", "--batch-size", "6"),
    *("--set", "train.lr=1e-3", "--set", "train.backbone_lr=1e-3", "--set", "train.augment=randaugment"),
    *("--set", "train.grad_cache=3"),
    *("--set", "train.checkpoint_every=1", "--threads", "1", "--workers", "0", "--device", "cpu"),
)


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def environment(**more: object) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in more.items()}}


def started(*args: object, **more: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tvr_cli", *map(str, args)]
    return subprocess.Popen(
        command, env=environment(**more), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def as_torchrun(
    world: int, *args: object, path: str | None = None, **of_rank: tuple[object, ...]
) -> list[subprocess.Popen[str]]:
    """Start ranks by their environment; of_rank: `rank1=(…)`, more arguments of that rank alone. path: of modules."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        started(
            *args, *of_rank.get(f"rank{rank}", ()), RANK=rank, WORLD_SIZE=world, LOCAL_RANK=rank,
            LOCAL_WORLD_SIZE=world, MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
            PYTHONPATH=path or environment()["PYTHONPATH"],
        )
        for rank in range(world)
    ]  # fmt: skip


def journal(run: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k != "samples_per_s"} for r in records]


def require_same_run(found: Path, wanted: Path, relative: float = 1e-6) -> None:
    """Compare two runs' journals and final weights: numbers to `relative`, all else exactly."""
    ours, theirs = journal(found), journal(wanted)
    assert [(r["event"], r["step"]) for r in ours] == [(r["event"], r["step"]) for r in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert numbers(a) == pytest.approx(numbers(b), rel=relative, abs=relative), (a, b)
    mine, last = (sorted((run / "checkpoints").glob("step-*"))[-1] for run in (found, wanted))
    assert mine.name == last.name
    state, expected = load_file(mine), load_file(last)
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        if name.startswith(("model.", "clip.")):
            error = np.abs(state[name].astype(np.float64) - value).max(initial=0.0)
            assert error <= relative * max(1e-30, np.abs(value.astype(np.float64)).max(initial=0.0)), (name, error)


def numbers(record: Any) -> list[float]:
    if isinstance(record, dict):
        return [x for key in sorted(record) for x in numbers(record[key])]
    return [float(record)] if isinstance(record, int | float) else []


@pytest.mark.slow
def test_two_devices_give_the_run_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen features; the run is written once, says how many devices it had, and evaluates as any run."""
    monkeypatch.setattr(launch, "processors", lambda: 2)
    SyntheticStore().write(tmp_path)
    done = tvr("train", "--method", METHOD, *FAST, "--run", "two", "--devices", "2", "--json", "-o", tmp_path)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 12
    gemm.use(json.loads((tmp_path / "runs" / "two" / "env.json").read_text())["cpu_gemm"])
    assert tvr("train", "--method", METHOD, *FAST, "--run", "one", "-o", tmp_path).exit_code == 0
    runs = tmp_path / "runs"
    require_same_run(runs / "two", runs / "one", 1e-5)
    assert json.loads((runs / "two" / "env.json").read_text())["devices"] == 2
    assert "devices" not in json.loads((runs / "one" / "env.json").read_text())
    again = tvr("rerun", "two", "--method", METHOD, "--device", "cpu", "--json", "-o", tmp_path)
    assert json.loads(again.stdout)["identical"], again.stderr  # on two devices too
    assert json.loads((runs / "two-again" / "env.json").read_text())["devices"] == 2


@pytest.mark.slow
def test_a_program_is_told_of_the_progress_of_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "processors", lambda: 2)
    SyntheticStore().write(tmp_path)
    told: dict[int, list[tuple[str, int, int | None]]] = {1: [], 2: []}
    for devices, seen in told.items():
        out = tvr_cli.open_workspace(tmp_path, progress=lambda *said, seen=seen: seen.append(said))
        out.train(METHOD, devices=devices, epochs=2, batch_size=5, threads=1, device="cpu")
    assert told[2] == told[1] and ("training", 12, 12) in told[2]

    def stop(what: str, done: int, total: int | None) -> None:
        if done:
            raise RuntimeError("enough")

    watched = tvr_cli.open_workspace(tmp_path, progress=stop)
    with pytest.raises(RuntimeError, match="enough"):
        watched.train(METHOD, devices=2, epochs=2, batch_size=5, threads=1, device="cpu")
    assert multiprocessing.active_children() == []  # of this process, which started them


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--devices", "8"], 4, "--devices 8: this machine has 2 processors"),
        (["--devices", "2", "--device", "meta"], 4, "--device meta"),
        (["--gradients", "mean"], 2, "one of exact, authors"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], code: int, words: str
) -> None:
    monkeypatch.setattr(launch, "processors", lambda: 2)
    SyntheticStore().write(tmp_path)
    result = tvr("train", "--method", METHOD, "-o", tmp_path, *args)
    assert result.exit_code == code and words in result.stderr, result.stderr
    previewed = tvr("train", "--method", METHOD, "-o", tmp_path, *args, "--dry-run")
    assert (previewed.exit_code, previewed.stderr) == (code, result.stderr)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--devices", "2"], "torchrun has started them"),
        (["--seeds", "0,1"], "use --devices in place of torchrun"),
    ],
)
def test_ranks_of_torchrun_start_no_ranks_and_no_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], words: str
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    result = tvr("train", "--method", METHOD, *more, "-o", tmp_path)
    assert result.exit_code == 2 and words in result.stderr


def test_a_rank_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "2"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    result = tvr("train", "--method", METHOD, "-o", tmp_path)
    assert result.exit_code == 2 and "RANK=2 of WORLD_SIZE=2" in result.stderr


@pytest.mark.slow
def test_a_rank_with_another_seed_is_refused_before_the_first_step(tmp_path: Path) -> None:
    SyntheticStore().write(tmp_path)
    ranks = as_torchrun(2, "train", "--method", METHOD, *FAST, "-o", tmp_path, rank1=("--seed", 7))
    ended = [rank.communicate(timeout=WATCHDOG_S) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], ended
    for _, said in ended:
        assert "rank 1 would train something else: train.seed is 7, rank 0 has 0" in said
    assert not (tmp_path / "runs" / "synthetic" / "metrics.jsonl").exists()
    assert not (tmp_path / "runs" / "synthetic" / "config.json").exists()


@pytest.mark.slow
def test_a_rank_with_other_weights_is_refused_before_the_first_step(tmp_path: Path) -> None:
    SyntheticStore().write(tmp_path / "out")
    code = (
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from tvr_cli.engine.training import train\n"
        "    original = train.build_learner\n"
        "    def other(*args, **named):\n"
        "        learner = original(*args, **named)\n"
        "        learner.method.logit_scale.data += 1e-6\n"
        "        return learner\n"
        "    train.build_learner = other\n"
    )
    (tmp_path / "sitecustomize.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    ranks = as_torchrun(2, "train", "--method", METHOD, *FAST, "-o", tmp_path / "out", path=path)
    ended = [rank.communicate(timeout=WATCHDOG_S) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [3, 3], ended
    for _, said in ended:
        assert "rank 1 does not begin as rank 0 does, in: weights" in said and "nothing was trained" in said
    assert not (tmp_path / "out" / "runs" / "synthetic" / "config.json").exists()


def whole_like(run: Path) -> Path:
    """Train what a full run trained once more, in this process alone, with the matrix product that it chose."""
    gemm.use(json.loads((run / "env.json").read_text())["cpu_gemm"])
    done = tvr("train", *FULL, "--run", "whole", "-o", run.parent.parent)
    assert done.exit_code == 0, done.stderr
    return run.parent / "whole"


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_and_one_device_finishes_the_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_frames(out, videos=20, size=64)
    code = (
        "import os, signal\n"
        "from tvr_cli.engine.training.loop import Loop\n"
        "original = Loop.train_step\n"
        "def step(self, inputs):\n"
        "    if inputs.step == 3 and self.ranks.rank == 1:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, inputs)\n"
        "Loop.train_step = step\n"
    )
    (tmp_path / "sitecustomize.py").write_text(code)  # runs in every rank
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    killed = started("train", *FULL, "--run", "two", "--devices", "2", "-o", out, PYTHONPATH=path)
    _, said = killed.communicate(timeout=WATCHDOG_S)
    assert killed.returncode == 4, said
    assert "rank 1 of 2 was ended by SIGKILL" in said and "tvr train --resume --run two" in said
    assert "Traceback" not in said
    run = out / "runs" / "two"
    assert sorted(p.name for p in (run / "checkpoints").glob("step-*"))[-1] == "step-00000003.safetensors"
    resumed = tvr("train", "--resume", "--run", "two", "--devices", "1", "--workers", "0", "-o", out)
    assert resumed.exit_code == 0, resumed.stderr
    require_same_run(run, whole_like(run))


@pytest.mark.slow
def test_torchrun_trains_the_run_of_one_process(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_frames(out, videos=20, size=64)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "--", "tvr_cli", "train", *FULL, "--run", "two", "--json", "-o", str(out)]
    done = subprocess.run(command, env=environment(), cwd=ROOT, text=True, capture_output=True, timeout=WATCHDOG_S)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == "two"  # one summary: rank 0's
    require_same_run(out / "runs" / "two", whole_like(out / "runs" / "two"))


@pytest.mark.slow
def test_without_a_starter_the_others_miss_a_rank_that_dies(tmp_path: Path) -> None:
    """Nobody tells: the survivor finds out by itself, and says who is gone."""
    SyntheticStore().write(tmp_path)
    ranks = as_torchrun(2, "train", "--method", METHOD, *FAST, "--epochs", "100000", "-o", tmp_path)
    stderr = ranks[0].stderr
    assert stderr is not None
    assert "training" in stderr.readline() or line_of(ranks[0])
    os.kill(ranks[1].pid, signal.SIGKILL)
    _, said = ranks[0].communicate(timeout=WATCHDOG_S)
    ranks[1].communicate()
    assert ranks[0].returncode == 4, said
    assert "rank 1 of 2 has given no sign of life" in said and "continue with: tvr train --resume" in said


@pytest.mark.slow
def test_ctrl_c_stops_all_ranks_after_the_same_step_and_saves(tmp_path: Path) -> None:
    SyntheticStore().write(tmp_path)
    running = started("train", "--method", METHOD, *FAST, "--epochs", "100000", "--devices", "2", "-o", tmp_path)
    written = tmp_path / "runs" / "synthetic" / "metrics.jsonl"
    while not (written.is_file() and written.stat().st_size):  # the loop is at work, and takes Ctrl-C from here on
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=WATCHDOG_S)
    assert running.returncode == 130, said
    assert "interrupted: stopped after step" in said and "continue with: tvr train --resume" in said
    step = int(said.partition("stopped after step ")[2].split()[0])
    assert (tmp_path / "runs" / "synthetic" / "checkpoints" / f"step-{step:08d}.safetensors").is_file()
    assert journal(tmp_path / "runs" / "synthetic")[-1]["step"] == step


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in Linux's /proc")
def test_ranks_end_when_the_process_that_started_them_is_killed(tmp_path: Path) -> None:
    SyntheticStore().write(tmp_path)
    starter = started("train", "--method", METHOD, *FAST, "--epochs", "100000", "--devices", "2", "-o", tmp_path)
    assert starter.stderr is not None
    while "training" not in starter.stderr.readline():
        assert starter.poll() is None
    children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children").read_text().split()
    assert len(children) >= 2
    starter.kill()
    said = starter.stderr.read()  # to its end: of the last rank that could write there
    starter.communicate()
    assert "the process that holds the ranks together" in said and "continue with: tvr train --resume" in said
    assert "Traceback" not in said
