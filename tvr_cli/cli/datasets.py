"""`tvr datasets`: what can be named with --data, how large it officially is and which files it needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import commands
from tvr_cli.cli import contract, render
from tvr_cli.cli.options import Json
from tvr_cli.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from tvr_cli.engine.whole.dataset_catalogue import DataSetCard

_ACTIONS = ("show", "check")


def datasets(
    action: Annotated[
        str | None,
        typer.Argument(help='Nothing for the list, "show" for one data set, "check" for one of your own.'),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(help="Data set by name, or dotted; for check also NAME:ROOT[:VARIANT].")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the data sets, show one with its sizes and files, or check one of your own against the contract.

    Example: tvr datasets show msrvtt
    """
    if action not in (None, *_ACTIONS):
        near = did_you_mean(action, _ACTIONS)
        raise ConfigError(f"expected nothing, show NAME or check NAME[:ROOT[:VARIANT]], found {action!r}{near}")
    if action is not None and name is None:
        raise ConfigError(f"name the data set: {commands.tvr('datasets', str(action), 'msrvtt')}")
    if action == "check":
        from tvr_cli.testing import dataset

        contract.report("data set", name or "", dataset.check(name or ""), as_json)
        return
    from tvr_cli.engine.whole import dataset_catalogue as catalogue

    report = catalogue.datasets(name)
    render.result(report, as_json, lambda: _show_one(report.datasets[0]) if name else _show_all(report.datasets))


def _show_all(found: Sequence[DataSetCard]) -> None:
    rows = [[d.name, d.summary, ", ".join(v.name for v in d.variants if v.name)] for d in found]
    render.table(None, ("data set", "what it is", "variants"), rows, left=3)
    show, doctor = commands.tvr("datasets", "show", found[0].name), commands.tvr("doctor")
    render.line(f"{show} has sizes and files; {doctor} NAME:ROOT[:VARIANT] looks for them")


def _show_one(about: DataSetCard) -> None:
    render.line(f"{about.name}: {about.summary}")
    for section, plan in (("frames", about.plans.frames), ("words", about.plans.words)):
        if values := ", ".join(f"{k} {v}" for k, v in dataclasses.asdict(plan).items() if v is not None):
            render.line(f"{section}: {values}")
    sizes = [
        [v.name or "", split, size.videos, size.captions] for v in about.variants for split, size in v.sizes.items()
    ]
    if sizes:
        render.line()
        render.table("official sizes", ("variant", "split", "videos", "captions"), sizes, left=2)
    files = [[v.name or "", group[0], ", ".join(group[1:])] for v in about.variants for group in v.files]
    if files:
        render.line()
        render.table("annotation files", ("variant", "file", "also accepted"), files, left=3)
