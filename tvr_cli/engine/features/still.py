"""Features of a picture that somebody names, as those of a frame of the library."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tvr_cli.backbones.base import Backbone
from tvr_cli.engine.features.encode import clip_features
from tvr_cli.engine.features.frame_loader import seen
from tvr_cli.plans import FramePlan
from tvr_cli.stores.decoding import still
from tvr_cli.stores.features.store import FeatureStore


@torch.no_grad()
def encode(model: Backbone, path: Path, store: FeatureStore, *, whole: bool) -> Tensor:
    """Return what the backbone of a store makes of a picture: [D], un-normalised, on the CPU.

    It is cut and compressed as the store's frames were. whole: the vector of a clip that shows nothing else, instead of
    that of a frame. Raises DataError for what is no picture.
    """
    # How somebody else's frames were cut is not known.
    plan = FramePlan() if store.imported is not None else FramePlan.from_identity(store.identity["frames"])
    square = seen(still.read(path, plan), plan, model.about.view)
    pixels = torch.from_numpy(square.copy()).permute(2, 0, 1).to(model.device)
    frames = store.sizes.frames if model.shifts_patches else 1
    shown = pixels.expand(1, frames, *pixels.shape)
    times = torch.arange(frames, dtype=torch.float64, device=model.device)[None]
    real = torch.ones(1, frames, dtype=torch.bool, device=model.device)
    found = clip_features(model, shown, real, "ragged" if frames == 1 else "fixed", times=times)
    vector = found.pooled if whole else None if found.frames is None else found.frames[:, frames // 2]
    assert vector is not None, "whoever asks knows what the store provides"
    return vector[0].float().cpu()
