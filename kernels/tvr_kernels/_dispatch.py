"""Which implementation of an op runs, and why.

Order of `auto`: Triton on CUDA tensors if the op's `supports` agrees; else the compiled tier where it is installed and
pays (`_payoff`); else the folded form; else the reference. A form that `auto` took and that fails, because its compiler
or its cache is broken, is left out from then on, with one line that says why.
`TVR_KERNELS=auto|reference|folded|compiled|triton` (or the `implementation` argument, which wins) asks for one by name:
it runs or `KernelUnavailable` says why not; nothing is swapped in silently. The files of an op's folder are its
implementations: one that is not there does not exist.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tvr_kernels import _payoff

CHOICES = ("auto", "reference", "folded", "compiled", "triton")
_FILES = {"reference": "reference", "folded": "folded", "compiled": "compiled", "triton": "triton_impl"}
_NEEDS = {"compiled": "numba", "triton": "triton"}  # the package that an implementation imports
_INSTALL = {"compiled": "pip install 'tvr-cli[fast]'", "triton": "pip install triton (Linux)"}

Support = tuple[bool, str]
_log = logging.getLogger("tvr.kernels")
_said: set[tuple[str, str, str]] = set()
_broken: dict[tuple[str, str], str] = {}  # (op, form) -> why it failed in this process
_job: ContextVar[int] = ContextVar("pairs of the job", default=0)


class KernelUnavailable(RuntimeError):
    """An implementation was asked for by name and cannot run here; the message says why and what would."""


@contextmanager
def job(pairs: int) -> Iterator[None]:
    """Say how many pairs will be scored in all, in tiles: one form is chosen for the whole job, by its size."""
    token = _job.set(pairs)
    try:
        yield
    finally:
        _job.reset(token)


def score(
    op: str, text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: Any, implementation: str | None
) -> Tensor:
    """Run `score(text, video, weights)` of the implementation that `choose` picks; the body of every op's `score`."""
    return run("score", op, text, video, weights, implementation)


def run(
    function: str,
    op: str,
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: Any,
    implementation: str | None,
) -> Tensor:
    """Run another function of an op, such as `similarities`, of the implementations that have it."""
    while True:
        chosen, _ = select(function, op, text, video, weights, implementation)
        try:
            return getattr(load(op, chosen), function)(text, video, weights)
        except Exception as e:
            if not _may_fail(chosen, e):
                raise
            why, (asked, source) = failure(e), _asked(implementation)
            if asked != "auto":
                raise KernelUnavailable(
                    f"{op}: {source} asks for {asked!r}, but {why}; TVR_KERNELS=auto picks one that runs"
                ) from e
            _log.warning("%s: the %s form is left out: %s", op, chosen, why)
            _broken[op, chosen] = why


def select(
    function: str,
    op: str,
    text: Mapping[str, Tensor],
    video: Mapping[str, Tensor],
    weights: Any,
    implementation: str | None,
) -> tuple[str, str]:
    """Return (implementation, reason) for these inputs: `choose` among the op's files."""
    tensors = [*text.values(), *video.values(), *(weights or ())]
    pairs = max(_job.get(), _payoff.pairs_of(text, video))
    by_size = _asked(implementation)[0] == "auto"
    inputs = text, video, weights

    def can(name: str) -> Support:
        if by_size and (op, name) in _broken:
            return False, _broken[op, name]
        try:
            if by_size and name == "compiled":
                return _payoff.pays(op, pairs, *inputs, lambda: supports(function, op, name, *inputs))
            return supports(function, op, name, *inputs)
        except Exception as e:
            if not _may_fail(name, e):
                raise
            _broken[op, name] = failure(e)
            return False, _broken[op, name]

    return choose(op, tensors, {name: partial(can, name) for name in implementations(op)}, implementation)


def choose(
    op: str,
    tensors: Iterable[Any],
    available: Mapping[str, Callable[[], Support]] | Iterable[str],
    implementation: str | None = None,
) -> tuple[str, str]:
    """Return (implementation, reason).

    tensors: the op's inputs, looked at for their device. available: the op's implementations, each with a call that
    answers (can run these inputs, why); plain names mean "always". implementation: a name that overrides TVR_KERNELS.
    Raises KernelUnavailable if one was asked for by name and cannot run, ValueError for an unknown name.
    """
    options = dict(available) if isinstance(available, Mapping) else {name: _always for name in available}
    asked, source = _asked(implementation)
    if asked != "auto":
        return asked, _insist(op, asked, source, options)
    on_cuda = any(isinstance(x, Tensor) and x.device.type == "cuda" for x in tensors)
    refused: list[str] = []
    lost = on_cuda  # whether a faster form was there to be had
    for name in ("triton",) if on_cuda else ("compiled",):
        if name in options:
            ok, why = options[name]()
            if ok:
                return _say(op, name, why or "fastest form for these tensors")
            refused.append(f"{name}: {why}")
            lost = lost or not why.startswith(_payoff.SMALL)
    name = "folded" if "folded" in options else "reference"
    why = "; ".join(refused) or ("CUDA without a fused kernel" if on_cuda else "CPU tensors")
    return _say(op, name, why, logging.INFO if lost else logging.DEBUG)


