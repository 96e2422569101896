"""Measure each stage of the pipeline on the demo's toy world: wall clock, processor time and peak memory.

Every stage is the command that people type, in a process of its own, started from a workspace that holds what the
stages before it made. Processor time counts the workers that a stage starts; peak memory is that of the largest single
process, libraries included.

    python scripts/benchmark_stages.py             2 700 videos: some minutes
    python scripts/benchmark_stages.py --small     160 videos
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TVR = "from tvr_cli.cli import main; main()"
# Prints processor seconds and the peak of a command and of all its workers, which only their parent can ask for.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(code)
"""
MAKE = """
import sys
from pathlib import Path
from tvr_cli.data.demo_world import corpus
plan = corpus.SMALL if sys.argv[2] == "small" else corpus.WorldOptions()
corpus.make(Path(sys.argv[1]), plan, workers=int(sys.argv[3]))
"""


@dataclass(frozen=True)
class Stage:
    """One row: what ran, and seconds of the clock, seconds of processors, bytes of the largest process."""

    name: str
    wall: float
    cpu: float
    peak: int


def measure(name: str, *arguments: str) -> Stage:
    """Run one Python command and measure it. Raises CalledProcessError when it fails."""
    started = time.perf_counter()
    command = [sys.executable, "-c", MEASURE, sys.executable, "-c", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    cpu, peak = done.stdout.split()
    return Stage(name, time.perf_counter() - started, float(cpu), int(peak))


def stages(work: Path, *, small: bool, workers: int) -> list[tuple[str, list[str]]]:
    """Return name and arguments of each stage, in order: the demo's settings for its default methods."""
    videos, out = str(work / "videos"), ["-o", str(work / "out")]
    training = ["--epochs", "2", "--batch-size", "32"] if small else ["--epochs", "8", "--batch-size", "48"]
    training += ["--set", "train.captions=one", "--set", "train.lr=1e-3", "--set", "train.weight_decay=0.05"]
    decode = ["--size", "64", "--workers", str(workers)]
    return [
        ("make the videos", [MAKE, videos, "small" if small else "whole", str(workers)]),
        ("`extract-frames`", [TVR, "extract-frames", videos, *decode, *out]),
        ("`precompute-features`", [TVR, "precompute-features", "--backbone", "demo-tiny", "--max-words", "24", *out]),
        ("`evaluate --method mean`", [TVR, "evaluate", "--method", "mean", *out]),
        ("`evaluate --method text_guided`", [TVR, "evaluate", "--method", "text_guided", *out]),
        ("`train --method glccl`", [TVR, "train", "--method", "glccl", *training, *out]),
        ("`evaluate` (glccl)", [TVR, "evaluate", *out]),
        ("`index` (glccl)", [TVR, "index", *out]),
        ("`query` (one sentence)", [TVR, "query", "a red star moves left", *out]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="160 videos instead of 2 700")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that make and read videos")
    args = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}", file=sys.stderr)
    print("| stage | wall s | CPU s | peak GB |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in stages(Path(folder), small=args.small, workers=args.workers):
            row = measure(name, *arguments)
            print(f"| {row.name} | {row.wall:.1f} | {row.cpu:.1f} | {row.peak / 1e9:.2f} |", flush=True)


if __name__ == "__main__":
    main()
