"""From how many pairs on the compiled tier pays here: loading it takes as long as the folded form scores millions.

That is measured once a machine, op and size of a clip, in the first job that is long enough not to mind (`TRIAL_S`);
shorter jobs without a measurement are left to the folded form. A job takes the compiled form from twice the pairs on at
which its gain is what loading costs.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tvr_kernels import trials

TRIAL_S = 10  # of the folded form in a job: measuring takes about one, and up to eight where numba has to compile first
SMALL = "it pays from "  # how the reason begins where a job is small, which is no news
_SAFETY = 2
_TRIED_S = 0.1  # of the folded form in the slice that is measured, at most
_SLICES = ((256, 64), (64, 64), (32, 32), (16, 16))  # texts and clips of it
_LEAST_PAIRS = 2**15  # no form here takes seconds for fewer
_log = logging.getLogger("tvr.kernels")
_recalled: dict[str, Any] = {}  # (op and size) -> what was kept, or None; asked once a process, not in every tile
_found: dict[str, int | None] = {}  # (op and size) -> pairs from which it pays, None = never; one answer a process
_folded_s: dict[str, float] = {}  # (op and size) -> seconds of the folded form for one pair


def pays(
    op: str,
    pairs: int,
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: Any,
    supports: Callable[[], tuple[bool, str]],
) -> tuple[bool, str]:
    """Return whether a job of so many pairs is worth loading the compiled form of an op, and why (not).

    supports: whether it can run these inputs at all; it imports numba, so it is asked last.
    """
    case = _case(op, video)
    if case not in _found:
        if case not in _recalled:
            _recalled[case] = _kept().get(case)
        kept = _recalled[case]
        long = not (kept and kept["final"]) and pairs >= _LEAST_PAIRS and _lasts(op, case, pairs, text, video, weights)
        if kept is None and not long:
            return False, _SMALL_UNKNOWN
        start = time.process_time()
        can, why = supports()
        if not can:
            return can, why
        if kept is None or long:
            kept = _measure(op, case, text, video, weights, start)
        _found[case] = kept["from_pairs"]
    least = _found[case]
    if least is None:
        return False, f"{SMALL}no number of pairs on this machine: the folded form is as fast"
    if pairs < least:
        return False, f"{SMALL}{_round(least):,} pairs on this machine"
    return supports()


def pairs_of(text: Mapping[str, Tensor], video: Mapping[str, Tensor]) -> int:
    """Return how many captions times clips two sides have."""
    return len(next(iter(text.values()))) * len(next(iter(video.values())))


def said(op: str) -> str:
    """Say for a person from how many pairs on the compiled form of an op pays here."""
    kept = {case: found["from_pairs"] for case, found in _kept().items() if case.split()[0] == op}
    if not kept:
        return f"compiled: {_SMALL_UNKNOWN}"
    each = []
    for case, least in sorted(kept.items()):
        size = case.partition(" ")[2]
        each.append(f"never ({size})" if least is None else f"from {_round(least):,} pairs ({size})")
    return "compiled pays " + ", ".join(each)


_SMALL_UNKNOWN = f"{SMALL}a number of pairs that the first job of {TRIAL_S} s measures"


def _lasts(
    op: str, case: str, pairs: int, text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: Any
) -> bool:
    """Whether the folded form takes a job of so many pairs long enough for a trial."""
    if case not in _folded_s:
        folded = import_module(f"tvr_kernels.{op}.folded")
        for texts, clips in reversed(_SLICES):  # a small slice takes longer a pair than a tile does
            if case in _folded_s and texts * clips * _folded_s[case] > _TRIED_S:
                break
            some_text, some_video = _slice(text, texts), _slice(video, clips)
            seconds = []
            with torch.no_grad():
                for _ in range(3):
                    start = time.process_time()
                    folded.score(some_text, some_video, weights)
                    seconds.append(time.process_time() - start)
            _folded_s[case] = min(seconds) / pairs_of(some_text, some_video)
    return pairs * _folded_s[case] >= TRIAL_S


def _slice(side: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: x[:n] for name, x in side.items()}


def _measure(
    op: str, case: str, text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: Any, start: float
) -> dict[str, Any]:
    """Load the compiled form, race it against the folded one on a slice, and keep what was found where it is sure.

    start: processor time before numba was imported.
    """
    texts, clips = next((s for s in _SLICES if s[0] * s[1] * _folded_s[case] <= _TRIED_S), _SLICES[-1])
    some_text, some_video = _slice(text, texts), _slice(video, clips)
    pairs = pairs_of(some_text, some_video)
    compiled = import_module(f"tvr_kernels.{op}.compiled")
    compiled.score(some_text, some_video, weights)
    # What another op of this process had loaded already is part of the price in the next one.
    load_s = max([time.process_time() - start, *(found["load_s"] for found in _kept().values() if found["final"])])
    folded = import_module(f"tvr_kernels.{op}.folded")
    ways = {
        "folded": lambda: folded.score(some_text, some_video, weights),
        "compiled": lambda: compiled.score(some_text, some_video, weights),
    }
    with torch.no_grad():
        race = trials.race(ways, "folded", round_s=0.06)
    gain_s = (race.seconds["folded"] - race.seconds["compiled"]) / pairs
    wins = race.faster == "compiled" and gain_s > 0
    found = {
        "from_pairs": math.ceil(_SAFETY * load_s / gain_s) if wins else None,
        "load_s": load_s,
        "folded_ns": 1e9 * race.seconds["folded"] / pairs,
        "compiled_ns": 1e9 * race.seconds["compiled"] / pairs,
        "final": not _compiled_anew(compiled),  # else the next large job measures what loading takes by itself
    }
    if race.sure:
        trials.keep(_what(), {"cases": {**_kept(), case: found}})
    _log.info("%s: measured that the compiled form pays %s", op, _pays_from(found["from_pairs"]))
    return found


def _pays_from(pairs: int | None) -> str:
    return "for no number of pairs here" if pairs is None else f"from {_round(pairs):,} pairs on here"


def _compiled_anew(module: Any) -> bool:
    """Whether numba compiled one of a module's functions in this process, where it usually reads its cache."""
    stats = [getattr(x, "stats", None) for x in vars(module).values()]
    return any(getattr(s, "cache_misses", None) for s in stats)


def _case(op: str, video: Mapping[str, Tensor]) -> str:
    sizes = next(iter(video.values())).shape[1:]
    return f"{op} {'x'.join(str(n) for n in sizes)}"


def _what() -> str:
    return f"compiled tier, numba {importlib.metadata.version('numba')}"


def _kept() -> dict[str, Any]:
    """Return what was found on this machine, by case; nothing where it was not, or does not read as it should."""
    try:
        cases = (trials.recalled(_what()) or {}).get("cases")
    except importlib.metadata.PackageNotFoundError:
        return {}
    if not isinstance(cases, dict):
        return {}
    return {case: found for case, found in cases.items() if _reads(found)}


def _reads(found: Any) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("final"), bool):
        return False
    least, load_s = found.get("from_pairs", 0.5), found.get("load_s")
    return (least is None or (isinstance(least, int) and least >= 0)) and isinstance(load_s, (int, float))


def _round(pairs: int) -> int:
    """Return a number of pairs to two digits: more were not measured."""
    unit = 10 ** max(0, len(str(pairs)) - 2)
    return -(-pairs // unit) * unit
