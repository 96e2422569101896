"""What one sentence costs from the start of the process: `tvr query` with ViT-B/32's sizes, and against another tvr.

    python scripts/bench_query.py
    python scripts/bench_query.py --clips 1000 --frames 1 --visual-layers 1
    python scripts/bench_query.py --model PE-Core-B-16 --visual-layers 1
    python scripts/bench_query.py --against PYTHON          (the interpreter of an environment with another tvr)

Makes videos of the toy world and weights of a model's sizes with random values in a temporary folder, brings a
workspace up to an index of `text_guided` with each tvr, then asks each the same sentence in turns; this one also with
`--device cpu:0`, which takes torch. Processor time of the process, user and system, and its largest resident memory; of
each row the least, the median and the most. All of it runs compiled, as installed packages do, whatever
PYTHONDONTWRITEBYTECODE says. PYTHONPATH of the other tvr can be given as `--against-path`. With fewer layers of the
visual tower there is less to prepare; a tvr that loads them for a sentence gets cheaper by that.

The floor of encoding the sentence is measured in the same turns, in a process of its own: the matrix products of its
tokens with every matrix of the text tower, and one read of these matrices (a sum over the mapped file).
"""

from __future__ import annotations

import argparse
import json
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
folder, name, layers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
folder.mkdir()
torch.manual_seed(0)
config = open_clip.get_model_config(name)
visual = config["vision_cfg"]
if layers and "timm_model_name" in visual:  # a tower of open_clip's own stands for timm's: a sentence needs neither
    config["vision_cfg"] = visual = {"image_size": 224, "patch_size": 16, "width": 768}
if layers:
    visual["layers"] = layers
(Path("configs")).mkdir()
(Path("configs") / "bench.json").write_text(json.dumps(config))
open_clip.add_model_config("configs")
save_file(open_clip.create_model("bench").state_dict(), folder / "open_clip_model.safetensors")
(folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
"""
FLOOR = """
import json, sys, time
from pathlib import Path
import numpy as np
from open_clip.tokenizer import default_bpe
from tvr_cli.backbones.text_tower.bpe import BytePairs
from tvr_cli.backbones.text_tower.mapped import MappedTensors
tensors = MappedTensors(Path(sys.argv[1]) / "open_clip_model.safetensors")
prefix = "text." if "text.ln_final.weight" in tensors else ""
names = [n for n in tensors if n.startswith(prefix + "transformer.") and tensors[n].ndim == 2]
matrices = [tensors[name] for name in names]
tokens = len(BytePairs(Path(default_bpe())).words(sys.argv[2])) + 2
def read():
    return sum(float(m.view(np.uint64).sum(dtype=np.uint64)) for m in matrices)
def products():
    for m in matrices:
        np.ones((tokens, m.shape[1]), np.float32) @ m.T
found = {}
for name, act in (("read", read), ("products", products)):
    act()
    spent = []
    for _ in range(3):
        started = time.process_time(); act(); spent.append(time.process_time() - started)
    found[name] = min(spent)
print(json.dumps({**found, "tokens": tokens, "megabytes": sum(m.nbytes for m in matrices) / 1e6}))
"""
VIDEOS = """
import sys
from pathlib import Path
from tvr_cli.data.demo_world.corpus import WorldOptions, make
folder = Path(sys.argv[1])
make(folder, WorldOptions(train=int(sys.argv[2]) - 2, val=1, test=1, captions=1))
captions = folder / "captions.jsonl"  # a library asked for sentences needs none of its own: a few keep the build short
captions.write_text("".join(captions.read_text().splitlines(keepends=True)[:8]))
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
    with tempfile.TemporaryDirectory(prefix="bench-query-", dir=options.folder) as name:
        folder = Path(name)
        os.chdir(folder)  # where no tvr_cli lies: `python -c` finds what lies where it stands before all else
        tvrs = {"this tvr": found(sys.executable, None, folder / "cache")}
        if options.against:
            tvrs["the other tvr"] = found(options.against, options.against_path, folder / "other-cache")
        weights, videos = folder / "weights", folder / "videos"
        making = [weights, options.model, str(options.visual_layers)]
        subprocess.run([sys.executable, "-c", WEIGHTS, *making], check=True, capture_output=True)
        subprocess.run([sys.executable, "-c", VIDEOS, videos, str(options.clips)], check=True)
        for name, tvr in tvrs.items():
            out = folder / name
            tvr.run("extract-frames", videos, "-o", out, "--num-frames", options.frames, "--workers", 1)
            tvr.run("precompute-features", "-o", out, "--backbone", f"local:{weights}")
            tvr.run("index", "--method", "text_guided", "-o", out)
            cost(tvr, out)  # the first may have to find out what is remembered afterwards
        asked = {name: (tvr, folder / name, ()) for name, tvr in tvrs.items()}
        asked["this tvr, torch"] = (tvrs["this tvr"], folder / "this tvr", ("--device", "cpu:0"))
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in asked}
        floors = []
        for _ in range(options.runs):
            for name, (tvr, out, flags) in asked.items():
                costs[name].append(cost(tvr, out, *flags))
            floors.append(floor(tvrs["this tvr"], weights))
        print(f"{options.clips} clips of {options.frames} frames, {options.model}, one thread, {options.runs} runs")
        for name, each in costs.items():
            seconds = sorted(s for s, _ in each)
            print(
                f"| {name:<15} | {statistics.median(seconds):.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f}) "
                f"| {max(m for _, m in each):.0f} MB |"
            )
        if options.against:
            middle = {name: statistics.median(s for s, _ in each) for name, each in costs.items()}
            for name in ("this tvr", "this tvr, torch"):
                print(f"{name} / the other tvr: {middle[name] / middle['the other tvr']:.3f}")
        read, products = (statistics.median(f[name] for f in floors) for name in ("read", "products"))
        print(
            f"{floors[0]['tokens']} tokens: products {1e3 * products:.0f} ms, one read of "
            f"{floors[0]['megabytes']:.0f} MB {1e3 * read:.0f} ms"
        )


def floor(tvr: Tvr, weights: Path) -> dict[str, float]:
    """Return the seconds of one read of the text tower's matrices, and of their products with the sentence's tokens."""
    command = [tvr.python, "-c", FLOOR, str(weights), SENTENCE]
    return json.loads(subprocess.run(command, env=tvr.environment, check=True, capture_output=True).stdout)


def cost(tvr: Tvr, out: Path, *flags: str) -> tuple[float, float]:
    """Return processor seconds and the largest resident memory, in MB, of one query."""
    command = [tvr.python, "-c", RUN, "query", SENTENCE, "-o", str(out), *flags]
    child = os.posix_spawn(
        tvr.python, command, tvr.environment, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    )
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"the query ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6


def found(python: str, path: str | None, cache: Path) -> Tvr:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPYCACHEPREFIX"] = str(cache / "bytecode")
    return Tvr(python, {**environment, "PYTHONPATH": path} if path else environment)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=47)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--model", default="ViT-B-32", help="of open_clip's names")
    parser.add_argument("--visual-layers", type=int, default=0, help="of its visual tower; default: all")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--against", help="the interpreter of an environment with another tvr")
    parser.add_argument("--against-path", help="PYTHONPATH for it")
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder lies")
    return parser.parse_args()


if __name__ == "__main__":
    main()
