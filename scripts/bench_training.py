"""Measure a training step (loss and gradients) of each method: tvr's form against the straightforward formulation.

The straightforward formulation is the restatement of the authors' losses in tests/methods/authors_loops.py, which the
proof tests hold equal to tvr's. Each case runs in a process of its own: processor seconds of a step (the better of two
after a warm-up) and the memory that it needed beyond what was there before. `--decode` adds, for the live source, the
time to decode and resize the frames of a batch.

    python scripts/bench_training.py --threads 1                  the table of docs/benchmarks.md
    python scripts/bench_training.py --methods gare --batch 32
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("glccl", "gare", "tcmgc", "dmae", "eaglenet")
# Pairs a side at which the plain form stays below about 1 GB at D 512, F 12, L 32 (GLCCL takes 10 GB at 128).
PLAIN_BATCH = {"glccl": 32, "gare": 64, "tcmgc": 32, "dmae": 64, "eaglenet": 16}
OPTIONS = {"dmae": {"interaction": "att_wti", "temporal": "seqTransf"}}


def step_of(method: str, form: str, batch: int, dim: int, frames: int, words: int):
    """Return a function that computes one loss and its gradients."""
    import torch

    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "methods"), str(ROOT / "kernels")]
    import authors_loops
    from synthetic import SyntheticStore

    from tvr_cli.engine.training.draws import SeededDraws
    from tvr_cli.methods import base
    from tvr_cli.types import Batch

    store = SyntheticStore(batch, 1, dim=dim, frames=frames, words=words)
    torch.manual_seed(0)
    model = base.build(method, store.sizes, OPTIONS.get(method, {}))
    text, video = store.text(), store.video()
    marks = (torch.arange(words) < text.n_tokens[:, None]).to(torch.uint8)
    text = type(text)(text.key, text.pooled, text.tokens, text.n_tokens, marks)
    if form == "tvr":

        def step(i: int) -> None:
            model.zero_grad()
            model.loss(Batch(text, video), step=i, draws=SeededDraws(0, i)).total.backward()

        return step
    parameters = {n: p.detach().requires_grad_() for n, p in model.named_parameters()}
    plain = authors_loops.Batch(text.pooled, text.tokens, marks, video.frames, video.mask().float())
    state = {"candidates": 20, "langevin": 20, "heads": 4, "sampled": False}
    if method == "eaglenet":
        state |= {k: getattr(model.ebm, f"replay_buffer_{k}").clone() for k in ("vid", "txt")}

    def plain_step(i: int) -> None:
        loss = authors_loops.LOSSES[method](parameters, plain, SeededDraws(0, i), state)
        torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)

    return plain_step


def measure(case: dict, out: multiprocessing.Queue) -> None:
    """Run one case and put its numbers into `out`."""
    import torch

    torch.set_num_threads(case.pop("threads"))
    step = step_of(**case)
    before = resident()
    step(0)
    seconds = []
    for i in (1, 2):
        start, wall = time.process_time(), time.perf_counter()
        step(i)
        seconds.append((time.process_time() - start, time.perf_counter() - wall))
    cpu, wall = min(seconds)
    out.put({"cpu": cpu, "wall": wall, "memory": peak() - before})


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def decode_seconds(batch: int, frames: int) -> float:
    """Return processor seconds to decode and resize a batch of stored 224-pixel frames."""
    import numpy as np
    from PIL import Image

    sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]
    from tvr_cli.stores.frames.picture import see
    from tvr_cli.stores.frames.store import decode_jpeg
    from tvr_cli.types import View

    y, x = np.mgrid[:224, :224]
    picture = np.stack([x, y, (x * y) % 256], -1).astype(np.uint8)
    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, "JPEG", quality=90)
    start = time.process_time()
    for _ in range(batch * frames):
        see(decode_jpeg(stored.getvalue()), View(224))
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    sizes = {"dim": args.dim, "frames": args.frames, "words": args.words}
    if not args.json:
        print(f"D {args.dim}, F {args.frames}, L {args.words}, {args.threads} thread(s); s = processor seconds")
        print("| method | form | B | s a step | pairs a second | µs a pair of the B x B | MB beyond the start |")
        print("|---|---|---|---|---|---|---|")
    for method in args.methods:
        small = min(args.batch, PLAIN_BATCH[method])
        for form, batch in (("plain", small), ("tvr", small), *([("tvr", args.batch)] if args.batch > small else [])):
            out = context.Queue()
            case = {"method": method, "form": form, "batch": batch, "threads": args.threads, **sizes}
            process = context.Process(target=measure, args=(dict(case), out))
            process.start()
            process.join()
            found = out.get() if process.exitcode == 0 else None
            if args.json:
                print(json.dumps({**case, "result": found}))
            elif found is None:
                print(f"| {method} | {form} | {batch} | ended with {process.exitcode} | | | |")
            else:
                cells = f"{found['cpu']:.2f} | {batch / found['cpu']:.0f} | {1e6 * found['cpu'] / batch**2:.0f}"
                print(f"| {method} | {form} | {batch} | {cells} | {found['memory'] / 1e6:.0f} |")
    if not args.json:
        seconds = decode_seconds(args.batch, args.frames)
        print(
            f"decoding {args.batch} x {args.frames} JPEG frames of 224 px: {seconds:.2f} processor seconds, in workers"
        )


if __name__ == "__main__":
    main()
