"""How the benchmark measures: alternated rounds, processor time, peak memory, error against float64.

A `Contender` is one way to do one job. All contenders of a job run in turn, round after round, so that a busy machine
slows them alike; times are the medians. On a CPU they are processor seconds of one thread, on CUDA device time.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_kernels import _dispatch
from tvr_kernels._floor import products_alone
from tvr_kernels._testing import Shape, max_error

FIELDS = (
    *("op", "impl", "device", "dtype", "shape", "ms", "ratio_to_naive", "floor_ms", "of_floor"),
    *("peak_extra_mb", "max_abs_err"),
)
CSV_FIELDS = (
    *("op", "impl", "device", "dtype", "shape", "ms", "ms_20", "ms_80"),
    *("ratio_to_naive", "floor_ms", "of_floor", "peak_extra_mb", "max_abs_err", "commit"),
)


@dataclass(frozen=True)
class Contender:
    """One way to do a job: `run(round)` does it (or the part that `scale` scales up).

    error: how exact the result of `run(0)` is.
    """

    impl: str
    run: Callable[[int], Any]
    error: Callable[[Any], float]
    scale: float = 1.0
    note: str = ""  # what a reader must know beside the shape
    floor: Callable[[], object] | None = None  # what of `run` cannot be left out, alone


@dataclass(frozen=True)
class Case:
    """One op at one shape: its inputs in any precision, and the ways in which research code scores them.

    sides: precision -> (text side, video side, weights). naive: name -> function of a slice of captions, giving its
    scores with all clips, float32. texts: captions of a slice. The first naive form is the one ratios refer to.
    beside: what a form's floor holds besides its matrix products.
    """

    op: str
    shape: Shape
    sides: Callable[[torch.dtype], tuple[dict[str, Tensor], dict[str, Tensor], Any]]
    naive: Mapping[str, Callable[[slice], Tensor]]
    texts: int = 16
    beside: Callable[[str], Callable[[], object] | None] = lambda impl: (
        None
    )  # of a form, besides its products, in its floor


def scoring(case: Case, device: str, *, reference: bool = True) -> list[Contender]:
    """Return the contenders of a case: the naive forms and the reference on slices of captions, the others whole."""
    text, video, weights = case.sides(torch.float32)
    n = min(case.texts, case.shape.T)
    exact = _exact(case, slice(0, min(8, n)))

    def error(scores: Tensor) -> float:
        return max_error(scores[: len(exact)].cpu(), exact)

    starts = range(0, case.shape.T - n + 1, n) or range(1)
    scale = case.shape.T / n
    sliced = f"scaled from slices of {n} captions" if n < case.shape.T else ""

    def part(of: Callable[[slice], Tensor]) -> Callable[[int], object]:
        return lambda turn: of(slice(starts[turn % len(starts)], starts[turn % len(starts)] + n))

    def direct(rows: slice) -> Tensor:
        return _dispatch.load(case.op, "reference").score({k: v[rows] for k, v in text.items()}, video, weights)

    contenders = [
        Contender(name, part(of), error, scale, sliced)
        for name, of in {**case.naive, **({"reference": direct} if reference else {})}.items()
    ]
    ms = 1e3 * min(_seconds(lambda: case.sides(torch.float32), device) for _ in range(2))
    for name in _runnable(case.op, text, video, weights, device):
        score = _dispatch.load(case.op, name).score
        contenders.append(
            Contender(
                name,
                lambda turn, score=score: score(text, video, weights),  # type: ignore[misc]
                error,
                note=f"per-item part {ms:.0f} ms beside",
                # a Triton kernel makes its products itself: scripts/bench_gpu.py times them beside it
                floor=None if name == "triton" else _floor_of(partial(score, text, video, weights), case.beside(name)),
            )
        )
    return contenders


def rows(op: str, shape: str, contenders: Iterable[Contender], rounds: int, device: str) -> list[dict[str, Any]]:
    """Measure contenders in alternated rounds and return one table row each, `FIELDS` and the CSV's quantiles."""
    contenders = list(contenders)
    times: list[list[float]] = [[] for _ in contenders]
    floors: list[list[float]] = [[] for _ in contenders]
    first: list[tuple[int, float]] = []
    for contender in contenders:
        result: list[Any] = []
        if contender.impl == "compiled":
            contender.run(0)  # the compiler's memory is not the kernel's
        # the first run warms up (allocates, chooses the GEMM) and is not timed
        peak = peak_extra_bytes(lambda c=contender, r=result: r.append(c.run(0)), device)  # type: ignore[misc]
        first.append((peak, contender.error(result[0])))
    for turn in range(rounds):
        for contender, found, floor in zip(contenders, times, floors, strict=True):
            found.append(1e3 * contender.scale * _seconds(partial(contender.run, turn), device))
            if contender.floor is not None:
                floor.append(1e3 * _seconds(contender.floor, device))
    table = []
    naive = statistics.median(times[0])
    for contender, found, floor, (peak, error) in zip(contenders, times, floors, first, strict=True):
        ms = statistics.median(found)
        table.append(
            {
                "op": op,
                "impl": contender.impl,
                "device": device,
                "dtype": "float32",
                "shape": "; ".join(filter(None, (shape, contender.note))),
                "ms": round(ms, 3),
                "ratio_to_naive": round(naive / ms, 2),
                "floor_ms": round(statistics.median(floor), 3) if floor else "",
                "of_floor": round(statistics.median(a / b for a, b in zip(floor, found, strict=True)), 3)
                if floor
                else "",
                "peak_extra_mb": round(peak / 1e6, 1),
                "max_abs_err": float(f"{error:.2e}"),
                "ms_20": round(_quantile(found, 0.2), 3),
                "ms_80": round(_quantile(found, 0.8), 3),
            }
        )
    return table


