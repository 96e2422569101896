"""`tvr backbones`: what turns frames and captions into features, what it yields, and whether it is on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tvr_cli import commands
from tvr_cli.cli import contract, render
from tvr_cli.cli.options import Json, Offline
from tvr_cli.errors import ConfigError, did_you_mean

_ACTIONS = ("show", "check")


def backbones(
    action: Annotated[
        str | None,
        typer.Argument(help='"show" for one backbone, "check" to prove one of your own, nothing for the list.'),
    ] = None,
    name: Annotated[str | None, typer.Argument(help="Backbone by any name that --backbone takes.")] = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """List the backbones, show one with its size and cost, or check one of your own against the contract.

    Example: tvr backbones show clip-vit-b32
    """
    if action not in (None, *_ACTIONS):
        near = did_you_mean(action, _ACTIONS)
        raise ConfigError(f"expected nothing, show NAME or check NAME, found {action!r}{near}")
    if action is not None and name is None:
        raise ConfigError(f"name the backbone: {commands.tvr('backbones', str(action), 'NAME')}")
    if action == "check":
        from tvr_cli.testing import backbone

        contract.report("backbone", name or "", backbone.check(name or "", offline=offline), as_json)
        return
    from tvr_cli.engine import backbone_catalogue as catalogue

    found = [catalogue.show(name)] if name else catalogue.list_all()
    payload = {"schema": "tvr/backbones@1", "backbones": found}
    render.result(payload, as_json, lambda: _show_one(found[0]) if name else _show_all(found))


def _show_all(found: list[dict[str, Any]]) -> None:
    rows = [
        [b["name"], b["library"], b["source"], ", ".join(b["provides"]), _here(b), b["pixels"], b["dim"], b["context"]]
        for b in found
        if "problem" not in b
    ]
    columns = ("backbone", "library", "source", "provides", "on this machine", "pixels", "dim", "context")
    render.table(None, columns, rows, left=5)
    for b in found:
        if "problem" in b:
            render.line(f"{b['name']}: {b['problem']}")
    more = commands.tvr("backbones", "show", "NAME")
    render.line(f"{more} says where its weights belong, what a frame costs and which methods it serves")


def _show_one(about: dict[str, Any]) -> None:
    versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
    render.line(f"{about['name']}, of {about['library']}{f' ({versions})' if versions else ''}")
    if about["here"]:
        render.line(f"weights: {about['source']}, on this machine in {about['weights']}")
    else:
        place = about["expected_at"] or "wherever its library keeps them"
        render.line(f"weights: {about['source']}, not on this machine; expected: {place}")
    render.line(
        f"takes {about['pixels']} x {about['pixels']} pixels and {about['context']} tokens, yields vectors of "
        f"{about['dim']}: {', '.join(about['provides'])}"
    )
    render.line(
        f"{about['parameters']:,} parameters; {about['flop_a_frame'] / 1e9:.3g} GFLOP a frame, "
        f"{about['flop_a_caption'] / 1e9:.3g} GFLOP a caption of {about['context']} tokens"
    )
    render.line(f"--tune full: {'yes' if about['tunable'] else 'no'}")
    render.line(f"methods that can use it: {', '.join(about['methods']) or 'none'}")


def _here(about: dict[str, Any]) -> str:
    return "yes" if about["here"] else "no"
