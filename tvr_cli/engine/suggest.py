"""Which methods fit what a store or a backbone provides: hints name one that can be run, never a fixed one."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from tvr_cli.errors import TvrError
from tvr_cli.methods import base
from tvr_cli.methods.base import Method
from tvr_cli.types import Sizes

# The sizes that parameters and costs are stated for: ViT-B/32 or B/16, MSR-VTT's plans.
SIZES = Sizes(dim=512, frames=12, words=32)


def fitting(provides: Iterable[str]) -> list[str]:
    """Return the methods that need nothing else than what is provided, those first that use most of it."""
    return [name for name, _ in _fitting(provides)]


def to_train(provides: Iterable[str]) -> str | None:
    """Return the method to train on frozen features that uses most of what is provided; None where none fits."""
    for name, cls in _fitting(provides):
        if cls.loss is not Method.loss:
            with torch.device("meta"):  # shapes without memory or random numbers
                if base.build(name, SIZES).trains:
                    return name
    return None


def without_training(provides: Iterable[str], preferred: str) -> str | None:
    """Return a method that has nothing to train: the preferred one where it fits; None where none does."""
    fits = [name for name, cls in _fitting(provides) if cls.loss is Method.loss]
    return preferred if preferred in fits else next(iter(fits), None)


def _fitting(provides: Iterable[str]) -> list[tuple[str, type[Method]]]:
    there, found = frozenset(provides), []
    for name in base.names():
        try:
            cls = base.load_class(name)
        except TvrError:  # somebody else's plug-in that cannot be imported: no reason to say nothing
            continue
        if cls.needs <= there:
            found.append((name, cls))
    return sorted(found, key=lambda pair: (-len(pair[1].needs), pair[0]))