def implementations(op: str) -> list[str]:
    """Return the implementations whose file is in the op's folder, whether or not they can run here."""
    return [name for name, file in _FILES.items() if importlib.util.find_spec(f"tvr_kernels.{op}.{file}") is not None]


def load(op: str, name: str) -> ModuleType:
    """Import one implementation of an op. Raises KernelUnavailable if its package is not installed."""
    installed, why = _installed(name)
    if not installed:
        raise KernelUnavailable(f"{op}: {name} was asked for, but {why}")
    return importlib.import_module(f"tvr_kernels.{op}.{_FILES[name]}")


def supports(
    function: str, op: str, name: str, text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: Any
) -> Support:
    """Return whether one implementation has the function and can run these inputs here, and why (not)."""
    installed, why = _installed(name)
    if not installed:
        return False, why
    module = load(op, name)
    if not hasattr(module, function):
        return False, f"its {name} form has no {function}"
    supports = getattr(module, "supports", None)
    return (True, "") if supports is None else supports(text, video, weights)


def _may_fail(name: str, e: Exception) -> bool:
    """Whether an error is of a form that compiles when it is called: the next one has the same numbers."""
    return name in _NEEDS and not isinstance(e, (MemoryError, torch.OutOfMemoryError, KernelUnavailable))


def failure(e: BaseException) -> str:
    """Say in one line why a form that should run did not."""
    said = next((line.strip() for line in str(e).splitlines() if line.strip()), "")
    line = f"it failed here ({type(e).__name__}{': ' if said else ''}{said[:200]})"
    if isinstance(e, (pickle.UnpicklingError, EOFError)):
        folder = os.environ.get("NUMBA_CACHE_DIR") or str(Path(__file__).parent)
        line += f": numba's cache is damaged, delete the *.nbi and *.nbc files below {folder}"
    return line


def report() -> list[tuple[str, str, str]]:
    """Return (op, implementation, reason) for ordinary fp32 scoring on this machine: what `tvr doctor` shows."""
    from tvr_kernels import OPS

    rows = []
    asked, source = _asked(None)
    for op in OPS:
        try:
            names = implementations(op)
        except ModuleNotFoundError:
            names = []
        if not names:
            rows.append((op, "none", "this op is not part of this installation"))
        elif asked != "auto":
            there, why = _installed(asked)
            here = asked in names and there
            rows.append(
                (
                    op,
                    asked if here else "none",
                    f"asked for by {source}" + ("" if here else f", but {why or 'the op has no such form'}"),
                )
            )
        else:
            rows.append((op, *_usual(op, names)))
    return rows


def _usual(op: str, names: list[str]) -> tuple[str, str]:
    fused = "triton" if torch.cuda.is_available() else "compiled"
    device = "CUDA" if fused == "triton" else "CPU"
    fallback = "folded" if "folded" in names else "reference"
    if fused not in names:
        return fallback, f"{device}; the op has no {fused} form"
    there, why = _installed(fused)
    if there and fused == "compiled":
        return fallback, f"{device}; {_payoff.said(op)}"
    return (fused, f"{device}; where the inputs allow, else {fallback}") if there else (fallback, f"{device}; {why}")


def _asked(implementation: str | None) -> tuple[str, str]:
    asked, source = (
        (implementation, "the caller") if implementation else (os.environ.get("TVR_KERNELS") or "auto", "TVR_KERNELS")
    )
    if asked not in CHOICES:
        raise ValueError(f"unknown kernel implementation {asked!r} from {source}; expected one of {', '.join(CHOICES)}")
    return asked, source


def _insist(op: str, asked: str, source: str, options: Mapping[str, Callable[[], Support]]) -> str:
    if asked not in options:
        raise KernelUnavailable(f"{op}: {source} asks for {asked!r}, but this op has only: {', '.join(options)}")
    ok, why = options[asked]()
    if not ok:
        raise KernelUnavailable(f"{op}: {source} asks for {asked!r}, but {why}; TVR_KERNELS=auto picks one that runs")
    return f"asked for by {source}"


def _installed(name: str) -> Support:
    package = _NEEDS.get(name)
    if package is None or importlib.util.find_spec(package) is not None:
        return True, ""
    return False, f"the package {package} is not installed ({_INSTALL[name]})"


def _say(op: str, name: str, why: str, level: int = logging.INFO) -> tuple[str, str]:
    if (op, name, why) not in _said:  # once a process: scoring runs in thousands of tiles
        _said.add((op, name, why))
        _log.log(level, "%s runs its %s form: %s", op, name, why)
    return name, why


def _always() -> Support:
    return True, ""
