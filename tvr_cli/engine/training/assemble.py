"""Putting a training run together: what is trained, and where its batches come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tvr_cli import commands
from tvr_cli.backbones import registry
from tvr_cli.backbones.base import Backbone, Description
from tvr_cli.config import Experiment, Resolved, TrainConfig
from tvr_cli.engine import scorers
from tvr_cli.engine.features import sentences
from tvr_cli.engine.features.choose import choose_for
from tvr_cli.engine.features.precompute import backbone_of
from tvr_cli.engine.training import precision
from tvr_cli.engine.training.learner import Learner
from tvr_cli.engine.training.live import LiveSource
from tvr_cli.engine.training.ranks import ALONE, Ranks
from tvr_cli.engine.training.sources import CachedSource, FeatureSource
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem
from tvr_cli.methods import base
from tvr_cli.methods.base import Method
from tvr_cli.plans import Wish
from tvr_cli.scale import Scale
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.types import Sizes
from tvr_cli.workspace import Workspace

# Leaves of `train` with a least value: 1, and 0.
_COUNTS = (
    *("epochs", "steps", "accumulate", "schedule_epochs", "grad_cache"),
    *("validate_every", "patience", "checkpoint_every", "keep_checkpoints"),
)
_RATES = ("seed", "lr", "backbone_lr", "logit_scale_lr", "weight_decay", "warmup", "grad_clip")


def require_trainable(
    name: str,
    options: Mapping[str, Any],
    train: TrainConfig,
    *,
    workspace: Workspace | None = None,
    backbone: str | None = None,
) -> None:
    """Raise ConfigError for a method without a loss or parameters that would move.

    workspace, backbone: what the commands in the message name, as the one that was typed did.
    """
    method = base.build(name, Sizes(dim=128, frames=4, words=16), options)  # small: only its parameters are looked at
    if type(method).loss is Method.loss or (train.tune == "head" and not method.trains):
        tuned = "" if type(method).loss is Method.loss else " while the backbone is frozen (--tune full trains it)"
        frozen = commands.tvr("train", method=method.trainable_preset, backbone=backbone, workspace=workspace)
        raise ConfigError(
            f"{name} has nothing to train{tuned}; score with it directly: "
            + commands.tvr("evaluate", method=name, backbone=backbone, workspace=workspace)
            + (f", or train its form for frozen features: {frozen}" if method.trainable_preset and tuned else "")
        )


def require_in_range(train: TrainConfig) -> None:
    """Raise ConfigError for values of a training that are out of range."""
    if train.batch_size < 2:
        raise ConfigError(
            f"train.batch_size: expected at least 2, found {train.batch_size}; every loss compares pairs with others"
        )
    for name in (*_COUNTS, *_RATES):
        value, least = getattr(train, name), 1 if name in _COUNTS else 0
        if value is not None and not least <= value < math.inf:
            raise ConfigError(f"train.{name}: expected {least} or more, found {value}")
    if train.warmup > 1:
        raise ConfigError(f"train.warmup: expected a fraction of all steps, 0 to 1, found {train.warmup}")


def require_named_backbone(resolved: Resolved) -> None:
    """Raise DataError where only a file names a backbone that is a module of another package."""
    name, origin = resolved.experiment.backbone.name, resolved.origins.get("backbone.name", "")
    if name is not None:
        registry.require_named(name, name if origin in ("flag", "--set") else None, Path(origin))


def require_backbone(experiment: Experiment, workspace: Workspace, wish: Wish, store: FeatureStore | None) -> None:
    """Refuse, before anything is computed, what the backbone of a run makes impossible in the end.

    store: the features that the run would take, None while there are none. Raises StoreMismatch for a method that needs
    what is not provided, ConfigError for `tune: full` with a backbone that cannot be saved.
    """
    name, full = experiment.method, experiment.train.tune == "full"
    small = base.build(name, Sizes(dim=128, frames=4, words=16), experiment.options)  # only its needs are looked at
    if store is not None:
        whose = f"the feature store of {store.backbone_name} has"
        scorers.require_features(name, small, store.provides, whose, workspace, wish.backbone)
        if full and store.imported is not None:
            raise DataError(
                f"--tune full runs the backbone on frames, and the features in {str(store.root)!r} were imported "
                "without any; train the head alone (--tune head)"
            )
    if store is not None and (full or type(small).init_from_backbone is not Method.init_from_backbone):
        registry.require_named(store.backbone_name, wish.backbone, store.root)  # it will be loaded
    if not full and (store is not None or not workspace.has_frames):
        return  # a store's backbone need not be here; without frames nothing is computed, which is said later
    about = _backbone_of_run(workspace, wish, store)
    if store is None:
        whose = f"the backbone {about.name} provides"
        scorers.require_features(name, small, about.provides | {"importance"}, whose, workspace, wish.backbone)
    if full and (why := about.kind.cannot_save(about)):
        raise ConfigError(
            f"--tune full leaves a tuned backbone behind, and {about.name!r} cannot be saved: {why}. Train the head "
            f"alone (--tune head), or take another backbone ({commands.tvr('backbones')})"
        )


def build_learner(
    resolved: Resolved, store: FeatureStore, *, offline: bool, device: torch.device, scale: Scale | None = None
) -> Learner:
    """Make what is trained: the method with its initial weights, a function of the seed and of the backbone's weights.

    With `tune: full` the backbone comes with it, in the precision that the experiment asks for. scale: as in
    `scorers.build`.
    """
    experiment = resolved.experiment
    torch.manual_seed(experiment.train.seed)
    method = scorers.build(experiment, store, scale)
    full = experiment.train.tune == "full"
    backbone = None
    named = experiment.backbone.name
    with torch.no_grad():
        if full:
            backbone = backbone_of(store, named=named, offline=offline, device="cpu")
            method.init_from_backbone(backbone.text_tower(), backbone.logit_scale)
        elif type(method).init_from_backbone is not Method.init_from_backbone:
            method.init_from_backbone(*sentences.text_tensors_of(store, named=named, offline=offline))
    learner = Learner(method, backbone if full else None).to(device)
    if learner.clip is not None:
        _prepare(learner.clip, experiment.train, device)
    return learner


def skeleton(workspace: Workspace, wish: Wish, store: FeatureStore | None) -> Backbone:
    """Return the backbone without its weights, for its parameters' names and shapes. Raises like the backbone would."""
    return registry.skeleton(_backbone_of_run(workspace, wish, store), temporal_shift=bool(wish.temporal_shift))


