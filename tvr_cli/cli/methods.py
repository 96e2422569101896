"""`tvr methods`: what can be trained and evaluated, what it needs and what it costs."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from tvr_cli.cli import render
from tvr_cli.cli.options import Json
from tvr_cli.errors import ConfigError


def methods(
    action: Annotated[str | None, typer.Argument(help='"show" for one method, nothing for the list.')] = None,
    name: Annotated[str | None, typer.Argument(help="Method to show.")] = None,
    cite: Annotated[bool, typer.Option("--cite", help="Print BibTeX.")] = False,
    as_json: Json = False,
) -> None:
    """List the methods, or show one with the source of every default.

    Example: tvr methods show glccl
    """
    from tvr_cli.engine import catalogue

    if action not in (None, "show"):
        raise ConfigError(f'expected nothing or "show NAME", found {action!r}; for example: tvr methods show glccl')
    if action == "show" and name is None:
        raise ConfigError("name the method: tvr methods show NAME")
    found = [catalogue.describe(n) for n in ([name] if name else catalogue.names())]
    if cite and not as_json:
        for row in "\n\n".join(m["bibtex"] for m in found if m["bibtex"]).splitlines():
            render.line(row)
        return
    payload = {"schema": "tvr/methods@1", "methods": found}
    render.result(payload, as_json, lambda: _show_one(found[0]) if name else _show_all(found))


def _show_all(methods: list[dict[str, Any]]) -> None:
    rows = [
        [m["name"], m["summary"], ", ".join(m["needs"]), m["fidelity"].replace("@", " @"), _cost(m).split(" (")[0]]
        for m in methods
    ]
    render.table(None, ("method", "what it does", "needs", "fidelity", "cost a pair"), rows, left=5)
    render.line("costs at D 512, F 12, L 32; tvr methods show NAME sets them beside the published form's")


def _cost(method: dict[str, Any]) -> str:
    return re.sub(r"\d{4,}", lambda number: f"{int(number[0]):,}", method["cost_per_pair"])


def _show_one(about: dict[str, Any]) -> None:
    render.line(f"{about['name']}: {about['summary']}")
    render.line(about["paper"])
    render.line(f"fidelity: {about['fidelity']}")
    render.line(f"needs: {', '.join(about['needs'])}; {about['parameters']:,} parameters at D 512, F 12, L 32")
    render.line(f"cost a pair: {_cost(about)}")
    render.line()
    rows = [
        [o["name"], str(o["default"]), o.get("symbol", ""), o.get("source", ""), o.get("note", "")]
        for o in about["options"]
    ]
    render.table(None, ("option", "default", "symbol", "source", "note"), rows, left=5)
