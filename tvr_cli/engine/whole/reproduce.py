"""From a recipe and a data set to the result beside the published one: doctor, frames, features, training, evaluation.

Every step is the command of its name and skips what is done, so that an interrupted reproduction continues when it is
started again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from tvr_cli import commands, config, data, log
from tvr_cli.backbones import registry
from tvr_cli.config import Resolved
from tvr_cli.data.registry import split_spec
from tvr_cli.engine import scorers
from tvr_cli.engine.device import pick_device
from tvr_cli.engine.evaluation import compare, evaluate
from tvr_cli.engine.evaluation.compare import Published
from tvr_cli.engine.evaluation.evaluate_result import EvaluateReport, claim
from tvr_cli.engine.extraction import estimate as extract_estimate
from tvr_cli.engine.extraction import extract
from tvr_cli.engine.features import cost, precompute
from tvr_cli.engine.features.choose import choose_backbone
from tvr_cli.engine.training import checkpoint, train
from tvr_cli.engine.training.train import TrainOptions
from tvr_cli.engine.whole import dataset_doctor
from tvr_cli.engine.whole.probing import Check
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.methods import base
from tvr_cli.plans import DEFAULT_WORDS, FramePlan, Wish
from tvr_cli.results.base import INLINE, Result, key
from tvr_cli.runs import RunDir
from tvr_cli.types import Manifest
from tvr_cli.workspace import Workspace

STEPS = ("doctor", "extract-frames", "precompute-features", "train", "evaluate")
_FRAME_BYTES = 18_000  # a JPEG of 224 x 224 at quality 90, about
_FEATURE_BYTES = 2  # fp16


@dataclass(frozen=True)
class ReproduceOptions:
    """allow_missing: go on with an incomplete data set; every output then carries the count."""

    assignments: tuple[str, ...] = ()
    device: str = "auto"
    offline: bool = False
    allow_missing: bool = False
    workers: int | None = None


@dataclass(frozen=True)
class DataSet:
    """The data set that was found. missing: how many videos have no file."""

    name: str
    variant: str | None
    missing: int


@dataclass(frozen=True)
class Experiment:
    """What a recipe asks for. reports: every number that its authors published. gpus: how many they trained on.

    notes: what contradicts what in their sources, and which was taken.
    """

    recipe: str
    method: str
    backbone: str | None
    data: DataSet
    reports: Mapping[str, Any]
    gpus: int | None
    notes: Sequence[str]


@dataclass(frozen=True)
class Step:
    """A step of which only its deed is known."""

    step: str
    does: str


@dataclass(frozen=True, kw_only=True)
class MeasuredStep:
    """A step whose size is known. seconds: None where no video could be read to tell."""

    step: str
    does: str
    size_bytes: int = field(metadata=key("bytes"))
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class ReproducePreview(Result):
    """What a reproduction would do, step by step.

    incomplete: what the doctor finds wrong, a sentence each; without --allow-missing the reproduction stops there.
    """

    schema = "reproduce"
    experiment: Experiment = field(metadata=INLINE)
    dry_run: Literal[True] = field(default=True, init=False)
    incomplete: Sequence[str]
    steps: Sequence[MeasuredStep | Step]


@dataclass(frozen=True, kw_only=True)
class ReproduceReport(Result):
    """A recipe's result beside the published one (None where they are not comparable). changed: leaves that differ."""

    schema = "reproduce"
    experiment: Experiment = field(metadata=INLINE)
    dry_run: Literal[False] = field(default=False, init=False)
    run: str
    result: EvaluateReport
    published: Published | None
    changed: Sequence[str]


def resolve(recipe: str, spec: str, assignments: tuple[str, ...]) -> tuple[Resolved, Manifest]:
    """Resolve a recipe for a data set. Raises ConfigError when the data set is not the recipe's."""
    name, root, _ = split_spec(spec)
    manifest = data.load(spec)
    layers = [*config.preset_layers("recipes", recipe), config.flag_layer({"data.root": str(root)})]
    resolved = config.resolve([*layers, config.set_layer(assignments)], scorers.options_schema)
    wanted = resolved.experiment.data
    if name != wanted.name:
        raise ConfigError(f"the recipe {recipe} is for the data set {wanted.name}, found {name} in {spec!r}")
    if wanted.variant is not None and manifest.variant != wanted.variant:
        raise ConfigError(
            f"the recipe {recipe} is for the variant {wanted.variant}; say --data {name}:{root}:{wanted.variant}"
        )
    if wanted.variant is None and not data.find(name).is_own(manifest.variant):
        raise ConfigError(
            f"the recipe {recipe} is for the data set's own protocol, found {manifest.variant}; say --data "
            f"{name}:{root}"
        )
    return resolved, manifest