def build_source(
    store: FeatureStore,
    learner: Learner,
    train: TrainConfig,
    device: torch.device,
    *,
    workspace: Workspace,
    workers: int | None,
    ranks: Ranks = ALONE,
) -> FeatureSource:
    """Cached features for a head; frames through the backbone where it is tuned. Raises DataError without frames.

    ranks: of whose batches the source gives this one's part.
    """
    if learner.clip is None:
        own = None if ranks.world == 1 else partial(ranks.own, batch_size=train.batch_size)
        return CachedSource(store, device, patches=learner.method.reads_patches, own=own)
    if not workspace.has_frames:
        raise DataError(
            f"--tune full runs the backbone on frames, and {str(workspace)!r} holds none; "
            f"run: {commands.tvr('extract-frames', commands.VIDEOS, workspace=workspace)}"
        )
    return LiveSource(store, workspace.frames_folder, learner.clip, train, device, workers=workers, ranks=ranks)


def _backbone_of_run(workspace: Workspace, wish: Wish, store: FeatureStore | None) -> Description:
    if store is None:
        return registry.resolve(choose_for(wish, workspace))
    registry.require_named(store.backbone_name, wish.backbone, store.root)
    return registry.resolve(store.backbone_name)


def _prepare(backbone: Backbone, train: TrainConfig, device: torch.device) -> None:
    backbone.requires_grad_(True)
    if train.clip_precision == "fp16":
        if device.type == "cpu":
            raise EnvironmentProblem(
                "train.clip_precision: fp16 towers need a GPU, this run has none. In fp32 another rate does as much:"
                " --set train.clip_precision=fp32 --set train.backbone_lr=1e-6 (docs/training.md says why)"
            )
        precision.to_half_towers(backbone)
    if train.grad_checkpointing:
        backbone.set_grad_checkpointing(True)
