"""`tvr verify`: PASS or FAIL against numbers that others published, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import commands, files
from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Backbone, Device, Json, Offline, Workspace
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem, PartialFailure, did_you_mean
from tvr_cli.results.card import TABLE

if TYPE_CHECKING:
    from tvr_cli.verify.outcome import VerifyReport

_WHAT = ("backbone", "features", "published")


def verify(
    what: Annotated[
        str | None,
        typer.Argument(help='Nothing for all that needs no weights; "backbone" NAME, "features", "published".'),
    ] = None,
    name: Annotated[str | None, typer.Argument(help='Backbone by name, of "backbone".')] = None,
    asset: Annotated[
        Path | None, typer.Option("--asset", help="The picture or clip of the published values, not to be fetched.")
    ] = None,
    features: Annotated[
        list[Path] | None,
        typer.Option("--features", help="Features of frames: what import-features reads; repeatable."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME:ROOT[:VARIANT]", help="Where the data set lies.")
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option("--revision", help='Of "features": the commit of the hub\'s data set that they are of.'),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help='Of "published": train as this recipe says, in place of zero-shot.')
    ] = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Go on where videos are missing.")] = False,
    card: Annotated[Path | None, typer.Option("--card", help="Do a card again, and compare.")] = None,
    save_card: Annotated[Path | None, typer.Option("--save-card", help="Write the card of this verification.")] = None,
    who: Annotated[str | None, typer.Option("--who", help="Your name on the card, if you want it there.")] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    backbone: Backbone = None,
    device: Device = "auto",
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Hold methods, judges, kernels and encoders against numbers that others published: PASS, FAIL or NOT COMPARABLE.

    Example: tvr verify
    """
    if card is not None and what is not None:
        raise ConfigError("--card names what it verifies itself; leave out the other words")
    words = () if what is None else _words(what, name, asset, features, data, recipe, backbone)
    if revision is not None and what != "features" and card is None:
        raise ConfigError(f"--revision is that of somebody's features, of {commands.tvr('verify', 'features')} alone")
    if asset is not None and what is None and card is None:
        raise ConfigError("--asset is the picture of a backbone's values; name the backbone")

    def run(words: tuple[str, ...]) -> VerifyReport:
        from tvr_cli.verify import backbone as encoder
        from tvr_cli.verify import features as others
        from tvr_cli.verify import offline as without_weights
        from tvr_cli.verify import published

        if not words:
            return without_weights.verify(device, who)
        if len(words) == 2 and words[0] == "backbone":
            return encoder.verify(words[1], asset=asset, device=device, offline=offline, who=who)
        if len(words) == 3 and words[0] == "features":
            return others.verify(features or [], *words[1:], revision=revision, device=device, offline=offline, who=who)
        if len(words) == 3 and words[0] == "published":
            of = words[2]
            if of.startswith(_RECIPE):
                return published.verify_recipe(
                    of.removeprefix(_RECIPE), words[1], workspace.root,
                    device=device, offline=offline, allow_missing=allow_missing, who=who,
                )  # fmt: skip
            return published.verify(
                words[1], of, workspace.root, device=device, offline=offline, allow_missing=allow_missing, who=who
            )
        raise DataError(f"the card is of the verification {' '.join(words)!r}, which this version of tvr does not know")

    if card is not None:
        from tvr_cli.verify import rerun

        said = rerun.read(card)
        if said.of[:1] == (TABLE,):
            from tvr_cli.verify import row

            report = row.again(said, workspace, device=device, who=who)
        else:
            revision = revision or rerun.revision_of(said)
            report = rerun.again(said, run)
    else:
        report = run(words)
    if save_card is not None:
        files.write_json(save_card, report.card.sealed().to_json())
    render.result(report, as_json, lambda: _show(report))
    _end(report)


_DATA = "msrvtt:/data/MSRVTT"  # of commands that are examples
_RECIPE = "recipe:"  # what a card says in place of an encoder


def _words(
    what: str, name: str | None, asset: Path | None, features: list[Path] | None, data: str | None, recipe: str | None,
    backbone: str | None,
) -> tuple[str, ...]:  # fmt: skip
    """Return what a card will say was asked for. Raises ConfigError for what does not go together."""
    if what not in _WHAT:
        near = did_you_mean(what, _WHAT)
        raise ConfigError(f"expected nothing or {', '.join(_WHAT)}, found {what!r}{near}")
    if what == "backbone":
        if name is None:
            raise ConfigError(f"name the backbone: {commands.tvr('verify', what, 'clip-vit-b32')}")
        return what, name
    if asset is not None or name is not None:
        raise ConfigError(f"verify {what} takes --data and --backbone; leave out --asset and further words")
    if what == "features":
        if data is None or backbone is None or not features:
            full = commands.tvr("verify", what, data=_DATA, features="features.tar", backbone="clip-vit-b32")
            raise ConfigError(f"say which features, of which data set, by which encoder: {full}")
        return what, data, backbone
    if data is None or (backbone is None) == (recipe is None):
        full = commands.tvr("verify", what, data=_DATA, backbone="clip-vit-b32")
        raise ConfigError(f"say which data set, and one of --backbone and --recipe: {full}")
    return what, data, backbone or f"{_RECIPE}{recipe}"


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
