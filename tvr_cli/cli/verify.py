"""`tvr verify`: PASS or FAIL against numbers that others published, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import commands, files
from tvr_cli.cli import render
from tvr_cli.cli.options import Device, Json, Offline
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem, PartialFailure, did_you_mean

if TYPE_CHECKING:
    from tvr_cli.verify.outcome import VerifyReport

_WHAT = ("backbone",)


def verify(
    what: Annotated[
        str | None, typer.Argument(help='Nothing for all that needs no weights, or "backbone" with its name.')
    ] = None,
    name: Annotated[str | None, typer.Argument(help="Backbone by name.")] = None,
    asset: Annotated[
        Path | None, typer.Option("--asset", help="The picture or clip of the published values, not to be fetched.")
    ] = None,
    card: Annotated[Path | None, typer.Option("--card", help="Do a card again, and compare.")] = None,
    save_card: Annotated[Path | None, typer.Option("--save-card", help="Write the card of this verification.")] = None,
    who: Annotated[str | None, typer.Option("--who", help="Your name on the card, if you want it there.")] = None,
    device: Device = "auto",
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Hold methods, judges, kernels and encoders against numbers that others published: PASS, FAIL or NOT COMPARABLE.

    Example: tvr verify
    """
    if what not in (None, *_WHAT):
        near = did_you_mean(what, _WHAT)
        raise ConfigError(f"expected nothing or {', '.join(_WHAT)}, found {what!r}{near}")
    if what is not None and name is None:
        raise ConfigError(f"name the {what}: {commands.tvr('verify', what, 'NAME')}")
    if asset is not None and what is None and card is None:
        raise ConfigError("--asset is the picture of a backbone's values; name the backbone")
    if card is not None and what is not None:
        raise ConfigError("--card names what it verifies itself; leave out the other words")

    def run(words: tuple[str, ...]) -> VerifyReport:
        from tvr_cli.verify import backbone
        from tvr_cli.verify import offline as without_weights

        if not words:
            return without_weights.verify(device, who)
        if len(words) == 2 and words[0] == "backbone":
            return backbone.verify(words[1], asset=asset, device=device, offline=offline, who=who)
        raise DataError(f"the card is of the verification {' '.join(words)!r}, which this version of tvr does not know")

    if card is not None:
        from tvr_cli.verify import rerun

        report = rerun.again(rerun.read(card), run)
    else:
        report = run(() if what is None else (what, name or ""))
    if save_card is not None:
        files.write_json(save_card, report.card.to_json())
    render.result(report, as_json, lambda: _show(report))
    _end(report)


def _show(report: VerifyReport) -> None:
    for found in report.outcomes:
        render.line(f"{found.status:<5} {found.name}: {found.detail}")
        for value in found.values if found.status == "FAIL" else ():
            render.line(f"      found {value.found:.9g}, expected {value.expected:.9g}")
        if found.cause:
            render.line(f"      likely cause: {found.cause}")
        if found.source:
            render.line(f"      source: {found.source}")
    for change in report.changes:
        render.line(f"not as the card says: {change}")
    render.line(report.status)


def _end(report: VerifyReport) -> None:
    """Raise what a verification that is not PASS ends with: 5 where a check fails, 3 where nothing can be compared."""
    named = [found.name for found in report.outcomes if found.status == report.status]
    told = f"{report.status}: {'; '.join(named[:5])}" + (f" and {len(named) - 5} more" if len(named) > 5 else "")
    if report.status == "FAIL":
        raise PartialFailure(told)
    if report.status == "NOT COMPARABLE":
        raise DataError(told)
    if report.status == "LEFT OUT":
        raise EnvironmentProblem("nothing could be verified here: every check was left out")
    if report.changes:
        raise PartialFailure(f"the card is not confirmed: {'; '.join(report.changes[:5])}")
