"""`tvr info`: what a store, a run, an index or a workspace holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli.cli import render
from tvr_cli.cli.options import Json
from tvr_cli.commands import DEFAULT_WORKSPACE
from tvr_cli.errors import DataError

if TYPE_CHECKING:
    from tvr_cli.engine.whole.info import IndexInfo, Part, WorkspaceInfo


_IN_JSON_ONLY = ("schema", "kind", "path", "identity", "provenance", "config", "env", "results")

_SEARCHED: dict[str, Callable[[IndexInfo], str]] = {
    "search": lambda found: render.search_way(found.search, found.clips) if found.search else "",
    "recall": lambda found: render.recall(found.recall) if found.recall else "",
    "bank": lambda found: f"{found.bank.sentences} {found.bank.of}" if found.bank else "",
}


def info(
    path: Annotated[
        Path, typer.Argument(help="Frame store, feature store, run, index or workspace.")
    ] = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Say what a store, a run, an index or a workspace holds, and which parts of a workspace are damaged.

    Example: tvr info out
    """
    from tvr_cli.engine.whole.info import info as describe

    found = describe(path)
    render.result(found, as_json, lambda: _show(found))
    if found.kind == "workspace" and found.unread:
        raise DataError(f"{found.unread} of {render.count(len(found.parts), 'part')} cannot be read, see above")


def _short(value: object) -> object:
    return f"{value:.3f}" if isinstance(value, float) else value


def _show(found: Part | WorkspaceInfo) -> None:
    for whole in found.parts if found.kind == "workspace" else [found]:
        part = whole.to_json()
        render.line(f"{part['kind']} {part['path']}")
        for key, value in part.items():
            if key in _IN_JSON_ONLY:
                continue
            shown = render.size(value) if key.startswith("bytes") else "none" if value is None else value
            if whole.kind == "index" and key in _SEARCHED and value is not None:
                shown = _SEARCHED[key](whole)
            elif isinstance(value, dict):
                shown = ", ".join(f"{k} {_short(v)}" for k, v in value.items()) or "none"
            elif isinstance(value, list):
                shown = ", ".join(map(str, value)) or "none"
            render.line(f"  {key.replace('_', ' '):<14} {shown}")
        for split, result in part.get("results", {}).items():
            if result.get("rsum") is not None and "R@1" in (result.get("t2v") or {}):
                numbers = f"t2v R@1 {result['t2v']['R@1']:.1f}, rsum {result['rsum']:.1f}"
                render.line(f"  {'result':<14} {split}: {numbers}, selected on {result.get('selected_on', 'unknown')}")
