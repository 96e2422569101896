"""The queries and candidates of a split, and their scores.

The unit of a result is the video: windows of one file are merged by their best window. Captions with equal text and
clips with equal content are scored once, so that equal items tie exactly, whatever the tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tvr_cli import commands, metrics
from tvr_cli.backbones import registry
from tvr_cli.data.jsonl import CAPTIONS_EXAMPLE
from tvr_cli.engine import scorers
from tvr_cli.engine.evaluation import score
from tvr_cli.errors import DataError
from tvr_cli.methods.base import Method
from tvr_cli.metrics import Ranks
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.types import TextFeatures, VideoFeatures


class Features(Protocol):
    """Features by row: a feature store, or a training run's source."""

    def text(self, index: Tensor) -> TextFeatures: ...

    def video(self, index: Tensor) -> VideoFeatures: ...


@dataclass(frozen=True)
class Gallery:
    """The queries and candidates of a split.

    captions: [T] rows of the feature store. clips: [C] rows. file_of_clip: [C] column of each clip's video.
    video_of_caption: [T] column of each caption's video. videos: [V] file ids, sorted.
    """

    captions: Tensor
    clips: Tensor
    file_of_clip: Tensor
    video_of_caption: np.ndarray
    videos: tuple[str, ...]


def gallery_of(store: FeatureStore, split: str) -> Gallery:
    """Collect a split's captions and all clips of the videos they describe. Raises DataError for an empty split."""
    captions = store.split(split)
    if len(captions) == 0:
        own = store.backbone_name if registry.must_be_named(store.backbone_name) else None
        if not store.captions:
            give = commands.tvr(
                "precompute-features", captions="captions.jsonl", repair=store.fingerprint, backbone=own,
                workspace=store.workspace,
            )  # fmt: skip
            raise DataError(
                f"expected captions to judge by, found none in the features {store.fingerprint}. Write a "
                f"captions.jsonl like this and add it with {give}",
                example=CAPTIONS_EXAMPLE,
            )
        sizes = ", ".join(f"{name} {len(store.split(name))}" for name in ("train", "val", "test"))
        raise DataError(
            f"the feature store has no captions of the split {split!r} ({sizes}); name another with --split, or give "
            "captions to "
            + commands.tvr("precompute-features", captions="captions.jsonl", backbone=own, workspace=store.workspace)
        )
    return gallery_of_captions(store, captions)


def gallery_of_captions(store: FeatureStore, captions: Tensor) -> Gallery:
    """Collect every clip of the videos that some captions [T] (rows of the store) describe."""
    wanted = store.captions.files_of(captions)
    videos = sorted(set(wanted))
    column = {video: i for i, video in enumerate(videos)}
    of_file = torch.tensor([column.get(name, -1) for name in store.clips.file_ids], dtype=torch.int64)
    columns = of_file[store.clips.file]  # -1 for a clip of another video
    clips = (columns >= 0).nonzero()[:, 0]
    return Gallery(
        captions, clips, columns[clips], np.array([column[v] for v in wanted], dtype=np.int64), tuple(videos)
    )


def video_scores(
    method: Method, features: Features, gallery: Gallery, memory_budget: int, together: score.Together | None = None
) -> Tensor:
    """Return scores [T, V] of a gallery. together: processes that share the work, as in `score.score_matrix`."""
    text, video = _texts(method, features, gallery.captions), _videos(method, features, gallery.clips)
    text_rows, text_of = first_of_equal(text.key)
    clip_rows, clip_of = first_of_equal(video.key)
    scores = score.score_matrix(
        method, text.only(text_rows), video.only(clip_rows), memory_budget=memory_budget, together=together
    )
    if len(text_rows) < len(text) or len(clip_rows) < len(video):
        scores = scores[text_of][:, clip_of]
    if len(gallery.clips) == len(gallery.videos):
        order = gallery.file_of_clip.argsort()
        return scores if torch.equal(order, torch.arange(len(order))) else scores[:, order]
    merged = torch.full((len(scores), len(gallery.videos)), -torch.inf)
    return merged.scatter_reduce(1, gallery.file_of_clip.expand(len(scores), -1), scores, "amax")