def dry_run(recipe: str, spec: str, workspace: Workspace, options: ReproduceOptions) -> ReproducePreview:
    """Return what `reproduce` would do: every step with its size and time, writing nothing.

    Times of encoding are those of the towers on this machine in fp32, from their arithmetic; a head's are not in them.
    """
    resolved, manifest = resolve(recipe, spec, options.assignments)
    experiment = resolved.experiment
    wrong = _incomplete(spec)
    frames = FramePlan.from_config(experiment.frames)
    slots = frames.slots or 0
    estimate = extract_estimate.estimate(manifest, workspace, frames, _extract_options(options))
    words, texts = experiment.words.length or DEFAULT_WORDS, len({c.text for c in manifest.captions})
    backbone = registry.skeleton(registry.resolve(choose_backbone(experiment.backbone.name, workspace)))
    speed = cost.tower_speed(pick_device(options.device), torch.float32)
    frame_flops, caption_flops = backbone.cost(words)
    encoded = len(manifest.clips) * slots * frame_flops + texts * caption_flops
    training: MeasuredStep | Step = Step("train", _training(resolved, manifest))
    if experiment.train.tune == "full":
        passes = 3 * experiment.train.epochs * _samples(resolved, manifest)  # forward, and twice that backward
        training = MeasuredStep(
            step=training.step,
            does=training.does,
            size_bytes=checkpoint.bytes_of([backbone], keep=experiment.train.keep_checkpoints),
            seconds=passes * (slots * frame_flops + caption_flops) / speed,
        )
    steps: list[MeasuredStep | Step] = [
        Step("doctor", _verdict(manifest, wrong, options)),
        MeasuredStep(
            step="extract-frames",
            does=f"{estimate.todo} videos to read, {estimate.kept} kept",
            size_bytes=len(manifest.clips) * slots * _FRAME_BYTES,
            seconds=estimate.seconds,
        ),
        MeasuredStep(
            step="precompute-features",
            does="for evaluation, with the tuned backbone" if experiment.train.tune == "full" else "once",
            size_bytes=_FEATURE_BYTES * backbone.dim * (len(manifest.clips) * slots + texts * (words + 1)),
            seconds=encoded / speed,
        ),
        training,
        Step("evaluate", f"split test, {_queries(manifest)}"),
    ]
    return ReproducePreview(
        experiment=_experiment(recipe, resolved, manifest),
        incomplete=[f"{c.name}: {c.detail}" for c in wrong],
        steps=steps,
    )


def reproduce(recipe: str, spec: str, workspace: Workspace, options: ReproduceOptions) -> ReproduceReport:
    """Run every step of a recipe and return the result beside the published one.

    Raises DataError when the data set is incomplete, unless that is allowed.
    """
    resolved, manifest = resolve(recipe, spec, options.assignments)
    _examine(spec, options)
    log.logger.info("extract-frames: %d videos", len(manifest.clips))
    extract.extract(manifest, workspace, FramePlan.from_config(resolved.experiment.frames), _extract_options(options))
    if resolved.experiment.train.tune == "head":
        log.logger.info("precompute-features: %s", resolved.experiment.backbone.name)
    _precompute(resolved, manifest, workspace, options)
    run = workspace.run(recipe)
    if workspace.fingerprint_of(run) is None or not (run.path / "results" / "test.json").is_file():
        _train(resolved, workspace, run, options)
    scorer, store = evaluate.load(workspace, run=run.name, method=resolved.experiment.method, backbone=None)
    log.logger.info("evaluate: split test")
    result = evaluate.evaluate(
        scorer, store, workspace, evaluate.EvaluateOptions(device=options.device, allow_missing=options.allow_missing)
    )
    tree, origins = run.config(), run.origins() or {}
    return ReproduceReport(
        experiment=_experiment(recipe, resolved, manifest),
        run=run.name,
        result=result,
        published=compare.published(claim(result), tree, origins) if not manifest.missing else None,
        changed=config.recipe_changes(origins),
    )


