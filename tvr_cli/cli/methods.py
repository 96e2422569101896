"""`tvr methods`: what can be trained and evaluated, what it needs and what it costs."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from tvr_cli.cli import render
from tvr_cli.cli.options import Json


def methods(
    action: Annotated[str | None, typer.Argument(help='"show" for one method, nothing for the list.')] = None,
    name: Annotated[str | None, typer.Argument(help="Method to show.")] = None,
    cite: Annotated[bool, typer.Option("--cite", help="Print BibTeX.")] = False,
    as_json: Json = False,
) -> None:
    """List the methods, or show one with the source of every default.

    Example: tvr methods show glccl
    """
    from tvr_cli.errors import ConfigError
    from tvr_cli.methods import base

    if action not in (None, "show"):
        raise ConfigError(f'expected nothing or "show NAME", found {action!r}; for example: tvr methods show glccl')
    if action == "show" and name is None:
        raise ConfigError("name the method: tvr methods show NAME")
    wanted = [name] if name else base.names()
    classes = {n: base.load_class(n) for n in wanted}
    if cite:
        for cls in classes.values():
            if cls.bibtex:
                render.line(cls.bibtex.strip() + "\n")
        return
    payload = {"schema": "tvr/methods@1", "methods": [_about(n, cls) for n, cls in classes.items()]}
    render.result(payload, as_json, lambda: _show(payload["methods"], whole=name is not None))


def _about(name: str, cls: Any) -> dict[str, Any]:
    from tvr_cli.methods import base
    from tvr_cli.types import Sizes

    with _no_weights():
        method = base.build(name, Sizes(dim=512, frames=12, words=32))
    return {
        "name": name,
        "summary": cls.summary,
        "needs": sorted(method.needs),
        "fidelity": cls.fidelity,
        "paper": cls.paper,
        "parameters": sum(p.numel() for p in method.parameters()),
        "cost_per_pair": method.cost_per_pair(),
        "options": [
            {"name": f.name, "default": getattr(method.config, f.name), **f.metadata}
            for f in dataclasses.fields(method.config)
        ],
    }


def _no_weights() -> Any:
    """Build on the meta device: shapes without memory or random numbers."""
    import torch

    return torch.device("meta")


def _show(methods: list[dict[str, Any]], *, whole: bool) -> None:
    if not whole:
        rows = [[m["name"], m["summary"], ", ".join(m["needs"]), m["fidelity"], m["cost_per_pair"]] for m in methods]
        columns = ("method", "what it does", "needs", "fidelity", "cost a pair (D 512, F 12, L 32)")
        render.table(None, columns, rows, left=5)
        return
    about = methods[0]
    render.line(f"{about['name']}: {about['summary']}\n{about['paper']}\nfidelity: {about['fidelity']}")
    render.line(f"needs: {', '.join(about['needs'])}; {about['parameters']:,} parameters at D 512, F 12, L 32\n")
    rows = [[o["name"], str(o["default"]), o.get("symbol", ""), o.get("source", "")] for o in about["options"]]
    render.table(None, ("option", "default", "symbol", "source"), rows, left=4)
