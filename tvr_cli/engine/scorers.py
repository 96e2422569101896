"""Which method, with which weights, on which features: what `evaluate`, `index` and `query` start from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tvr_cli import commands, config, log
from tvr_cli.commands import Folder
from tvr_cli.config import Experiment, Resolved
from tvr_cli.defaults import DEFAULT_METHOD, DEFAULT_OF_CLIPS, named_backbone
from tvr_cli.engine import suggest
from tvr_cli.errors import ConfigError, DataError, MethodNotNamed, StoreMismatch
from tvr_cli.files import sha256_file
from tvr_cli.methods import base
from tvr_cli.methods.base import Method
from tvr_cli.runs import RunDir
from tvr_cli.scale import Scale
from tvr_cli.stores import run_header, run_weights
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.types import Encoding, TextFeatures, VideoFeatures
from tvr_cli.workspace import Workspace


@dataclass(frozen=True)
class Scorer:
    """A method ready to score. run: None for a method without training. checkpoint: sha256 of the trained weights."""

    method: Method
    name: str
    experiment: Experiment
    run: RunDir | None
    checkpoint: str | None

    def identity(self) -> dict[str, Any]:
        """Return what makes two scorers the same: method, options, sizes, weights, and factors of features where they
        are not CLIP's.
        """
        return {
            "method": self.name,
            "run": self.run.name if self.run else None,
            "options": self.experiment.options_hash(),
            "sizes": asdict(self.method.sizes),
            "checkpoint": self.checkpoint,
            **scale_said(self.method.scale),
        }


def load_method(workspace: Path | str, *, run: str | None = None, method: str | None = None) -> Method:
    """Return a method ready to score: a run's best weights, or one without training, for the workspace's features.

    A run whose method is not built in needs both: a run's files alone never import a module.
    """
    found_in = Workspace.at(workspace)
    check_named(found_in, run, method)
    found = found_in.find_run(run) if run is not None else None
    store = store_for(found_in, found, None)
    return (trained(found, store, method) if found else untrained(method or default_for(store), store)).method


def default_for(store: FeatureStore) -> str:
    """Return the method that answers where none was named and none trained; for a store of one vector a clip, said."""
    if "frames" in store.provides or "video.pooled" not in store.provides:
        return DEFAULT_METHOD
    log.logger.info(
        "the features of %s have one vector a clip and no frames: %s answers", store.backbone_name, DEFAULT_OF_CLIPS
    )
    return DEFAULT_OF_CLIPS


def options_schema(name: str) -> type:
    """Return the dataclass of a method's options, for `config.resolve`."""
    return base.load_class(name).Config


def resolve_method(name: str, assignments: list[str] | None = None) -> Resolved:
    """Resolve a method's preset (or a third party's method) with `--set` values on top."""
    return config.resolve([*method_layers(name), config.set_layer(assignments or [])], options_schema)


def method_layers(name: str) -> list[config.Layer]:
    """Return what a method's name stands for: its preset, of a third party's method its defaults."""
    return [config.method_layer(name)] if base.third_party(name) else config.preset_layers("methods", name)


def untrained(name: str, store: FeatureStore, assignments: list[str] | None = None) -> Scorer:
    """Make a method that needs no training. Raises ConfigError when it has parameters that training must set."""
    return untrained_as(resolve_method(name, assignments), store)


def untrained_as(resolved: Resolved, store: FeatureStore) -> Scorer:
    """Make the method of an experiment without training. Raises as `untrained`."""
    method = build(resolved.experiment, store)
    if method.trains:
        raise ConfigError(_needs_a_run(resolved.experiment.method, store))
    return Scorer(method.eval(), resolved.experiment.method, resolved.experiment, None, None)


def _needs_a_run(method: str, store: FeatureStore) -> str:
    """Say what scores with a method that has parameters: a run of it where the store's workspace has one."""
    workspace = store.workspace if isinstance(store.workspace, Workspace) else None
    runs = [run for run in (workspace.runs() if workspace else []) if method in run.config().get("method", {})]
    if runs:
        run, own = runs[0].name, commands.own_method(method)
        evaluate = commands.tvr("evaluate", run, **own, workspace=workspace)
        query = commands.tvr("query", "a dog surfing", run=run, **own, workspace=workspace)
        return f"{method} has parameters, so a run of it scores; name the run: {evaluate}, or: {query}"
    train = commands.tvr("train", method=method, workspace=store.workspace)
    return f"{method} has parameters and no run was named; train it: {train}"


def experiment_of(run: RunDir, named: str | None = None) -> Resolved:
    """Resolve the configuration that a run stores. named: its method, where the command or the caller names it too.

    Raises MethodNotNamed where the run's method is not built in and nobody named it, ConfigError where they named
    another.
    """
    try:
        return config.from_tree(run.config(), options_schema, str(run.config_path), named=named)
    except MethodNotNamed as e:
        e.run = run.name
        raise


