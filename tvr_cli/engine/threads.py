"""How many threads arithmetic may use. Two threads on a busy machine can be ten times slower than one."""

from __future__ import annotations

import os
import time
from pathlib import Path

MOST = 4  # threads a training step still gains from
_LOOK_S = 0.1


def default_threads() -> int:
    """Return the number of cores that stand idle at this moment, at least 1 and at most 4.

    OMP_NUM_THREADS, where it is set, decides. A thread that waits for a core holds up all others at every barrier, so
    only cores that nobody uses count.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return max(1, min(MOST, round(idle_cores())))


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
