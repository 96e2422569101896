"""`tvr backbones`: what turns frames and captions into features, what each costs and allows, and getting it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import commands
from tvr_cli.cli import contract, render
from tvr_cli.cli.options import DryRun, Json, Offline
from tvr_cli.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from tvr_cli.engine.whole.backbone_catalogue import BackboneCard, BackboneDetails, BackboneProblem, BackbonesReport
    from tvr_cli.engine.whole.backbone_get import GetReport

_ACTIONS = ("show", "get", "check")
_LANGUAGES = {"en": "English", "zh": "Chinese", "mul": "many languages"}
_FITS = {"crop": "cropped to their centre", "squash": "squashed to a square"}


def backbones(
    action: Annotated[
        str | None,
        typer.Argument(help='"show" one, "get" its weights, "check" one of your own; nothing lists them.'),
    ] = None,
    name: Annotated[str | None, typer.Argument(help="Backbone by any name that --backbone takes.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Of show: encode a few frames to say how long one takes here.")
    ] = False,
    dry_run: DryRun = False,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """List the backbones, show one with licence, size and cost, get its weights, or check one of your own.

    Example: tvr backbones show clip-vit-b32
    """
    if action not in (None, *_ACTIONS):
        raise ConfigError(f"expected nothing, show NAME, get NAME or check NAME, found {action!r}{_meant(action)}")
    if measure and action != "show":
        raise ConfigError(
            f"--measure goes with show: {commands.tvr('backbones', 'show', name or 'clip-vit-b32', measure=True)}"
        )
    if dry_run and action != "get":
        get = commands.tvr("backbones", "get", name or "clip-vit-b32", dry_run=True)
        raise ConfigError(f"--dry-run goes with get: {get}")
    if action is not None and name is None:
        raise ConfigError(f"name the backbone: {commands.tvr('backbones', str(action), 'clip-vit-b32')}")
    if action == "check":
        from tvr_cli.testing import backbone

        contract.report("backbone", name or "", backbone.check(name or "", offline=offline), as_json)
        return
    if action == "get" and offline:
        raise ConfigError("get downloads, and --offline forbids it; leave one of them out")
    from tvr_cli.engine.whole import backbone_catalogue as catalogue

    report = catalogue.answer(action, name, measure=measure, dry_run=dry_run)
    human = (lambda: _show(report)) if isinstance(report, catalogue.BackbonesReport) else lambda: _show_got(report)
    render.result(report, as_json, human)


def _meant(action: str) -> str:
    """Return what a wrong first word was to be: another action, or the name of a backbone."""
    from tvr_cli.preset_loader import preset_names

    if action in preset_names("backbones"):
        return f"; run: {commands.tvr('backbones', 'show', action)}"
    return did_you_mean(action, _ACTIONS)


def _show_got(report: GetReport) -> None:
    rows = [[f.name, f.repository, f.commit[:12], render.size(f.size_bytes), f.fate] for f in report.files]
    render.table(None, ("file", "repository", "commit", "size", "what was done"), rows, left=5)
    if report.dry_run:
        render.line(f"{render.size(report.fetched_bytes)} of {render.size(report.size_bytes)} would be downloaded")
        return
    render.line(
        f"{report.backbone}: {render.size(report.size_bytes)} on this machine, {render.size(report.fetched_bytes)} "
        f"downloaded, all as the hub's hashes say, {render.duration(report.seconds)}"
    )


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
    more = commands.tvr("backbones", "show", found[0].name)
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
    if card.page:
        render.line(f"about the weights: {card.page}")
    if revision := _revision(card):
        render.line(f"revision: {revision}")
    render.line(
        f"takes pictures {_FITS[card.fit]}, {card.filter}: {card.pixels} x {card.pixels} pixels, and "
        f"{card.context} tokens; yields vectors of {card.dim}: {', '.join(card.provides)}"
    )
    render.line(
        f"{about.parameters:,} parameters; {about.flop_a_frame / 1e9:.3g} GFLOP a frame, "
        f"{about.flop_a_caption / 1e9:.3g} GFLOP a caption of {card.context} tokens"
    )
    if not card.here:
        estimate = "about " if about.download_estimated else ""
        get = commands.tvr("backbones", "get", card.name)
        render.line(f"to download: {estimate}{render.size(about.download_bytes)}, by {get}")
    if card.frames:
        render.line(f"takes clips of {card.frames} frames")
    if card.languages:
        render.line(f"captions in: {', '.join(_LANGUAGES.get(code, code) for code in card.languages)}")
    if about.speed is not None:
        render.line(
            f"a frame takes {about.speed.wall_s:.3f} s here by the clock, {about.speed.processor_s:.3f} s of processor "
            f"time ({render.count(about.speed.threads, 'thread')}, {about.speed.frames} frames)"
        )
    render.line(f"--tune full: {'yes' if about.tunable else 'no'}")
    render.line(f"methods that can use it: {', '.join(about.methods) or 'none'}")
    _show_published(about)


def _revision(card: BackboneCard) -> str:
    """Say which commit of a repository is taken, empty where there is no repository."""
    if card.revision:
        return f"{card.revision}, pinned"
    if card.commit:
        return f"not pinned; {card.commit} is on this machine"
    return "" if card.here else "not pinned (the hub's newest; what was got is recorded)"


def _show_published(about: BackboneDetails) -> None:
    if not about.published:
        render.line("no published number of retrieval without training is known to tvr")
        return
    rows = [
        [p.dataset, p.r1, p.frames or "not said", p.pooling or "not said", p.gallery or "not said", p.measured_by,
         p.reproduced_by or "nobody known", p.source]
        for p in about.published
    ]  # fmt: skip
    render.line("published, without any training (not measured by tvr):")
    columns = ("data set", "R@1", "frames", "pooled by", "gallery", "measured by", "reproduced by", "source")
    render.table(None, columns, rows, left=8)
