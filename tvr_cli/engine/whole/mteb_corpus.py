"""Videos that somebody hands over as bytes, as features: by the sampler, the plans and the backbone of a feature store.

They get a workspace of their own, in which everything goes by content: a second task on the same videos encodes
nothing. Their files are written for as long as they are decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tvr_cli import files
from tvr_cli.backbones.base import Backbone
from tvr_cli.engine.device import DEFAULT_BUDGET
from tvr_cli.engine.evaluation.gallery import Gallery, video_scores
from tvr_cli.engine.extraction import extract
from tvr_cli.engine.features import precompute
from tvr_cli.engine.features.encode import encode_captions
from tvr_cli.engine.scorers import Scorer
from tvr_cli.errors import DataError
from tvr_cli.plans import FramePlan, PrecomputeOptions
from tvr_cli.removal import remove_files
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.types import Clip, Manifest, TextFeatures, VideoFeatures
from tvr_cli.workspace import Workspace

_ENDING = ".mp4"  # of bytes without a name; what is in a file is read off the file


@dataclass(frozen=True)
class GivenVideo:
    """A video by its bytes, or by its path where they are None."""

    data: bytes | None
    path: Path | None


@dataclass(frozen=True)
class Encoder:
    """What a scorer takes captions and videos for. store: the one it goes with, whose plans are followed."""

    scorer: Scorer
    store: FeatureStore
    backbone: Backbone
    device: str = "auto"
    workers: int | None = None
    offline: bool = False

    def captions(self, texts: list[str]) -> TextFeatures:
        """Encode captions as the store has them."""
        return encode_captions(self.backbone, texts, self.store.word_plan, self.store.identity["importance"])

    def videos(self, given: Iterable[GivenVideo], workspace: Workspace) -> Videos:
        """Return the features of videos, made in a workspace; what cannot be decoded is left out and said there."""
        if self.store.imported is not None:
            raise DataError(
                f"the features in {str(self.store.root)!r} were imported, so nothing says how other videos would be "
                "read for them; take a run on features that tvr computed"
            )
        folder = workspace.given_videos
        with files.lock(workspace.root):
            names = [_written(video, folder) for video in given]
            clips = tuple(Clip(path.stem, path) for path in dict.fromkeys(names))
            manifest = Manifest("mteb", folder, clips, ())
            plan = FramePlan.from_identity(self.store.identity["frames"])
            extract.extract(manifest, workspace, plan, extract.ExtractOptions(workers=self.workers))
            remove_files(folder, {path.name for path in names})
            options = PrecomputeOptions(device=self.device, offline=self.offline)
            made = precompute.precompute(
                workspace, self.store.backbone_name, None,
                options.as_made(self.store.identity, self.store.provenance),
            )  # fmt: skip
        row = {clip.id: number for number, clip in enumerate(made.store.clips)}
        return Videos(made.store, torch.tensor([row.get(path.stem, -1) for path in names], dtype=torch.int64))

    def scores(self, text: TextFeatures, videos: Videos) -> np.ndarray:
        """Return [T, V] scores, -inf of videos that could not be read."""
        there = (videos.rows >= 0).nonzero()[:, 0]
        everything = np.full((len(text), len(videos.rows)), -np.inf, dtype=np.float32)
        if not len(text) or not len(there):
            return everything
        count = torch.arange(len(there))
        nowhere = np.zeros(len(text), dtype=np.int64)
        gallery = Gallery(torch.arange(len(text)), videos.rows[there], count, nowhere, tuple(map(str, count.tolist())))
        both = _Both(text, videos.store, self.scorer.method.reads_patches)
        everything[:, there.numpy()] = video_scores(self.scorer.method, both, gallery, DEFAULT_BUDGET).numpy()
        return everything


@dataclass(frozen=True)
class Videos:
    """Features of videos. rows: [V] of the store, -1 of those that could not be read."""

    store: FeatureStore
    rows: Tensor

    @property
    def unread(self) -> int:
        return int((self.rows < 0).sum())


@dataclass(frozen=True)
class _Both:
    """Captions at hand and clips of a store, as a gallery is scored from."""

    held: TextFeatures
    store: FeatureStore
    patches: bool

    def text(self, index: Tensor) -> TextFeatures:
        return self.held.rows(index)

    def video(self, index: Tensor) -> VideoFeatures:
        return self.store.video(index, patches=self.patches)


def _written(video: GivenVideo, folder: Path) -> Path:
    """Return a file of a video that is named by its content: written, or linked to where it lies already."""
    if video.data is not None:
        name = hashlib.sha256(video.data).hexdigest()
    elif video.path is not None and video.path.is_file():
        name = files.sha256_file(video.path)
    else:
        raise DataError(f"expected a video, found none at {str(video.path)!r}")
    ending = video.path.suffix if video.path is not None else ""
    path = folder / f"{name}{ending or _ENDING}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        if video.data is not None:
            files.write_bytes(path, video.data)
        else:
            assert video.path is not None, "made sure above"
            files.link(video.path, path)
    return path
