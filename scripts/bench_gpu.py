"""Measure the Triton kernels on this GPU: against cuBLAS's own time for the same products, and torch.compile.

For each op and dtype, T = V = 1000, F 12, D 512:
- kernel: the kernel alone, its launches replayed in a CUDA graph
- score: the whole call, which also prepares tensors and starts the kernel from Python
- cublas: the one matrix product with as many columns a clip, the floor
- naive, torch.compile (bf16): the naive form of the op's benchmark under autocast, as it is and through
  `torch.compile(mode="max-autotune")`, on a slice of captions, scaled up
Errors are the largest differences from the reference in float64 on eight captions. Device time, medians.

    python scripts/bench_gpu.py --csv kernels/bench/gpu.csv
"""

from __future__ import annotations

import argparse
import csv
import functools
import importlib
import sys
from pathlib import Path

import torch
from triton.testing import do_bench, do_bench_cudagraph
from tvr_kernels import _measure
from tvr_kernels._testing import TARGET, max_error

PRODUCTS = {"text_pooling": lambda f: f, "xpool": lambda f: 2 * f, "gare": lambda f: 3 * f + 1}  # columns a clip
SLICE = 250  # captions of a naive form: enough work to fill a GPU
FIELDS = ("op", "impl", "device", "dtype", "shape", "ms", "of_cublas", "max_abs_err", "commit")


def measure(op: str, dtype: torch.dtype, *, compiled: bool) -> list[dict]:
    """Return the rows of one op in one dtype."""
    package = importlib.import_module(f"tvr_kernels.{op}")
    module = importlib.import_module(f"tvr_kernels.{op}.triton_impl")
    case = importlib.import_module(f"tvr_kernels.{op}.bench").case(TARGET, "cuda")
    exact = _measure._exact(case, slice(0, 8))
    text, video, weights = case.sides(torch.float32)
    cast = [{k: v.to(dtype) if k in module.VECTORS else v for k, v in side.items()} for side in (text, video)]
    columns = PRODUCTS[op](TARGET.F) * TARGET.V
    a, b = (torch.randn(n, TARGET.D, device="cuda", dtype=dtype) for n in (TARGET.T, columns))
    products, scores = (
        torch.empty(TARGET.T, n, device="cuda", dtype=d) for n, d in ((columns, dtype), (TARGET.V, None))
    )
    launch = module.launch(*cast, weights, scores)
    found = package.score(*cast, weights, implementation="triton")
    rows = [
        ("kernel", do_bench_cudagraph(launch.run, return_mode="median"), max_error(found[: len(exact)].cpu(), exact)),
        ("score", median(lambda: package.score(*cast, weights, implementation="triton")), None),
        ("cublas", do_bench_cudagraph(lambda: torch.mm(a, b.T, out=products), return_mode="median"), None),
    ]
    if dtype == torch.bfloat16:
        slice_of, naive = min(SLICE, TARGET.T), next(iter(case.naive.values()))
        forms = {"naive": naive, **({"torch.compile": torch.compile(naive, mode="max-autotune")} if compiled else {})}
        for name, form in forms.items():
            plain = functools.partial(under_autocast, form, slice(0, slice_of))
            error = max_error(plain()[: len(exact)].float().cpu(), exact)
            rows.append((name, median(plain) * TARGET.T / slice_of, error))
    floor = dict((name, ms) for name, ms, _ in rows)["cublas"]
    return [
        {
            **{"op": op, "impl": name, "device": torch.cuda.get_device_name(), "dtype": str(dtype)[6:]},
            **{"shape": str(TARGET), "ms": f"{ms:.4g}", "of_cublas": f"{floor / ms:.3f}"},
            "max_abs_err": "" if error is None else f"{error:.2e}",
            "commit": _measure.commit(),
        }
        for name, ms, error in rows
    ]


def under_autocast(form, rows: slice) -> torch.Tensor:
    with torch.autocast("cuda", torch.bfloat16):
        return form(rows)


def median(job) -> float:
    """Return the median of a call, milliseconds of device time."""
    return do_bench(job, return_mode="median")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", action="append", choices=sorted(PRODUCTS), help="measure this op only (repeatable)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it takes minutes")
    parser.add_argument("--csv", type=Path, help="write the rows here too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and PyTorch sees none here")
    table = []
    with torch.no_grad():
        for op in options.op or PRODUCTS:
            for dtype in (torch.bfloat16, torch.float32):
                for row in measure(op, dtype, compiled=not options.no_compile):
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
