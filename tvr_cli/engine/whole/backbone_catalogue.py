"""What backbones there are, what each is and yields, and whether its weights are on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tvr_cli.backbones import registry
from tvr_cli.backbones.published import PublishedScore
from tvr_cli.engine.whole.backbone_get import GetReport, get
from tvr_cli.engine.whole.backbone_speed import Speed, speed_of
from tvr_cli.errors import TvrError
from tvr_cli.results.base import INLINE, OPTIONAL, Result


@dataclass(frozen=True, kw_only=True)
class BackboneCard:
    """A backbone, without its weights. source: what they are called there. here: whether they are on this machine.

    fit, filter: how a picture becomes the square of `pixels` that it takes. licence: of its weights, empty where tvr
    does not know it. page: of their authors. revision: the commit that its name pins, None = the newest. commit: of
    what is on this machine, where the hub's cache knows it. languages: of captions, `mul` = many. frames: of a clip,
    where it takes no other number.
    """

    name: str
    library: str
    source: str
    pixels: int
    fit: str
    filter: str
    licence: str
    non_commercial: bool
    dim: int
    context: int
    provides: Sequence[str]
    here: bool
    page: str
    revision: str | None
    commit: str | None
    languages: Sequence[str]
    frames: int | None


@dataclass(frozen=True, kw_only=True)
class BackboneDetails:
    """A backbone, with what it takes its skeleton to know. tunable: whether `--tune full` can keep it.

    download_bytes: of what is fetched for it; estimated from its parameters where download_estimated. published: what
    others measured, without any training. speed: measured here, where that was asked for.
    """

    card: BackboneCard = field(metadata=INLINE)
    weights: Path | None
    expected_at: str | None
    versions: Mapping[str, str | None]
    parameters: int
    flop_a_frame: float
    flop_a_caption: float
    tunable: bool
    methods: Sequence[str]
    download_bytes: int
    download_estimated: bool
    published: Sequence[PublishedScore]
    speed: Speed | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class BackboneProblem:
    """A backbone of an installed package that cannot be described, and why."""

    name: str
    problem: str


@dataclass(frozen=True)
class BackbonesReport(Result):
    """The backbones that were asked for."""

    schema = "backbones"
    backbones: Sequence[BackboneDetails | BackboneCard | BackboneProblem]


def packages() -> list[str]:
    """Return what pip calls the libraries that the shipped backbones come from."""
    return sorted(registry.packages().values())


def answer(action: str | None, name: str | None, *, measure: bool, dry_run: bool) -> BackbonesReport | GetReport:
    """Do what `tvr backbones` was asked for: `get` fetches one, `show` describes one, None describes all."""
    return get(name or "", dry_run=dry_run) if action == "get" else backbones(name, measure=measure)


def backbones(name: str | None = None, *, measure: bool = False) -> BackbonesReport:
    """Describe one backbone in full, or every one that has a name: presets, and those of installed packages.

    measure: whether to encode a few frames with the one that is named, to say how long one takes here.
    Of several, one that cannot be described has its problem, in words: the others are listed all the same. Raises what
    `registry.resolve` raises where one is named.
    """
    if name is not None:
        found = details(name)
        if measure:
            found = replace(found, speed=speed_of(name))
        return BackbonesReport([found])
    return BackbonesReport([_described_or_problem(each) for each in registry.names()])


def describe(name: str) -> BackboneCard:
    """Describe a backbone without its weights. Raises what `registry.resolve` raises."""
    about = registry.resolve(name)
    return BackboneCard(
        name=name,
        library=about.kind.library or about.kind.__module__.partition(".")[0],
        source=about.source,
        pixels=about.image_size,
        fit=about.fit,
        filter=about.filter,
        licence=about.licence,
        non_commercial=about.non_commercial,
        dim=about.dim,
        context=about.context_length,
        provides=sorted(about.provides),
        here=about.weights is not None,
        page=about.card.source,
        revision=about.revision,
        commit=about.commit,
        languages=list(about.card.languages),
        frames=about.frames,
    )


def details(name: str) -> BackboneDetails:
    """Describe a backbone with what it takes its skeleton to know: parameters, operations, the methods it serves."""
    from tvr_cli.engine import suggest
    from tvr_cli.engine.features import cost

    about = registry.resolve(name)
    skeleton = registry.skeleton(about)
    a_frame, a_caption = skeleton.cost(about.context_length)
    to_download, estimated = cost.download_bytes(skeleton)
    usable = suggest.fitting(about.provides | {"importance"})
    parameters = sum(p.numel() for p in skeleton.parameters())
    return BackboneDetails(
        card=describe(name),
        weights=about.weights,
        expected_at=about.expected_at or None,
        versions=about.kind.versions(),
        parameters=parameters,
        flop_a_frame=a_frame,
        flop_a_caption=a_caption,
        tunable=not about.kind.cannot_save(about),
        methods=sorted(usable),
        download_bytes=to_download,
        download_estimated=estimated,
        published=list(about.card.published),
    )


def _described_or_problem(name: str) -> BackboneCard | BackboneProblem:
    try:
        return describe(name)
    except TvrError as e:
        return BackboneProblem(name, str(e))
