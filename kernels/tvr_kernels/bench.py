"""`python -m tvr_kernels.bench`: every op, its naive form against ours, in one table.

    python -m tvr_kernels.bench --quick              under a minute: X-Pool and GARE at the target shape
    python -m tvr_kernels.bench --op xpool --json    one op, as a list of objects
    python -m tvr_kernels.bench --csv kernels/bench/results.csv    append rows with the commit

The naive forms are written as the research code writes them (`<op>/bench.py`), vectorised, in slices of captions that
fit in memory, fp32, with one thread and the same GEMM as ours; from at least two different slices the time is scaled up
to all captions. `ms` is processor time of one thread on a CPU; what one item alone decides is timed beside it. The
matrix products of a form alone are timed in the same rounds: `floor_ms`, and `of_floor` is their share of its time.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from tvr_kernels import OPS, _measure, gemm
from tvr_kernels._testing import TARGET, Shape

QUICK_TARGETS = ("xpool", "gare")  # these keep the target shape with --quick
SMALL = Shape(96, 96, 12, 32, 512)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, measure, print; returns the exit code."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    device = "cuda" if options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available()) else "cpu"
    if options.gemm:
        gemm.use(options.gemm)
    _say(f"device {_machine(device)}, torch {torch.__version__}, commit {_measure.commit() or 'unknown'}")
    table: list[dict[str, Any]] = []
    for op in options.op or OPS:
        rows = measure(op, quick=options.quick, rounds=options.rounds, device=device)
        table += rows
        if options.csv:
            append(options.csv, rows, _machine(device))
    if options.json:
        print(json.dumps([{k: row[k] for k in _measure.FIELDS} for row in table], indent=1))
    else:
        _print_table(table)
    return 0


def measure(op: str, *, quick: bool, rounds: int | None, device: str) -> list[dict[str, Any]]:
    """Return the rows of one op: scoring at its shape, and what else its `bench.py` measures (`extra_rows`)."""
    module = importlib.import_module(f"tvr_kernels.{op}.bench")
    # an op may name smaller shapes where its pairs take too long
    if quick and op not in QUICK_TARGETS:
        shape = getattr(module, "SMALL", SMALL)
    else:
        shape = getattr(module, "TARGET", TARGET)
    rounds = rounds or (2 if quick else 5)
    _say(f"{op} at {shape}, {rounds} rounds")
    with torch.no_grad():
        case = module.case(shape, device)
        table = _measure.rows(op, str(shape), _measure.scoring(case, device, reference=not quick), rounds, device)
    extra = getattr(module, "extra_rows", None)
    if extra is not None and not quick:
        table += extra(rounds, device)
    return table


def append(path: Path, table: list[dict[str, Any]], device: str) -> None:
    """Append rows to a CSV, with a header if it is new; the device column names the processor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new, commit = not path.exists(), _measure.commit()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _measure.CSV_FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows({**row, "device": device, "commit": commit} for row in table)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tvr_kernels.bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under 60 s on 2 cores; most ops at a small shape")
    parser.add_argument("--op", action="append", choices=OPS, help="measure this op only (repeatable)")
    parser.add_argument("--rounds", type=int, help="alternated rounds (default 5, with --quick 2; at least 2)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--gemm", choices=gemm.NAMES, help="fix the CPU's GEMM instead of measuring which is faster")
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="append rows to this file")
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 2:
        parser.error("--rounds must be at least 2: naive forms are timed on two slices of captions")
    return options


def _machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"cpu ({name}, 1 thread, {gemm.setting()})"


def _print_table(table: list[dict[str, Any]]) -> None:
    columns = ("op", "impl", "ms", "ratio_to_naive", "floor_ms", "of_floor", "peak_extra_mb", "max_abs_err", "shape")
    cells = [
        columns,
        *(tuple(f"{row[c]:g}" if isinstance(row[c], float) else row[c] for c in columns) for row in table),
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
