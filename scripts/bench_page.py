"""What `tvr query --html` costs beside the table that it prints anyway.

    python scripts/bench_page.py
    python scripts/bench_page.py --videos 1000 --moments 20 100

Makes videos of the toy world in a temporary folder, with pictures of 224 pixels, and an index of `demo-tiny`; then asks
the same sentence in turns, without and with a page, each in a process of its own. Of each row the least, the median and
the most; seconds by the clock, and of the processor.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tvr_cli.data.demo_world.corpus import WorldOptions, make

RUN = "from tvr_cli.cli import main; main()"
SENTENCE = "a red circle moves to the left"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--moments", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-page-") as name:
        folder = Path(name)
        make(folder / "videos", WorldOptions(train=options.videos - 2, val=1, test=1, captions=1))
        tvr("extract-frames", folder / "videos", "-o", folder / "out", "--size", 224, "--workers", 1)
        tvr("query", SENTENCE, "-o", folder / "out", "--all")  # what is missing is made, and remembered
        print(f"{options.videos} videos, one thread, {options.runs} runs")
        print("| moments | | seconds | processor seconds | size |\n|---|---|---|---|---|")
        for moments in options.moments:
            table, page = ["query", SENTENCE, "-o", folder / "out", "--all", "-k", moments], folder / "page.html"
            forms = {"table": table, "table and page": [*table, "--html", page, "--overwrite"]}
            spent: dict[str, list[tuple[float, float]]] = {form: [] for form in forms}
            for _ in range(options.runs):
                for form, words in forms.items():
                    spent[form].append(tvr(*words))
            for form, each in spent.items():
                clock, processor = (sorted(column) for column in zip(*each, strict=True))
                size = f"{page.stat().st_size / 1e6:.2f} MB" if form != "table" else ""
                print(f"| {moments} | {form} | {told(clock)} | {told(processor)} | {size} |")


def tvr(*words: object) -> tuple[float, float]:
    """Run a command, and return the seconds that it took, by the clock and of the processor."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TVR_BACKBONE": "demo-tiny"}
    command, started = [sys.executable, "-c", RUN, *map(str, words)], time.perf_counter()
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{words[0]} ended with {os.waitstatus_to_exitcode(status)}: {said}")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime


def told(each: list[float]) -> str:
    return f"{statistics.median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"


if __name__ == "__main__":
    main()
