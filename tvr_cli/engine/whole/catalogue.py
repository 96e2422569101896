"""What methods there are, what each needs and costs, and where its defaults come from.

The shipped ones are read from a file that a script makes of them and a test compares: importing them takes seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvr_cli import log, plugins
from tvr_cli.errors import TvrError
from tvr_cli.files import read_json
from tvr_cli.results.base import OPTIONAL, Result

SHIPPED = Path(__file__).resolve().parents[2] / "methods" / "catalogue.json"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One option of a method. symbol, source: the paper's, and where the default comes from, where it is said."""

    name: str
    default: Any
    symbol: str | None = field(default=None, metadata=OPTIONAL)
    source: str | None = field(default=None, metadata=OPTIONAL)
    note: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class MethodCard:
    """A method: what it needs, what it costs at SIZES, what it was checked against, and every option."""

    name: str
    summary: str
    needs: Sequence[str]
    fidelity: str
    paper: str
    bibtex: str
    parameters: int
    cost_per_pair: str
    options: Sequence[Setting]


@dataclass(frozen=True)
class MethodsReport(Result):
    """The methods that were asked for."""

    schema = "methods"
    methods: Sequence[MethodCard]


def methods(name: str | None = None) -> MethodsReport:
    """Describe one method, or all that have a short name, sorted, without what cannot be loaded.

    Raises ConfigError, with the nearest name, for an unknown one.
    """
    shipped = _shipped()
    if name is not None:
        return MethodsReport([shipped[name] if name in shipped else describe(name)])
    others = [n for n in plugins.entry_points("tvr.methods") if n not in shipped]
    found = dict(shipped)
    for other in others:
        try:
            found[other] = describe(other)
        except TvrError as e:
            log.logger.warning("warning: %s", e)
    return MethodsReport([found[n] for n in sorted(found)])


def describe(name: str) -> MethodCard:
    """Describe a method by importing it. Raises ConfigError, with the nearest name, for an unknown one."""
    import torch

    from tvr_cli.engine.suggest import SIZES
    from tvr_cli.methods import base

    cls = base.load_class(name)
    with torch.device("meta"):  # shapes without memory or random numbers
        method = base.build(name, SIZES)
    return MethodCard(
        name=name,
        summary=cls.summary,
        needs=sorted(method.needs),
        fidelity=cls.fidelity,
        paper=cls.paper,
        bibtex=cls.bibtex.strip(),
        parameters=sum(p.numel() for p in method.parameters()),
        cost_per_pair=method.cost_per_pair(),
        options=[
            Setting(
                name=f.name,
                default=getattr(method.config, f.name),
                **{mark: f.metadata[mark] for mark in ("symbol", "source", "note") if mark in f.metadata},
            )
            for f in dataclasses.fields(method.config)
        ],
    )


def _shipped() -> Mapping[str, MethodCard]:
    cards = read_json(SHIPPED)
    return {c["name"]: MethodCard(**{**c, "options": [Setting(**o) for o in c["options"]]}) for c in cards}
