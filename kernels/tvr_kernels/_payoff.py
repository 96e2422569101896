"""From how many pairs on the compiled tier pays here: loading it takes as long as the folded form scores millions.

That is measured once a machine, op and size of a clip, in the first job that is large enough not to mind
(`TRIAL_PAIRS`); smaller jobs without a measurement are left to the folded form. A job takes the compiled form from
twice the pairs on at which its gain is what loading costs.
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

TRIAL_PAIRS = 2**25  # a job of many seconds: measuring takes about one, and up to five where numba has to compile first
SMALL = "it pays from "  # how the reason begins where a job is small, which is no news
_SAFETY = 2
_TEXTS, _CLIPS = 256, 64  # of the slice that is measured
_log = logging.getLogger("tvr.kernels")
_found: dict[str, int | None] = {}  # (op and size) -> pairs from which it pays, None = never; one answer a process


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
        kept = _kept().get(case)
        if kept is None and pairs < TRIAL_PAIRS:
            return False, _SMALL_UNKNOWN
        start = time.process_time()
        can, why = supports()
        if not can:
            return can, why
        if kept is None or (not kept["final"] and pairs >= TRIAL_PAIRS):
            kept = _measure(op, case, text, video, weights, start)
        _found[case] = kept["from_pairs"]
    least = _found[case]
    if least is None:
        return False, f"{SMALL}no number of pairs on this machine: the folded form is as fast"
    if pairs < least:
        return False, f"{SMALL}{_round(least):,} pairs on this machine"
    return supports()


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


_SMALL_UNKNOWN = f"{SMALL}a number of pairs that the first job of {TRIAL_PAIRS:,} measures"


def _measure(
    op: str, case: str, text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: Any, start: float
) -> dict[str, Any]:
    """Load the compiled form, race it against the folded one on a slice, and keep what was found where it is sure.

    start: processor time before numba was imported.
    """
    some_text = {k: x[:_TEXTS] for k, x in text.items()}
    some_video = {k: x[:_CLIPS] for k, x in video.items()}
    pairs = len(next(iter(some_text.values()))) * len(next(iter(some_video.values())))
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