def trained(run: RunDir, store: FeatureStore, named: str | None = None) -> Scorer:
    """Load a run's best weights for the features that they go with (`Workspace.features_of`). Raises as
    `experiment_of` does.
    """
    resolved = experiment_of(run, named)
    method = build(resolved.experiment, store, scale_of_run(run.env()))
    path = run_header.best_path(run.checkpoints)
    run_weights.load_model(method, run_weights.read(path))
    return Scorer(method.eval(), resolved.experiment.method, resolved.experiment, run, sha256_file(path))


def scale_said(scale: Scale) -> dict[str, Any]:
    """Return what a run's environment and an index's identity say of factors: nothing where features are CLIP's."""
    return {} if scale == Scale() else {"scale": asdict(scale)}


def scale_of_run(env: Mapping[str, Any]) -> Scale:
    """Return the factors that a run was trained with: its store may have grown since, its weights have not."""
    return Scale(**env.get("scale", {}))


def build(experiment: Experiment, store: FeatureStore, scale: Scale | None = None) -> Method:
    """Build an experiment's method for a store. scale: of features, None = what the store's own norms ask for.

    Raises StoreMismatch when the store lacks features it needs.
    """
    method = base.build(experiment.method, store.sizes, experiment.options)
    bare = f", in which {store.frameless} of {len(store.clips)} clips have no frame," if store.frameless else ""
    whose = f"the feature store of {store.backbone_name}{bare} has"
    require_features(experiment.method, method, store.provides, whose, store.workspace, store.backbone_name)
    if method.counts_on_length:
        method.scale = store.scale if scale is None else scale
    return method


def require_features(
    name: str, method: Method, provides: Iterable[str], whose: str, workspace: Folder | None, backbone: str | None
) -> None:
    """Raise StoreMismatch where a method needs what is not provided, with the two ways out.

    whose: words in front of what is provided, like "the feature store of clip-vit-b32 has". workspace, backbone: what
    a command in the message names.
    """
    there = frozenset(provides)
    lacking = sorted(method.needs - there)
    if not lacking:
        return
    make = partial(commands.tvr, "precompute-features", backbone=backbone, workspace=workspace)
    more = {
        "importance": f"Run: {make(word_importance='stopwords')}",
        "video.patches": f"Where the backbone is a CLIP ViT, run: {make(patches=True)}",
    }
    fix = (
        more[lacking[0]]
        if len(lacking) == 1 and lacking[0] in more
        else f"Take a backbone that provides them ({commands.tvr('backbones')} lists what each does), or a method that "
        f"needs no more: {', '.join(suggest.fitting(there)) or 'there is none'}"
    )
    raise StoreMismatch(f"{name} needs {', '.join(lacking)}; {whose} {', '.join(sorted(there))}. {fix}")


def check_named(workspace: Workspace, run: str | None, method: str | None) -> None:
    """Refuse what no workspace could answer, before looking at its features.

    Raises ConfigError for an unknown method, or for a run and another method than its own, DataError for an unknown
    run.
    """
    if run is not None and method is not None and (own := _method_of(workspace, run)) != method:
        known = f"; the run's method is {own}" if own else ""
        raise ConfigError(f"name a run ({run!r}) or --method {method}, not both{known}")
    if method is not None:
        base.load_class(method)
    if run is not None:
        workspace.find_run(run)


def _method_of(workspace: Workspace, run: str) -> str | None:
    """Return the name of a run's method, None where there is no such run; nothing is imported."""
    try:
        found = workspace.find_run(run)
    except DataError:
        return None
    return config.method_of([config.Layer(found.config(), str(found.config_path))])


def store_for(workspace: Workspace, run: RunDir | None, backbone: str | None) -> FeatureStore:
    """Open the features that a run goes with, else those that a backbone made (the flag's, else TVR_BACKBONE's), else
    the newest. Raises as `Workspace.features_of` and `features_for`.
    """
    if run is not None:
        return workspace.features_of(run)
    return workspace.features_for(named_backbone(backbone))


def announce(scorer: Scorer, store: FeatureStore) -> None:
    """Say on stderr which method, run and store were taken."""
    what = f"run {scorer.run.name!r} ({scorer.name})" if scorer.run else f"method {scorer.name}, no training"
    log.logger.info("using %s on features %s (%s)", what, store.fingerprint, store.backbone_name)


@torch.no_grad()
def encode_texts(method: Method, text: TextFeatures, *, batch: int = 256) -> Encoding:
    """Encode captions in batches, on the method's device."""
    device = device_of(method)
    parts = [method.encode_text(text.rows(slice(i, i + batch)).to(device)) for i in range(0, len(text), batch)]
    return Encoding.cat(parts)


@torch.no_grad()
def encode_videos(method: Method, video: VideoFeatures, *, batch: int = 256) -> Encoding:
    """Encode clips in batches, on the method's device."""
    device = device_of(method)
    parts = [method.encode_video(video.rows(slice(i, i + batch)).to(device)) for i in range(0, len(video), batch)]
    return Encoding.cat(parts)


def device_of(method: Method) -> torch.device:
    """Return where a method's parameters and buffers lie, the CPU for one without any."""
    tensor = next(method.parameters(), next(method.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device
