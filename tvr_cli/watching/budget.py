"""How much of the machine a watcher takes: some of its processors, and those after everybody else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_LAST = 10  # what `nice` calls a process that others go before


def usual() -> int:
    """Return how many processors a watcher takes unasked: half of them, at least one."""
    return max(1, processors() // 2)


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def kept_to(wanted: int) -> Iterator[None]:
    """Use so many processors in the block, here and in processes that are started there.

    Threads that were there before keep what they have, so it is called before anything that starts some.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-wanted:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def step_back() -> None:
    """Let every other process go first, to the end of this one: nobody gets that back without being root."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(_LAST)
