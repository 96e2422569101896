"""What methods there are, what each needs and costs, and where its defaults come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tvr_cli import log
from tvr_cli.engine.suggest import SIZES
from tvr_cli.errors import TvrError
from tvr_cli.methods import base
from tvr_cli.results.base import OPTIONAL, Result


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
    """Describe one method, or all built-in ones. Raises ConfigError, with the nearest name, for an unknown one."""
    return MethodsReport([describe(name)] if name else describe_all())


def describe(name: str) -> MethodCard:
    """Describe a method. Raises ConfigError, with the nearest name, for an unknown one."""
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


def describe_all() -> list[MethodCard]:
    """Describe every method that has a short name, sorted, without what cannot be loaded."""
    found = []
    for name in base.names():
        try:
            found.append(describe(name))
        except TvrError as e:
            log.logger.warning("warning: %s", e)
    return found
