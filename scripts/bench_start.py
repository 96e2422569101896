"""What one sentence costs from the start of the process: `tvr query` with ViT-B/32's sizes, and against another tvr.

    python scripts/bench_start.py
    python scripts/bench_start.py --clips 1000 --frames 1
    python scripts/bench_start.py --against PYTHON          (the interpreter of an environment with another tvr)

Makes videos of the toy world and weights of ViT-B/32's sizes with random values in a temporary folder, brings a
workspace up to an index of `text_guided` with each tvr, then asks each the same sentence in turns. Processor time of
the process, user and system, and its largest resident memory; of each row the least, the median and the most.
PYTHONPATH of the other tvr can be given as `--against-path`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RUN = "from tvr_cli.cli import main; main()"
SENTENCE = "a red circle moves to the left"
WEIGHTS = """
import json, sys, open_clip, torch
from pathlib import Path
from safetensors.torch import save_file
folder = Path(sys.argv[1]); folder.mkdir()
torch.manual_seed(0)
save_file(open_clip.create_model("ViT-B-32").state_dict(), folder / "open_clip_model.safetensors")
(folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": open_clip.get_model_config("ViT-B-32")}))
"""
VIDEOS = """
import sys
from pathlib import Path
from tvr_cli.data.demo_world.corpus import WorldOptions, make
make(Path(sys.argv[1]), WorldOptions(train=int(sys.argv[2]) - 2, val=1, test=1, captions=1))
"""


@dataclass(frozen=True)
class Tvr:
    """A tvr: its interpreter, and the environment that finds it."""

    python: str
    environment: Mapping[str, str]

    def run(self, *arguments: object) -> None:
        subprocess.run(
            [self.python, "-c", RUN, *map(str, arguments)], env=self.environment, check=True, capture_output=True
        )


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="bench-start-", dir=options.folder) as name:
        folder = Path(name)
        os.chdir(folder)  # where no tvr_cli lies: `python -c` finds what lies where it stands before all else
        tvrs = {"this tvr": found(sys.executable, None, folder / "cache")}
        if options.against:
            tvrs["the other tvr"] = found(options.against, options.against_path, folder / "other-cache")
        weights, videos = folder / "weights", folder / "videos"
        subprocess.run([sys.executable, "-c", WEIGHTS, weights], check=True)
        subprocess.run([sys.executable, "-c", VIDEOS, videos, str(options.clips)], check=True)
        for name, tvr in tvrs.items():
            out = folder / name
            tvr.run("extract-frames", videos, "-o", out, "--num-frames", options.frames, "--workers", 1)
            tvr.run("precompute-features", "-o", out, "--backbone", f"local:{weights}")
            tvr.run("index", "--method", "text_guided", "-o", out)
            cost(tvr, out)  # the first may have to find out what is remembered afterwards
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in tvrs}
        for _ in range(options.runs):
            for name, tvr in tvrs.items():
                costs[name].append(cost(tvr, folder / name))
        print(f"{options.clips} clips of {options.frames} frames, ViT-B/32's sizes, one thread, {options.runs} runs")
        for name, each in costs.items():
            seconds = sorted(s for s, _ in each)
            print(
                f"| {name:<14} | {statistics.median(seconds):.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f}) "
                f"| {max(m for _, m in each):.0f} MB |"
            )
        if options.against:
            mine, other = (statistics.median(s for s, _ in each) for each in costs.values())
            print(f"this / other: {mine / other:.3f}")


def cost(tvr: Tvr, out: Path) -> tuple[float, float]:
    """Return processor seconds and the largest resident memory, in MB, of one query."""
    command = [tvr.python, "-c", RUN, "query", SENTENCE, "-o", str(out)]
    child = os.posix_spawn(
        tvr.python, command, tvr.environment, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    )
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"the query ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6


def found(python: str, path: str | None, cache: Path) -> Tvr:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache)}
    return Tvr(python, {**environment, "PYTHONPATH": path} if path else environment)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=47)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--against", help="the interpreter of an environment with another tvr")
    parser.add_argument("--against-path", help="PYTHONPATH for it")
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder lies")
    return parser.parse_args()


if __name__ == "__main__":
    main()
