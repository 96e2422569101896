"""Trials: which of several right ways is the fastest on this machine, measured until the answer is sure.

`race` repeats short rounds until the same way has won several in a row; where that does not happen, as on a machine
that others load, the default is taken. What was found is remembered where `remember_in` says (tvr: in the user's folder
for caches), each machine by itself; without it a process measures for itself. Nothing here decides about a number, only
about time.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch

AGREE, ROUNDS = 3, 9  # so many wins in a row are believed; after so many rounds without them nothing is
ROUND_SECONDS = 0.017  # three rounds are 50 ms
MARGIN = 1.03  # what beats the default is so much faster, so that the choice hardly flickers

_KIND = "trials"
_log = logging.getLogger("tvr.kernels")


class Memory(Protocol):
    """What keeps JSON values from one process to the next; `tvr_cli.user_cache` is one."""

    def recall(self, kind: str, name: str, /) -> Any: ...
    def keep(self, kind: str, name: str, value: Any, /) -> None: ...


@dataclass(frozen=True)
class Finding:
    """faster: the way to take. seconds: of each, the best of all rounds. sure: whether the rounds agreed."""

    faster: str
    seconds: Mapping[str, float]
    sure: bool


_memory: Any = None


def remember_in(memory: Memory | None) -> None:
    """Let what is found be kept from now on; None: only in this process."""
    global _memory
    _memory = memory


def race(ways: Mapping[str, Callable[[], object]], default: str, *, round_s: float = ROUND_SECONDS) -> Finding:
    """Run the ways in turn, round by round, and say which to take: the fastest, where it beats the default clearly.

    One thread is timed by processor time, which other processes hardly change; several by the clock.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for run in ways.values():
        run()  # what is set up once
    best, won, last = dict.fromkeys(ways, float("inf")), 0, ""
    for _ in range(ROUNDS):
        seconds = _round(ways, clock, round_s)
        best = {name: min(best[name], seconds[name]) for name in ways}
        fastest = min(seconds, key=lambda name: seconds[name])
        winner = fastest if seconds[fastest] * MARGIN < seconds[default] else default
        won, last = (won + 1 if winner == last else 1), winner
        if won == AGREE:
            return Finding(winner, best, sure=True)
    return Finding(default, best, sure=False)


def recalled(what: str) -> dict[str, Any] | None:
    """Return what was kept about a trial on this machine, None where there is nothing."""
    if _memory is None:
        return None
    found = _memory.recall(_KIND, _name(what))
    if not isinstance(found, dict):
        return None
    if found.get("machine") != machine() or found.get("what") != what:
        _log.info("what is kept about %s is of another machine (%s): measured anew", what, found.get("machine"))
        return None
    return found


def keep(what: str, found: Mapping[str, Any]) -> None:
    """Keep what a trial found on this machine, with the machine's description."""
    if _memory is not None:
        _memory.keep(_KIND, _name(what), {"what": what, "machine": machine(), **found})


def machine() -> str:
    """Describe what decides about time here: processor, threads, torch."""
    return f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


@cache
def processor() -> str:
    """Return the processor's name as the system says it."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return name
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    # The name alone may be a cloud's word for many ("AMD EPYC"): family and model tell them apart.
    parts = (said.get("model name", name), said.get("cpu family"), said.get("model"))
    return " ".join(part for part in parts if part)


def _name(what: str) -> str:
    return f"{what} on {machine()}"


def _round(ways: Mapping[str, Callable[[], object]], clock: Callable[[], float], seconds: float) -> dict[str, float]:
    best = dict.fromkeys(ways, float("inf"))
    stop = clock() + seconds  # by the same clock: where others load the machine, a round has as many runs
    while True:
        for name, run in ways.items():
            start = clock()
            run()
            best[name] = min(best[name], clock() - start)
        if clock() >= stop:
            return best
