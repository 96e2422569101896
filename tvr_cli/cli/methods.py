"""`tvr methods`: what can be trained and evaluated, what it needs and what it costs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import commands
from tvr_cli.cli import contract, render
from tvr_cli.cli.options import Json
from tvr_cli.errors import ConfigError, did_you_mean

_ACTIONS = ("show", "check")

if TYPE_CHECKING:
    from tvr_cli.engine.whole.catalogue import MethodCard


def methods(
    action: Annotated[
        str | None,
        typer.Argument(help='Nothing for the list, "show" for one method, "check" for one of your own.'),
    ] = None,
    name: Annotated[str | None, typer.Argument(help="Method by name, or dotted.")] = None,
    cite: Annotated[bool, typer.Option("--cite", help="Print BibTeX.")] = False,
    as_json: Json = False,
) -> None:
    """List the methods, show one with the source of every default, or check one of your own against the contract.

    Example: tvr methods show glccl
    """
    if action not in (None, *_ACTIONS):
        near = did_you_mean(action, _ACTIONS)
        raise ConfigError(f"expected nothing, show NAME or check NAME, found {action!r}{near}")
    if action is not None and name is None:
        raise ConfigError(f"name the method: {commands.tvr('methods', str(action), 'glccl')}")
    if action == "check":
        from tvr_cli.testing import method

        contract.report("method", name or "", method.check(name or ""), as_json)
        return
    from tvr_cli.engine.whole import catalogue

    report = catalogue.methods(name)
    if cite and not as_json:
        for row in "\n\n".join(m.bibtex for m in report.methods if m.bibtex).splitlines():
            render.line(row)
        return
    render.result(report, as_json, lambda: _show_one(report.methods[0]) if name else _show_all(report.methods))


def _show_all(methods: Sequence[MethodCard]) -> None:
    rows = [
        [m.name, m.summary, ", ".join(m.needs), m.fidelity.replace("@", " @"), _cost(m).split(" (")[0]] for m in methods
    ]
    render.table(None, ("method", "what it does", "needs", "fidelity", "cost a pair"), rows, left=5)
    show = commands.tvr("methods", "show", methods[0].name)
    render.line(f"costs at D 512, F 12, L 32; {show} sets them beside the published form's")


def _cost(method: MethodCard) -> str:
    return re.sub(r"\d{4,}", lambda number: f"{int(number[0]):,}", method.cost_per_pair)


def _show_one(about: MethodCard) -> None:
    render.line(f"{about.name}: {about.summary}")
    render.line(about.paper)
    render.line(f"fidelity: {about.fidelity}")
    render.line(f"needs: {', '.join(about.needs)}; {about.parameters:,} parameters at D 512, F 12, L 32")
    render.line(f"cost a pair: {_cost(about)}")
    render.line()
    rows = [[o.name, str(o.default), o.symbol or "", o.source or "", o.note or ""] for o in about.options]
    render.table(None, ("option", "default", "symbol", "source", "note"), rows, left=5)
