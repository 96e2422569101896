"""Measure the Triton kernels on this GPU: against cuBLAS's own time for the same products, and torch.compile.

For each op, bf16 vectors, T = V = 1000, F 12, D 512: the kernel, the one matrix product with as many columns a clip
(what cuBLAS takes for it is the floor), the naive form of the op's benchmark under autocast, as it is and through
`torch.compile(mode="max-autotune")`. Naive forms run on a slice of captions and are scaled up. Errors are the largest
differences from the reference in float64 on eight captions. Device time, medians of alternated rounds.

    python scripts/bench_gpu.py --csv kernels/bench/gpu.csv
"""

from __future__ import annotations

import argparse
import csv
import functools
import importlib
import statistics
import sys
from pathlib import Path

import torch
from tvr_kernels import _measure
from tvr_kernels._testing import TARGET, max_error

PRODUCTS = {"text_pooling": lambda f: f, "xpool": lambda f: 2 * f, "gare": lambda f: 3 * f + 1}  # columns a clip
FIELDS = ("op", "impl", "device", "dtype", "shape", "ms", "of_cublas", "ratio_to_compiled", "max_abs_err", "commit")


def measure(op: str, rounds: int, *, compiled: bool) -> list[dict]:
    """Return the rows of one op."""
    package = importlib.import_module(f"tvr_kernels.{op}")
    module = importlib.import_module(f"tvr_kernels.{op}.triton_impl")
    case = importlib.import_module(f"tvr_kernels.{op}.bench").case(TARGET, "cuda")
    exact = _measure._exact(case, slice(0, 8))
    text, video, weights = case.sides(torch.float32)
    low = [{k: v.bfloat16() if k in module.VECTORS else v for k, v in side.items()} for side in (text, video)]
    columns = PRODUCTS[op](TARGET.F) * TARGET.V
    a = torch.randn(TARGET.T, TARGET.D, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(columns, TARGET.D, device="cuda", dtype=torch.bfloat16)
    out = torch.empty(TARGET.T, columns, device="cuda", dtype=torch.bfloat16)
    naive = next(iter(case.naive.values()))
    scale, rows = TARGET.T / case.texts, slice(0, case.texts)

    def plain(form) -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return form(rows)

    jobs = {
        "triton": (lambda: package.score(*low, weights, implementation="triton"), 1.0),
        "cublas": (lambda: torch.mm(a, b.T, out=out), 1.0),
        "naive": (lambda: plain(naive), scale),
    }
    if compiled:
        jobs["torch.compile"] = (functools.partial(plain, torch.compile(naive, mode="max-autotune")), scale)
    errors, times = {}, {name: [] for name in jobs}
    for name, (job, _) in jobs.items():
        for _ in range(3):
            found = job()
        errors[name] = float("nan") if name == "cublas" else max_error(found[: len(exact)].float().cpu(), exact)
    for _ in range(rounds):
        for name, (job, factor) in jobs.items():
            repeats = 1 if factor > 1 else 20  # short ones in a row, so that starting them does not count
            seconds = _measure._seconds(lambda job=job, n=repeats: [job() for _ in range(n)], "cuda")
            times[name].append(1e3 * factor * seconds / repeats)
    ms = {name: statistics.median(found) for name, found in times.items()}
    return [
        {
            **{"op": op, "impl": name, "device": torch.cuda.get_device_name(), "dtype": "bfloat16"},
            "shape": str(TARGET),
            "ms": f"{ms[name]:.4g}",
            "of_cublas": f"{ms['cublas'] / ms[name]:.3f}",
            "ratio_to_compiled": f"{ms['torch.compile'] / ms[name]:.2f}" if compiled else "",
            "max_abs_err": f"{errors[name]:.2e}",
            "commit": _measure.commit(),
        }
        for name in jobs
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", action="append", choices=sorted(PRODUCTS), help="measure this op only (repeatable)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it takes minutes")
    parser.add_argument("--csv", type=Path, help="write the rows here too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and PyTorch sees none here")
    table = []
    with torch.no_grad():
        for op in options.op or PRODUCTS:
            for row in measure(op, options.rounds, compiled=not options.no_compile):
                table.append(row)
                print("  ".join(str(row[field]) for field in FIELDS), flush=True)
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
