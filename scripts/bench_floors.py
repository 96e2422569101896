"""Measure what docs/benchmarks.md says of kernels, forms, encoding and stages in one run, one command after another.

Each command's output goes to a file of its own in --out, beneath the command, the commit, and the load of the machine
before and after, so that a table shows whether the machine was idle. Three quarters of an hour on one core; the machine
should do nothing else. A command that fails is said and the others go on; --only takes some.

    python scripts/bench_floors.py --out floors
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

FAST = ["mean", "text_guided", "xpool", "gare", "dmae", "wti", "xclip", "clip4clip_seq"]
SLOW = ["glccl", "tcmgc", "ts2net", "tmass", "eaglenet"]  # half a minute to eight minutes a form and a round
FORMS = ["scripts/benchmark_evaluation.py", "--forms", "--sizes", "1000"]
COMMANDS = {
    "kernels": ["-m", "tvr_kernels.bench", "--rounds", "3", "--device", "cpu", "--csv", "kernels/bench/results.csv"],
    "encoding": ["scripts/bench_encoding.py", "--clips", "1", "--rounds", "5", "--others"],
    "forms": [*FORMS, "--rounds", "3", "--methods", *FAST],
    "resize": ["scripts/bench_resize.py"],
    "stages": ["scripts/benchmark_stages.py"],
    "forms-slow": [*FORMS, "--rounds", "1", "--methods", *SLOW],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the outputs")
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True, check=True)
    failed = []
    for name in args.only:
        before, started = os.getloadavg()[0], time.perf_counter()
        with (args.out / f"{name}.txt").open("w", encoding="utf-8") as out:
            print(f"python {' '.join(COMMANDS[name])}\ncommit {commit.stdout.strip()}", file=out, flush=True)
            done = subprocess.run([sys.executable, *COMMANDS[name]], stdout=out, stderr=subprocess.STDOUT, check=False)
            print(f"load before {before:.2f}, after {os.getloadavg()[0]:.2f}", file=out)
        print(f"{name}: {time.perf_counter() - started:.0f} s, exit status {done.returncode}", flush=True)
        failed += [name] if done.returncode else []
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
