"""What a second rank gives: seconds of a step of `tvr train --tune full` on one rank and on two, a thread each.

    python scripts/bench_devices.py                       the row of docs/benchmarks.md; on two idle cores
    python scripts/bench_devices.py --batch 16 --steps 2 --rounds 1

Ranks are processes that speak through gloo, as `tvr train --devices 2` starts them; the backbone is `demo-tiny`, on
plain frames that a temporary workspace holds, decoded in the step. One rank and two take turns, `--rounds` of each, and
the ratio is that of the medians. `loss` is the part of a step of one rank that every rank repeats where it does not
score its own captions only (`Method.loss_rows`): the loss of the whole batch and its gradients to the features.
`--whole` also has two ranks that repeat it, which such a method does in small batches; processor time tells the two
apart on a busy machine, too.

    python scripts/bench_devices.py --method eaglenet --batch 32 --steps 1 --rounds 1 --whole
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "kernels")]

import torch  # noqa: E402
from synthetic import write_frames  # noqa: E402

from tvr_cli.engine.features.precompute import precompute  # noqa: E402
from tvr_cli.engine.training import gradcache, ranks  # noqa: E402
from tvr_cli.engine.training import loop as training_loop  # noqa: E402
from tvr_cli.engine.training.assemble import build_learner, build_source  # noqa: E402
from tvr_cli.engine.training.draws import SeededDraws  # noqa: E402
from tvr_cli.engine.training.launch import launch  # noqa: E402
from tvr_cli.engine.training.loop import Loop, Names  # noqa: E402
from tvr_cli.engine.training.presence import Place  # noqa: E402
from tvr_cli.engine.training.sampling import PairSampler  # noqa: E402
from tvr_cli.engine.training.selection import numbers_of_videos  # noqa: E402
from tvr_cli.engine.training.train import TrainOptions, experiment_of  # noqa: E402
from tvr_cli.plans import PrecomputeOptions  # noqa: E402
from tvr_cli.runs import RunDir  # noqa: E402
from tvr_cli.types import Batch  # noqa: E402
from tvr_cli.workspace import Workspace  # noqa: E402


@dataclass(frozen=True)
class Round:
    """Seconds of a step: wall, of all ranks' processors, and of the loss alone in one process."""

    wall: float
    cpu: float
    loss: float


def measure(out: Path, method: str, batch: int, steps: int, whole: bool, place: Place) -> Round:
    """Train a few steps as one rank, and return what one of them takes. whole: every rank scores all captions."""
    if whole:
        training_loop.ROWS_FROM = batch + 1
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    workspace = Workspace(out)
    flags = {"train.tune": "full", "train.batch_size": batch, "train.captions": "all"}
    resolved, _ = experiment_of(workspace, TrainOptions(), method=method, flags=flags)
    store = next(workspace.given_features())
    train = resolved.experiment.train
    with ranks.join(place) as group, tempfile.TemporaryDirectory() as folder:
        group.open(cpu)
        learner = build_learner(resolved, store, offline=True, device=cpu)
        source = build_source(store, learner, train, cpu, workspace=workspace, workers=0, ranks=group)
        rows = store.split("train")
        positives = store.captions.clips_of(rows)
        sampler = PairSampler(rows.tolist(), positives, batch_size=batch, per_video="all")
        names = Names(str, str, numbers_of_videos(store))
        loop = Loop(learner, source, sampler, names, train, RunDir(Path(folder)), device=cpu, ranks=group)
        plan = [(step, sampler.batches(step)[0]) for step in range(steps + 1)]
        took = []
        for inputs in source.stream(iter(plan)):
            loop.train_step(inputs)
            took.append((time.perf_counter(), time.process_time()))
        wall, used = ((took[-1][i] - took[0][i]) / steps for i in (0, 1))  # the first step is a warm-up
        everyone = group.join(torch.tensor([used], dtype=torch.float64), [1] * group.world)
        loss = seconds_of_loss(loop, inputs) if group.world == 1 else 0.0
        source.close()
    return Round(wall, everyone.sum().item(), loss)


def seconds_of_loss(loop: Loop, inputs) -> float:
    """Return the processor seconds of the loss of a whole batch and of its gradients, the better of two."""
    with torch.no_grad():
        found = loop.source.encode(inputs, slice(0, len(inputs)))
    took = []
    for _ in range(2):
        leaves = gradcache._leaf(found[0]), gradcache._leaf(found[1])
        start = time.process_time()
        output = loop.learner.method.loss(Batch(*leaves), step=0, draws=SeededDraws(0, 0))
        output.total.backward()
        took.append(time.process_time() - start)
    return min(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="clip4clip_seq")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="also two ranks that both compute the whole loss")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        write_frames(out, videos=max(args.batch, 4), num_frames=args.frames, size=64)
        precompute(Workspace(out), "demo-tiny", None, PrecomputeOptions(device="cpu"))
        found: dict[tuple[int, bool], list[Round]] = {(1, False): [], (2, False): []}
        if args.whole:
            found[2, True] = []
        for _ in range(args.rounds):
            for (world, whole), rounds in found.items():
                rounds.append(launch(world, partial(measure, out, args.method, args.batch, args.steps, whole)))
    wall = {way: statistics.median(r.wall for r in rounds) for way, rounds in found.items()}
    used = {way: statistics.median(r.cpu for r in rounds) for way, rounds in found.items()}
    one, two = wall[1, False], wall[2, False]
    share = statistics.median(r.loss / r.cpu for r in found[1, False])
    print(
        f"{args.method}, demo-tiny, B {args.batch}, F {args.frames}: loss {100 * share:.1f} % of a step of one rank; "
        f"a step takes {one:.3f} s on one rank ({used[1, False]:.3f} s of processor time), {two:.3f} s on two "
        f"({used[2, False]:.3f} s); {one / two:.2f} times as fast"
    )
    if args.whole:
        print(
            f"with the whole loss on both ranks {wall[2, True]:.3f} s ({used[2, True]:.3f} s of processor time); "
            f"{one / wall[2, True]:.2f} times as fast as one"
        )


if __name__ == "__main__":
    main()
