"""Measure `tvr evaluate` on N captions x N clips of synthetic features: rate, time and peak memory of the process.

The features are random (D 512, F 12, L 32, fp16, as CLIP ViT-B/32 leaves them), the run is an initialised, untrained
GARE: what is measured is arithmetic and memory, not recall. Each size runs in a process of its own; peak memory is the
largest resident set that the system counted for it, libraries included.

    python scripts/benchmark_evaluation.py                                  1 000 x 1 000 and 10 000 x 10 000
    python scripts/benchmark_evaluation.py --sizes 1000 --method glccl      one size, another method
    python scripts/benchmark_evaluation.py --forms --sizes 1000             what `auto` takes, against the folded form

`--forms` gives the processor time of the whole command, the best of --rounds in turns, for each method in --methods;
the target is that `auto` is never slower by more than 5 %. At 1 000 x 1 000 most methods take 3 to 20 s a form and a
round, `tcmgc` half a minute, `tmass` a minute or more and `eaglenet` five to eight.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tvr_cli import config
from tvr_cli.engine import scorers
from tvr_cli.engine.training import checkpoint
from tvr_cli.engine.training.checkpoint import Best
from tvr_cli.methods import base
from tvr_cli.stores.features.head import Made
from tvr_cli.stores.features.store import FeatureStore, StoredCaption, clip_row_key, text_row_key
from tvr_cli.stores.features.writer import FeatureWriter
from tvr_cli.stores.frames.store import ClipRecord
from tvr_cli.types import TextFeatures, VideoFeatures, caption_key, clip_key
from tvr_cli.workspace import Workspace

DIM, FRAMES, WORDS, PATCHES = 512, 12, 32, 49
ROWS = 512  # of one shard
PROVIDES = ("frames", "pooled", "tokens", "importance")
ON_DEMAND = {"video.pooled", "video.patches"}  # written for a method that needs them: patches take 0.6 MB a clip
BARE = ("mean", "text_guided", "one_vector")  # methods without training
COMMAND = "from tvr_cli.cli import main; main()"


@dataclass(frozen=True)
class Measured:
    """One evaluation. seconds: of scoring and ranking. wall, cpu: of the whole process, seconds. peak: bytes."""

    n: int
    streamed: bool
    seconds: float
    pairs_per_second: float
    wall: float
    cpu: float
    peak: int


def write_store(workspace: Path, n: int, method: str) -> FeatureStore:
    """Write a store of n clips with one test caption each, whose features lean towards their clip's."""
    more = ON_DEMAND & base.load_class(method).needs
    identity = {
        "backbone": {"name": "synthetic", "weights": "0" * 64, "preprocessing": {}, "temporal_shift": False},
        "frames": {"kind": "uniform", "num_frames": FRAMES, "size": 224, "quality": 90},
        "shape": "fixed",
        "words": {"shape": "fixed", "length": WORDS},
        "importance": "stopwords",
    }
    made = Made.of(identity, backbone="synthetic", dim=DIM, provides=(*PROVIDES, *more), provenance={})
    writer = FeatureWriter(workspace / "features" / made.fingerprint, made)
    clips, captions = [], []
    for start in range(0, n, ROWS):
        some = [_clip(i) for i in range(start, min(start + ROWS, n))]
        told = [_caption(i) for i in range(start, min(start + ROWS, n))]
        text, video = _features(some, told, start, more)
        writer.add_video([clip_row_key(c.key, c.n_frames) for c in some], video, torch.float16)
        writer.add_text([text_row_key(c.text) for c in told], text, torch.float16)
        clips += some
        captions += told
    writer.finish(clips, captions, {"name": "synthetic"})
    return FeatureStore.open(writer.root)


def write_run(workspace: Path, store: FeatureStore, method: str) -> None:
    """Write a run of a method as it is initialised, as if training had kept its first weights."""
    torch.manual_seed(0)
    resolved = config.resolve(config.preset_layers("methods", method), scorers.options_schema)
    built = base.build(method, store.sizes, resolved.experiment.options)
    run = Workspace(workspace).run(method)
    about = {"method": method, "tune": "head", "store": store.fingerprint}
    checkpoint.write_best(run.checkpoints, model=built, about=about, best=Best(0, (0.0, 0.0)))
    run.write_env({"store": store.fingerprint})
    run.write_config(resolved)


def measure(workspace: Path, n: int, method: str, budget: str, kernels: str = "auto") -> Measured:
    """Run `tvr evaluate` on the CPU in a process of its own. kernels: what TVR_KERNELS says."""
    named = ["--method", method] if method in BARE else [method]
    args = ["evaluate", *named, "--memory-budget", budget, "--device", "cpu", "--json", "-o", str(workspace)]
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *args],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "TVR_KERNELS": kernels},
    )
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads(done.stdout)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # The largest child so far: sizes must be measured in ascending order.
    peak = after.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    cost = result["cost"]
    return Measured(n, bool(result.get("streamed")), cost["seconds"], cost["pairs_per_second"], wall, cpu, peak)


