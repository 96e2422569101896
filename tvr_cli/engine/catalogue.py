"""What methods there are, what each needs and costs, and where its defaults come from."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from tvr_cli import log
from tvr_cli.errors import TvrError
from tvr_cli.methods import base
from tvr_cli.types import Sizes

# The sizes that parameters and costs are stated for: ViT-B/32 or B/16, MSR-VTT's plans.
SIZES = Sizes(dim=512, frames=12, words=32)


def describe(name: str) -> dict[str, Any]:
    """Describe a method. Raises ConfigError, with the nearest name, for an unknown one."""
    cls = base.load_class(name)
    with torch.device("meta"):  # shapes without memory or random numbers
        method = base.build(name, SIZES)
    return {
        "name": name,
        "summary": cls.summary,
        "needs": sorted(method.needs),
        "fidelity": cls.fidelity,
        "paper": cls.paper,
        "bibtex": cls.bibtex.strip(),
        "parameters": sum(p.numel() for p in method.parameters()),
        "cost_per_pair": method.cost_per_pair(),
        "options": [
            {"name": f.name, "default": getattr(method.config, f.name), **f.metadata}
            for f in dataclasses.fields(method.config)
        ],
    }


def describe_all() -> list[dict[str, Any]]:
    """Describe every method that has a short name, sorted, without what cannot be loaded."""
    found = []
    for name in base.names():
        try:
            found.append(describe(name))
        except TvrError as e:
            log.logger.warning("warning: %s", e)
    return found
