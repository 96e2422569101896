"""Errors of the system at every site, kills and signals at seeded steps: nothing is lost, nothing is "a bug in tvr".

What `scripts/fault_soak.py` does at length. `TVR_FAULTS=N` tries N kills instead of 40.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from faults import blows
from faults.blows import COMMANDS, REFUSALS, World

KILLS, SIGNALS = int(os.environ.get("TVR_FAULTS", "40")), 10
SAID = {2, 3, 4, 5}  # exit codes of a refusal; 0 where what failed is not needed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("blows"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and /proc"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    threads, product = torch.get_num_threads(), blows.gemm._chosen
    yield World(tmp_path_factory.mktemp("world"))
    torch.set_num_threads(threads)
    blows.gemm._chosen = product


@pytest.fixture
def tried() -> Iterator[Counter[str]]:
    """Counts what was tried, and prints it."""
    found: Counter[str] = Counter()
    yield found
    print(f"\ntried: {dict(found)}", file=sys.__stdout__)


def test_the_world_is_whole(world: World, tmp_path: Path) -> None:
    frames, failures = world.right["extract"][0]
    assert (len(frames), failures) == (6, ["bad.mp4"]) and len(world.right["index"][0]) == 6
    assert all(world.steps[name] and world.right[name][1] == [] for name in COMMANDS)
    assert blows.flip_is_seen(world.start("precompute", tmp_path))


@pytest.mark.parametrize("name", COMMANDS)
def test_an_error_at_each_site_is_a_sentence_and_loses_nothing(
    world: World, tmp_path: Path, tried: Counter[str], name: str
) -> None:
    for turn, site in enumerate(blows.sites(world.steps[name])):
        error = REFUSALS[site.kind][turn % len(REFUSALS[site.kind])]
        out = world.start(name, tmp_path / str(turn))
        ended = blows.forked(world.command(name, out), blows.refuse(site.number, error), out)
        what = f"{error} at the {site.kind} of {site.site}: exit {ended.code}: {ended.said}"
        assert ended.code in SAID | {0} and "a bug in tvr" not in ended.said, what
        assert ended.code in (0, 5) or "error: " in ended.said, what
        assert world.finish(name, out) == world.right[name], what
        tried[site.kind] += 1
    assert sum(tried.values()) > 5


@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_any_step_after_the_first_shard_loses_nothing(
    world: World, tmp_path: Path, tried: Counter[str], name: str
) -> None:
    after = [step for step in world.steps[name] if step.done or name in ("train", "index")]
    for turn, step in enumerate(random.Random(name).choices(after, k=KILLS // len(COMMANDS))):
        out = world.start(name, tmp_path / str(turn))
        ended = blows.forked(world.command(name, out), blows.send(step.number, signal.SIGKILL), out)
        assert ended.code == -signal.SIGKILL, ended.said
        assert world.finish(name, out) == world.right[name], (
            f"a kill at step {step.number} of {name}, {step.kind} {step.site}"
        )
        tried["kills"] += 1


@pytest.mark.skipif(not blows.gemm.has_onednn(), reason="has one matrix product")
def test_a_resumed_run_keeps_the_matrix_product_it_began_with(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = [step for step in world.steps["train"] if step.kind == "open" and "step-00000004" in step.path]
    out = world.start("train", tmp_path)
    ended = blows.forked(world.command("train", out), blows.send(saved[0].number, signal.SIGKILL), out)
    monkeypatch.setattr(blows.gemm, "_chosen", "onednn")
    assert ended.code == -signal.SIGKILL and world.finish("train", out) == world.right["train"]


def test_a_signal_at_any_step_is_exit_130_and_saved(world: World, tmp_path: Path, tried: Counter[str]) -> None:
    rng = random.Random(1)
    for turn in range(SIGNALS):
        name, number = COMMANDS[turn % len(COMMANDS)], (signal.SIGINT, signal.SIGTERM)[turn // 2 % 2]
        step = rng.choice(world.steps[name])
        out = world.start(name, tmp_path / str(turn))
        ended = blows.forked(world.command(name, out), blows.send(step.number, number), out)
        over = name == "train" and ended.code == 0  # in its last step: it finishes that, and nothing is left to do
        assert over or (ended.code == 130 and "interrupted" in ended.said), (step, ended)
        assert world.finish(name, out) == world.right[name], step
        tried[number.name] += 1


# ------------------------------------------------------------------------------------------ the suite itself can fail


def test_a_build_that_goes_on_at_another_quality_fails_the_suite(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = killed_in_extract(world, tmp_path)
    tasks_of = blows.extract.tasks_of

    def worse(videos: Any, plan: Any, options: Any) -> Any:
        return tasks_of(videos, dataclasses.replace(plan, quality=plan.quality - 40), options)

    monkeypatch.setattr(blows.extract, "tasks_of", worse)
    assert world.finish("extract", out) != world.right["extract"]


def test_a_build_that_forgets_failures_fails_the_suite(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = killed_in_extract(world, tmp_path)
    (out / "frames" / "failures.jsonl").write_text("")
    monkeypatch.setattr(blows.extract.FrameWriter, "add_failure", lambda self, failure: None)
    assert world.finish("extract", out) != world.right["extract"]


def test_a_build_without_checksums_fails_the_suite(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = world.start("precompute", tmp_path)
    monkeypatch.setattr("tvr_cli.files.sha256_file", blows.believed(out))
    assert not blows.flip_is_seen(out)


def killed_in_extract(world: World, tmp_path: Path) -> Path:
    """Return a workspace whose extraction was killed after its first shard."""
    out = world.start("extract", tmp_path)
    step = next(step for step in world.steps["extract"] if step.done)
    assert blows.forked(world.command("extract", out), blows.send(step.number, signal.SIGKILL), out).code == -9
    return out