def row(m: Measured, method: str, budget: str) -> str:
    """Return a line of the table in docs/benchmarks.md."""
    cells = [f"`{method}`", f"{m.n} x {m.n}", budget, "streamed" if m.streamed else "held", f"{m.seconds:.1f}"]
    cells += [f"{m.pairs_per_second:,.0f}", f"{m.wall:.1f}", f"{m.cpu:.1f}", f"{m.peak / 1e9:.2f}"]
    return "| " + " | ".join(cells) + " |"


def compare_forms(methods: list[str], n: int, budget: str, rounds: int, work: Path | None) -> None:
    """Print, for each method, the processor seconds of `tvr evaluate` with `auto` and with the folded form."""
    print("| method | captions x clips | auto, CPU s | folded, CPU s | auto / folded |")
    print("|---|---|---|---|---|")
    for method in methods:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            workspace = Path(folder)
            store = write_store(workspace, n, method)
            if method not in BARE:
                write_run(workspace, store, method)
            best = {"auto": float("inf"), "folded": float("inf")}
            for _ in range(rounds):
                for form in best:
                    best[form] = min(best[form], measure(workspace, n, method, budget, form).cpu)
        auto, folded = best["auto"], best["folded"]
        print(f"| `{method}` | {n} x {n} | {auto:.2f} | {folded:.2f} | {auto / folded:.2f} |", flush=True)


def _clip(i: int) -> ClipRecord:
    name, sha = f"v{i:06d}.mp4", f"{i:064x}"
    key = clip_key(sha, None, None)
    return ClipRecord(
        name, f"/videos/{name}", None, None, key, name, sha, FRAMES, 12.0, (0.0, 12.0), 320, 240, "synthetic", False
    )


def _caption(i: int) -> StoredCaption:
    text = f"caption number {i}"
    return StoredCaption(f"c{i:06d}", text, caption_key(text), "test", (i,), f"v{i:06d}.mp4")


def _features(
    clips: list[ClipRecord], captions: list[StoredCaption], seed: int, more: Set[str]
) -> tuple[TextFeatures, VideoFeatures]:
    g, n = torch.Generator().manual_seed(seed), len(clips)
    meaning = torch.randn(n, DIM, generator=g)
    frames = meaning[:, None] + 2 * torch.randn(n, FRAMES, DIM, generator=g)
    pooled = meaning + 2 * torch.randn(n, DIM, generator=g)
    tokens = pooled[:, None] + torch.randn(n, WORDS, DIM, generator=g)
    n_tokens = torch.randint(5, WORDS + 1, (n,), generator=g)
    marks = (torch.arange(WORDS) < n_tokens[:, None]).to(torch.uint8)
    ts = torch.arange(FRAMES, dtype=torch.float64).expand(n, -1)
    text = TextFeatures(torch.tensor([c.key for c in captions]), pooled, tokens, n_tokens, marks)
    video = VideoFeatures(torch.tensor([c.key for c in clips]), frames, torch.full((n,), FRAMES), ts)
    if "video.pooled" in more:
        video = replace(video, pooled=frames.mean(1))
    if "video.patches" in more:
        video = replace(video, patches=frames[:, :, None] + torch.randn(n, FRAMES, PATCHES, DIM, generator=g))
    return text, video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000], help="captions = clips, ascending")
    parser.add_argument("--method", default="gare")
    parser.add_argument("--memory-budget", default="2GB")
    parser.add_argument("--work", type=Path, help="where the features are written; default: a temporary folder")
    parser.add_argument("--forms", action="store_true", help="compare TVR_KERNELS=auto with folded")
    parser.add_argument("--methods", nargs="+", default=base.shipped(), help="of --forms; all")
    parser.add_argument("--rounds", type=int, default=3, help="of --forms")
    args = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}", file=sys.stderr)
    if args.forms:
        for n in sorted(args.sizes):
            compare_forms(args.methods, n, args.memory_budget, args.rounds, args.work)
        return
    print("| method | captions x clips | budget | matrix | scoring s | pairs/s | wall s | CPU s | peak GB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for n in sorted(args.sizes):
        with tempfile.TemporaryDirectory(dir=args.work) as folder:
            workspace = Path(folder)
            write_run(workspace, write_store(workspace, n, args.method), args.method)
            print(row(measure(workspace, n, args.method, args.memory_budget), args.method, args.memory_budget))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
