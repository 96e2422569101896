"""What this machine gives: the device, threads, memory, and the kernels that were asked for by name."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_cli import user_cache
from tvr_cli.errors import ConfigError, EnvironmentProblem, did_you_mean

if TYPE_CHECKING:
    import torch

MOST_THREADS = 4  # that a training step still gains from
DEFAULT_BUDGET = 512_000_000  # bytes: one tile of scores, its encodings and what the method needs in between
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_LOOK_S = 0.1
_HALF_INSTRUCTIONS = {  # what torch is asked, by precision
    "bf16": ("_is_avx512_bf16_supported", "_is_amx_tile_supported"),
    "fp16": ("_is_amx_fp16_supported",),
}


def pick_device(name: str) -> torch.device:
    """Return a device: auto = cuda, then mps, then cpu. Raises EnvironmentProblem when the one named is not there."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise EnvironmentProblem(
            f"device {name!r} cannot be used here: {str(e).splitlines()[0]}; try --device cpu"
        ) from e
    return device


def computes_in_half(precision: str) -> bool | None:
    """Return whether this processor has instructions for bf16 or fp16 products; None where that cannot be told."""
    import torch

    asked = [getattr(torch.cpu, name, None) for name in _HALF_INSTRUCTIONS[precision]]
    known = [bool(has()) for has in asked if has is not None]
    return any(known) if known and platform.machine() in ("x86_64", "AMD64") else None


def parse_bytes(text: str) -> int:
    """Read a size like 512MB, 2GB or 1.5GiB. Raises ConfigError."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if not found or found.group(2).upper() not in _UNITS:
        raise ConfigError(f"expected a size like 512MB or 2GB, found {text!r}")
    return int(float(found.group(1)) * _UNITS[found.group(2).upper()])


def remember_trials() -> None:
    """Let the kernels keep what they measure of this machine in the user's folder for caches."""
    from tvr_kernels import trials

    trials.remember_in(user_cache)


@contextlib.contextmanager
def kernel_errors() -> Iterator[None]:
    """Around everything that scores; also a decorator.

    Raises ConfigError for an unknown name in TVR_KERNELS, EnvironmentProblem when the one named cannot run here.
    """
    from tvr_kernels import _dispatch

    remember_trials()
    named = os.environ.get("TVR_KERNELS") or "auto"
    if named not in _dispatch.CHOICES:
        near = did_you_mean(named, _dispatch.CHOICES)
        raise ConfigError(f"TVR_KERNELS: expected one of {', '.join(_dispatch.CHOICES)}, found {named!r}{near}")
    try:
        yield
    except _dispatch.KernelUnavailable as e:
        raise EnvironmentProblem(str(e)) from e


def default_threads() -> int:
    """Return the number of cores that stand idle at this moment, at least 1 and at most 4.

    OMP_NUM_THREADS, where it is set, decides. A thread that waits for a core holds up all others at every barrier, so
    only cores that nobody uses count.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return max(1, min(MOST_THREADS, round(idle_cores())))


def idle_cores() -> float:
    """Return how many of the cores that this process may use are idle, from a short look at the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    before = _times()
    if before is None:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        return cores - load
    time.sleep(_LOOK_S)
    after = _times()
    if after is None or after[1] <= before[1]:
        return float(cores)
    return cores * (after[0] - before[0]) / (after[1] - before[1])


def use_threads(wanted: int | None) -> int:
    """Set torch's threads to `wanted`, or to the default, and return the number."""
    import torch

    n = wanted or default_threads()
    torch.set_num_threads(n)
    return n


def _times() -> tuple[int, int] | None:
    """Return idle and total clock ticks of all cores since boot; None where the system does not tell."""
    try:
        ticks = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return ticks[3] + ticks[4], sum(ticks)
