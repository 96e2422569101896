"""The features that a run trains on: the store it fits, or one made for it from the frames that are there."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import commands, log
from tvr_cli.backbones import registry
from tvr_cli.config import Experiment
from tvr_cli.data.jsonl import CAPTIONS_EXAMPLE
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.methods import base
from tvr_cli.runs import RunDir
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.types import Manifest, Sizes
from tvr_cli.workspace import Workspace


@dataclass(frozen=True)
class Wish:
    """What an experiment asks of its features; None = whatever is there."""

    backbone: str | None
    temporal_shift: bool | None
    shape: str | None
    frames: dict[str, Any]
    words: dict[str, Any]
    importance: str | None

    def differences(self, store: FeatureStore) -> list[str]:
        """Return, in words, what keeps a store from being the one; empty = it fits."""
        pairs: list[tuple[str, Any, Any]] = [
            ("shape", self.shape, store.identity.get("shape")),
            ("words.importance", self.importance, store.word_importance),
            ("backbone.temporal_shift", self.temporal_shift, store.identity.get("backbone", {}).get("temporal_shift")),
        ]
        pairs += [(f"frames.{k}", v, getattr(store.frame_plan, k)) for k, v in self.frames.items()]
        pairs += [(f"words.{k}", v, getattr(store.word_plan, k)) for k, v in self.words.items()]
        told = [
            f"{name} is {has!r}, {want!r} is wanted" for name, want, has in pairs if want is not None and want != has
        ]
        if self.backbone is not None and not store.made_by(self.backbone):
            told.insert(0, f"its backbone is {store.backbone_name}, {self.backbone} is wanted")
        return told


def wish_of(experiment: Experiment) -> Wish:
    """Read off an experiment what its features must be."""
    frames = {k: getattr(experiment.frames, k) for k in ("kind", "num_frames", "fps", "max_frames", "size")}
    words = {k: getattr(experiment.words, k) for k in ("shape", "length")}
    needs_importance = "importance" in base.load_class(experiment.method).needs
    return Wish(
        experiment.backbone.name or os.environ.get("TVR_BACKBONE"),
        experiment.backbone.temporal_shift,
        experiment.shape,
        {k: v for k, v in frames.items() if v is not None},
        {k: v for k, v in words.items() if v is not None},
        experiment.words.importance or ("stopwords" if needs_importance else None),
    )


def find(workspace: Workspace, wish: Wish) -> tuple[FeatureStore | None, list[str]]:
    """Return the newest finished store that fits, or None and what kept the newest one from fitting."""
    newest: list[str] = []
    for store in workspace.given_features() if wish.backbone is None else workspace.all_features():
        if not (reasons := wish.differences(store)):
            return store, []
        newest = newest or reasons
    return None, newest


def require(
    workspace: Workspace,
    wish: Wish,
    *,
    captions: Path | Manifest | None = None,
    device: str = "auto",
    offline: bool = False,
) -> FeatureStore:
    """Return the store to train on, computing features first where they are missing or stale (which is said).

    Raises DataError when there are no frames or no captions, StoreMismatch when the frames do not have the wanted plan.
    """
    store, reasons = find(workspace, wish)
    why = "; ".join(reasons) or stale(workspace, store, captions)
    if store is None or why:
        store = _compute(workspace, wish, store, why, captions, device, offline)
    if not store.captions:
        raise DataError(
            "expected captions to train on, found none beside the videos. Write a captions.jsonl like this and give it "
            "with --captions captions.jsonl:",
            example=CAPTIONS_EXAMPLE,
        )
    return store


def expected_sizes(workspace: Workspace, wish: Wish) -> Sizes:
    """Return the sizes of features that do not exist yet: from the plans, the frames and the backbone's name."""
    from tvr_cli.engine.features.precompute import choose_backbone

    backbone = registry.resolve(choose_backbone(wish.backbone, workspace))
    slots = wish.frames.get("num_frames") or wish.frames.get("max_frames")
    if slots is None and workspace.has_frames:
        slots = workspace.frames().plan.slots
    words = wish.words.get("length") or min(32, backbone.context_length)
    return Sizes(backbone.dim, slots or 12, words)


def of_run(workspace: Workspace, run: RunDir) -> FeatureStore:
    """Open the store that a run was begun on. Raises StoreMismatch when it is no longer there."""
    fingerprint = str(run.env().get("store"))
    if not (workspace.feature_folder(fingerprint) / "state.json").is_file():
        raise StoreMismatch(
            f"the run {run.name!r} was begun on the features {fingerprint}, which are not in "
            f"{str(workspace.features_folder)!r}; make them again with " + commands.tvr("precompute-features")
        )
    return workspace.features(fingerprint)


def stale(workspace: Workspace, store: FeatureStore | None, captions: Path | Manifest | None = None) -> str:
    """Return, in words, why the features are to be looked at again; empty = they are as the frames and captions are."""
    if store is None or not workspace.has_frames:
        return ""
    if captions is not None:
        return "captions were named"
    return workspace.outdated(store) or ("" if store.captions else "there are no captions yet")


def _compute(
    workspace: Workspace,
    wish: Wish,
    store: FeatureStore | None,
    why: str,
    captions: Path | Manifest | None,
    device: str,
    offline: bool,
) -> FeatureStore:
    from tvr_cli.engine.features import precompute

    if not workspace.has_frames:
        if why:
            raise StoreMismatch(
                f"no feature store of {str(workspace)!r} fits (the newest: {why}), and there are no frames to make one "
                f"from; run: {commands.tvr('extract-frames', 'VIDEOS', workspace=workspace)}"
            )
        raise DataError(
            f"expected frames or features in {str(workspace)!r}, found none; start with: "
            + commands.tvr("extract-frames", "VIDEOS", workspace=workspace)
        )
    making = commands.tvr("precompute-features")
    log.logger.info("computing features first (%s): %s", making, why or "there are none yet")
    # A store that only needs a refresh keeps its own plans.
    plans = wish if store is None else dataclasses.replace(
        wish, shape=store.shape, importance=store.word_importance,
        words={"shape": store.word_plan.shape, "length": store.word_plan.length},
        temporal_shift=bool(store.identity["backbone"]["temporal_shift"]), backbone=store.backbone_name,
    )  # fmt: skip
    if store is not None:
        registry.require_named(store.backbone_name, wish.backbone, store.root)
    options = precompute.PrecomputeOptions(
        shape=plans.shape or "fixed",  # type: ignore[arg-type]
        words=plans.words.get("shape"),
        max_words=plans.words.get("length"),
        temporal_shift=bool(plans.temporal_shift),
        word_importance=plans.importance or "none",
        device=device,
        offline=offline,
    )
    made = precompute.precompute(workspace, plans.backbone, captions, options).store
    assert made is not None, "only a dry run makes no store"
    if differences := wish.differences(made):
        raise StoreMismatch(
            f"the frames in {str(workspace.frames_folder)!r} do not fit: {'; '.join(differences)}; extract them again: "
            f"{commands.tvr('extract-frames', 'VIDEOS', overwrite=True, workspace=workspace)}, with the wanted plan"
        )
    return made