@torch.no_grad()
def scores_by_rule(method: Method, features: Features, gallery: Gallery, rule: str) -> Tensor:
    """Return scores [T, V] by one of the method's `rules`, of a gallery with one caption and one clip a video."""
    text = scorers.encode_texts(method, features.text(gallery.captions))
    video = scorers.encode_videos(method, _reads(method, features)(gallery.clips[gallery.file_of_clip.argsort()]))
    own = text.rows(torch.from_numpy(np.argsort(gallery.video_of_caption)))
    return method.score_by_rule(rule, text, video, own).cpu()


@dataclass(frozen=True)
class Streamed:
    """What two passes over the tiles of a matrix that is never held give: ranks, and first places [V] as `metrics`."""

    forward: Ranks
    backward: Ranks
    first_places: np.ndarray


def streamed_ranks(method: Method, features: Features, gallery: Gallery, memory_budget: int) -> Streamed:
    """Return the ranks of both directions without holding [T, V]: two passes over tiles that end between videos.

    The queries come sorted by video; `Ranks.video` says whose they are. Equal captions of different videos may differ
    by rounding here, so their ties are counted as they fall. Raises DataError when files were cut into windows.
    """
    if len(gallery.clips) != len(gallery.videos):
        raise DataError("a gallery of files that were cut into windows cannot be streamed; raise --memory-budget")
    order = torch.from_numpy(np.argsort(gallery.video_of_caption, kind="stable"))
    video_of_caption = gallery.video_of_caption[order.numpy()]
    text = _texts(method, features, gallery.captions[order])
    video = _videos(method, features, gallery.clips[gallery.file_of_clip.argsort()])
    ends = [i for i in range(1, len(text)) if video_of_caption[i] != video_of_caption[i - 1]]
    firsts = metrics.FirstPlaces(len(text), len(gallery.videos))

    def tiles() -> Iterable[metrics.Tile]:
        firsts.begin_pass()
        for tile in score.score_tiles(method, text, video, memory_budget=memory_budget, row_ends=ends):
            block = tile.scores.numpy()
            firsts.take(tile.texts, tile.videos, block)
            yield tile.texts, tile.videos, block

    forward, backward = metrics.streamed(tiles, video_of_caption, len(gallery.videos))
    return Streamed(forward, backward, firsts.places)


def first_of_equal(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of the first item of each key [U], in order, and for every item its place among them [N]."""
    unique, inverse = torch.unique(keys, return_inverse=True)
    first = torch.full((len(unique),), len(keys)).scatter_reduce(0, inverse, torch.arange(len(keys)), "amin")
    rows, place = first.sort()
    return rows, place.argsort()[inverse]


@dataclass(frozen=True)
class _Items:
    """N items of a split. key: [N]. read: gives features of some items of `index` [N], when they are needed."""

    key: Tensor
    read: Callable[[Tensor], TextFeatures | VideoFeatures]
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def only(self, rows: Tensor) -> _Items:
        return _Items(self.key[rows], self.read, self.index[rows])

    def rows(self, block: slice, /) -> TextFeatures | VideoFeatures:
        return self.read(self.index[block])


def _texts(method: Method, features: Features, captions: Tensor) -> _Items:
    """Return captions by row. A store's are read block by block, and their tokens only where the method uses them."""
    if isinstance(features, FeatureStore):
        keys = features.captions.key[captions]
        return _Items(keys, partial(features.text, tokens="tokens" in method.needs), captions)
    held = features.text(captions)
    return _Items(held.key, held.rows, torch.arange(len(held)))


def _videos(method: Method, features: Features, clips: Tensor) -> _Items:
    """Return clips by row; a store's are read block by block."""
    if isinstance(features, FeatureStore):
        return _Items(features.clips.key[clips], _reads(method, features), clips)
    held = features.video(clips)
    return _Items(held.key, held.rows, torch.arange(len(held)))


def _reads(method: Method, features: Features) -> Callable[[Tensor], VideoFeatures]:
    """Return what reads clips by row; a source of training knows by itself whether its method reads patches."""
    if isinstance(features, FeatureStore):
        return partial(features.video, patches=method.reads_patches)
    return features.video