def _floor_of(score: Callable[[], object], beside: Callable[[], object] | None) -> Callable[[], object]:
    products = products_alone(score)
    return products if beside is None else lambda: (products(), beside())


def peak_extra_bytes(run: Callable[[], object], device: str) -> int:
    """Return how far `run` raises the memory of the process (CPU: resident set) or of the CUDA allocator."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # give freed pages back, so that reusing them counts
    before, peak = _reset_peak()
    run()
    return max(0, peak() - before)


def commit() -> str:
    """Return the short commit of the checkout that this file is in, with `+` if it has changes; `` outside of one."""
    here = Path(__file__).parent
    try:
        name = _git(here, "rev-parse", "--short", "HEAD")
        return name + ("+" if name and _git(here, "status", "--porcelain", "--untracked-files=no", ".") else "")
    except OSError:
        return ""


def _git(folder: Path, *arguments: str) -> str:
    run = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    return run.stdout.strip() if run.returncode == 0 else ""


def _exact(case: Case, some: slice) -> Tensor:
    with torch.no_grad():
        text, video, weights = case.sides(torch.float64)
        some_text = {k: v[some] for k, v in text.items()}
        return _dispatch.load(case.op, "reference").score(some_text, video, weights).cpu()


def _runnable(op: str, text: Any, video: Any, weights: Any, device: str) -> list[str]:
    names: list[str] = []
    for name in ("folded", "compiled", "triton"):
        if name not in _dispatch.implementations(op) or ((name == "triton") != (device == "cuda") and name != "folded"):
            continue
        with torch.no_grad():
            if _dispatch.supports("score", op, name, text, video, weights)[0]:
                names.append(name)
    return names


def _seconds(run: Callable[[], object], device: str) -> float:
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3
    before = time.process_time()
    run()
    return time.process_time() - before


def _reset_peak() -> tuple[int, Callable[[], int]]:
    """Return the resident bytes now, and a call that gives their peak since now (Linux; elsewhere: since the start)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS"), lambda: _status("VmHWM")
    except OSError:
        return _maxrss(), _maxrss


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def _maxrss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = int(at)
    return ordered[low] + (at - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])