def _experiment(recipe: str, resolved: Resolved, manifest: Manifest) -> Experiment:
    experiment = resolved.experiment
    return Experiment(
        recipe=recipe,
        method=experiment.method,
        backbone=experiment.backbone.name,
        data=DataSet(manifest.name, manifest.variant, len(manifest.missing)),
        reports=dict(experiment.recipe.published or {}) if experiment.recipe else {},
        gpus=experiment.recipe.gpus if experiment.recipe else None,
        notes=experiment.recipe.notes if experiment.recipe else (),
    )


def _examine(spec: str, options: ReproduceOptions) -> None:
    wrong = _incomplete(spec)
    for check in wrong:
        log.logger.warning("warning: %s: %s", check.name, check.detail)
    if wrong and not options.allow_missing:
        raise DataError(
            f"the data set is incomplete ({', '.join(c.name for c in wrong)}; see {commands.tvr('doctor', spec)}); "
            "complete it, or say --allow-missing and every output will carry the count"
        )


def _incomplete(spec: str) -> list[Check]:
    """Return what the doctor finds that makes a data set unfit for its benchmark."""
    return [c for c in dataset_doctor.dataset_checks(spec) if not c.ok and c.incomplete]


def _verdict(manifest: Manifest, wrong: Sequence[Check], options: ReproduceOptions) -> str:
    """Say what the doctor checks and what it will say."""
    total = len(manifest.clips) + len(manifest.missing)
    checks = f"checks {total} videos, {len(manifest.captions)} captions"
    if not wrong:
        return f"{checks}: complete"
    ends = "goes on, and every output carries the count" if options.allow_missing else "stops here"
    return f"{checks}: incomplete, {ends} ({'; '.join(f'{c.name}: {c.detail}' for c in wrong)})"


def _queries(manifest: Manifest) -> str:
    """Say how many queries each direction has: a video without a caption is a candidate and no query."""
    there = {clip.id for clip in manifest.clips}
    tested = [c.video for c in manifest.captions if c.split == "test" and c.video in there]
    return f"t2v {len(tested)} captions, v2t {len(set(tested))} videos"


def _extract_options(options: ReproduceOptions) -> extract.ExtractOptions:
    return extract.ExtractOptions(workers=options.workers)


def _precompute(resolved: Resolved, manifest: Manifest, workspace: Workspace, options: ReproduceOptions) -> None:
    experiment = resolved.experiment
    wish = Wish.from_experiment(experiment, base.load_class(experiment.method).needs)
    asked = wish.options(device=options.device, offline=options.offline)
    precompute.precompute(workspace, experiment.backbone.name, manifest, asked)


def _train(resolved: Resolved, workspace: Workspace, run: RunDir, options: ReproduceOptions) -> None:
    resume = run.begun
    log.logger.info("train: %s", "continuing" if resume else run.name)
    train.train(
        resolved,
        workspace,
        TrainOptions(run=run.name, resume=resume, device=options.device, offline=options.offline),
    )


def _samples(resolved: Resolved, manifest: Manifest) -> int:
    """Return the number of pairs that an epoch trains on."""
    videos = [c.video for c in manifest.captions if c.split == "train"]
    return len(videos) if resolved.experiment.train.captions == "all" else len(set(videos))


def _training(resolved: Resolved, manifest: Manifest) -> str:
    experiment = resolved.experiment.train
    found = sum(c.split == "train" for c in manifest.captions)
    steps = experiment.epochs * (_samples(resolved, manifest) // experiment.batch_size)
    size = data.find(manifest.name).sizes(manifest.variant).get("train")
    whole = f" (the whole set: {size.captions} captions)" if size and size.captions != found else ""
    return (
        f"{experiment.tune} tuning, {experiment.epochs} epochs, about {steps} steps of {experiment.batch_size}{whole}"
    )
