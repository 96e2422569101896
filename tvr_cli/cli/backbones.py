"""`tvr backbones`: what turns frames and captions into features, what it yields, and whether it is on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import commands
from tvr_cli.cli import contract, render
from tvr_cli.cli.options import Json, Offline
from tvr_cli.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from tvr_cli.engine.whole.backbone_catalogue import BackboneCard, BackboneDetails, BackboneProblem, BackbonesReport

_ACTIONS = ("show", "check")
_FITS = {"crop": "cropped to their centre", "squash": "squashed to a square"}


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
    from tvr_cli.engine.whole import backbone_catalogue as catalogue

    report = catalogue.backbones(name)
    render.result(report, as_json, lambda: _show(report))


def _show(report: BackbonesReport) -> None:
    from tvr_cli.engine.whole.backbone_catalogue import BackboneCard, BackboneDetails, BackboneProblem

    for about in report.backbones:
        if isinstance(about, BackboneDetails):
            _show_one(about)
            return
    _show_all(
        [b for b in report.backbones if isinstance(b, BackboneCard)],
        [b for b in report.backbones if isinstance(b, BackboneProblem)],
    )


def _show_all(found: Sequence[BackboneCard], problems: Sequence[BackboneProblem]) -> None:
    rows = [
        [b.name, b.library, b.source, ", ".join(b.provides), "yes" if b.here else "no", b.licence or "not known",
         b.fit, b.pixels, b.dim, b.context]
        for b in found
    ]  # fmt: skip
    columns = (
        "backbone",
        "library",
        "source",
        "provides",
        "on this machine",
        "licence",
        "fit",
        "pixels",
        "dim",
        "context",
    )
    render.table(None, columns, rows, left=7)
    for problem in problems:
        render.line(f"{problem.name}: {problem.problem}")
    more = commands.tvr("backbones", "show", "NAME")
    render.line(f"{more} says where its weights belong, what a frame costs and which methods it serves")


def _show_one(about: BackboneDetails) -> None:
    card = about.card
    versions = ", ".join(f"{package} {version}" for package, version in about.versions.items())
    render.line(f"{card.name}, of {card.library}{f' ({versions})' if versions else ''}")
    if card.here:
        render.line(f"weights: {card.source}, on this machine in {about.weights}")
    else:
        place = about.expected_at or "wherever its library keeps them"
        render.line(f"weights: {card.source}, not on this machine; expected: {place}")
    if card.licence:
        only = ": not for commercial use" if card.non_commercial else ""
        render.line(f"licence of the weights: {card.licence}{only}")
    render.line(
        f"takes pictures {_FITS[card.fit]}, {card.filter}: {card.pixels} x {card.pixels} pixels, and "
        f"{card.context} tokens; yields vectors of {card.dim}: {', '.join(card.provides)}"
    )
    render.line(
        f"{about.parameters:,} parameters; {about.flop_a_frame / 1e9:.3g} GFLOP a frame, "
        f"{about.flop_a_caption / 1e9:.3g} GFLOP a caption of {card.context} tokens"
    )
    render.line(f"--tune full: {'yes' if about.tunable else 'no'}")
    render.line(f"methods that can use it: {', '.join(about.methods) or 'none'}")
