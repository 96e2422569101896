"""The features that a run trains on: the store it fits, or one made for it from the frames that are there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import log
from tvr_cli.config import Experiment
from tvr_cli.engine.selection import CAPTIONS_EXAMPLE
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.methods import base
from tvr_cli.runs import RunDir
from tvr_cli.stores.features import FeatureStore
from tvr_cli.types import Sizes

DEFAULT_BACKBONE = "clip-vit-b32"


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


def find(workspace: Path, wish: Wish) -> tuple[FeatureStore | None, list[str]]:
    """Return the newest finished store that fits, or None and what kept the newest one from fitting."""
    newest = FeatureStore.newest(workspace, wish.backbone)
    if newest is None:
        return None, []
    reasons = wish.differences(newest)
    if not reasons:
        return newest, []
    stores = [p.parent for p in (workspace / "features").glob("*/state.json")]
    for folder in sorted(stores, key=lambda p: (p / "state.json").stat().st_mtime_ns, reverse=True):
        store = FeatureStore.open(folder)
        if not wish.differences(store):
            return store, []
    return None, reasons


def require(
    workspace: Path, wish: Wish, *, captions: Path | None = None, device: str = "auto", offline: bool = False
) -> FeatureStore:
    """Return the store to train on, computing features first where only frames exist (which is said).

    Raises DataError when there are no frames or no captions, StoreMismatch when the frames do not have the wanted plan.
    """
    store, reasons = find(workspace, wish)
    if store is None or captions is not None or not store.captions:
        store = _compute(workspace, wish, store, reasons, captions, device, offline)
    if not store.captions:
        raise DataError(
            "expected captions to train on, found none beside the videos. Write a captions.jsonl like this and give it "
            f"with --captions captions.jsonl:\n{CAPTIONS_EXAMPLE}"
        )
    return store


def expected_sizes(workspace: Path, wish: Wish) -> Sizes:
    """Return the sizes of features that do not exist yet: from the plans, the frames and the backbone's name."""
    from tvr_cli.backbones.source import resolve

    source = resolve(backbone_name(workspace, wish))
    slots = wish.frames.get("num_frames") or wish.frames.get("max_frames")
    if slots is None and (workspace / "frames" / "store.json").is_file():
        from tvr_cli.stores.frames import FrameStore

        slots = FrameStore.open(workspace / "frames").plan.slots
    words = wish.words.get("length") or min(32, source.context_length)
    return Sizes(source.dim, slots or 12, words)


def backbone_name(workspace: Path, wish: Wish) -> str:
    """Return the backbone to make features with: the one wished for, the newest store's, or the default."""
    if wish.backbone is not None:
        return wish.backbone
    newest = FeatureStore.newest(workspace)
    return newest.backbone_name if newest else DEFAULT_BACKBONE


def of_run(workspace: Path, run: RunDir) -> FeatureStore:
    """Open the store that a run was begun on. Raises StoreMismatch when it is no longer there."""
    fingerprint = run.env().get("store")
    folder = workspace / "features" / str(fingerprint)
    if not (folder / "state.json").is_file():
        raise StoreMismatch(
            f"the run {run.name!r} was begun on the features {fingerprint}, which are not in "
            f"{str(workspace / 'features')!r}; make them again with tvr precompute-features"
        )
    return FeatureStore.open(folder)


def _compute(
    workspace: Path,
    wish: Wish,
    store: FeatureStore | None,
    reasons: list[str],
    captions: Path | None,
    device: str,
    offline: bool,
) -> FeatureStore:
    from tvr_cli.engine import precompute

    if not (workspace / "frames" / "store.json").is_file():
        if reasons:
            raise StoreMismatch(
                f"no feature store of {str(workspace)!r} fits (the newest: {'; '.join(reasons)}), and there are no "
                "frames to make one from; run: tvr extract-frames VIDEOS"
            )
        if store is not None:
            return store
        raise DataError(
            f"expected frames or features in {str(workspace)!r}, found none; start with: "
            f"tvr extract-frames VIDEOS -o {workspace}"
        )
    why = "; ".join(reasons) or ("the captions are to be read" if store is not None else "there are none yet")
    log.logger.info("computing features first (tvr precompute-features): %s", why)
    options = precompute.PrecomputeOptions(device=device, offline=offline)
    return precompute.precompute(workspace, wish.backbone, captions, options).store
