"""Evaluating a method on a split: score T captions x V videos in tiles, rank both directions, keep the result.

The unit of a result is the video: windows of one file are merged by their best window. Captions with equal text and
clips with equal content are scored once, so that equal items tie exactly, whatever the tile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from tvr_cli import __version__, metrics
from tvr_cli.engine import models, score
from tvr_cli.engine.models import Scorer
from tvr_cli.errors import DataError
from tvr_cli.files import write_bytes, write_json
from tvr_cli.methods.base import Method
from tvr_cli.runs import RunDir
from tvr_cli.stores.features import FeatureStore
from tvr_cli.types import TextFeatures, VideoFeatures


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """noise_seeds: draws of a method that samples at evaluation (EagleNet); their mean and deviation are reported."""

    split: str = "test"
    memory_budget: int = score.DEFAULT_BUDGET
    device: str = "auto"
    noise_seeds: int = 1
    save_scores: Path | None = None


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


def evaluate(scorer: Scorer, store: FeatureStore, workspace: Path, options: EvaluateOptions) -> dict[str, Any]:
    """Score a split, store the result and per-query ranks in the run's folder, and return the result.

    Raises DataError when the split is empty or a score is NaN.
    """
    gallery = gallery_of(store, options.split)
    scorer.method.to(score.pick_device(options.device))
    drawn = []
    for draw in range(options.noise_seeds):
        if hasattr(scorer.method, "noise_draw"):
            scorer.method.noise_draw = draw
        drawn.append(video_scores(scorer.method, store, gallery, options.memory_budget).numpy())
    result = describe(scorer, store, gallery, options.split)
    result |= summarise(drawn, gallery.video_of_caption)
    run = scorer.run or RunDir.at(workspace, scorer.name)
    _keep(run, options.split, result, drawn[0], gallery, store)
    if options.save_scores is not None:
        write_scores(options.save_scores, drawn[0], gallery, store)
    return result


def gallery_of(store: FeatureStore, split: str) -> Gallery:
    """Collect a split's captions and all clips of the videos they describe. Raises DataError for an empty split."""
    captions = store.split(split)
    if len(captions) == 0:
        sizes = ", ".join(f"{name} {len(store.split(name))}" for name in ("train", "val", "test"))
        raise DataError(
            f"the feature store has no captions of the split {split!r} ({sizes}); name another with --split, or give "
            "captions to tvr precompute-features --captions"
        )
    return gallery_of_captions(store, captions)


def gallery_of_captions(store: FeatureStore, captions: Tensor) -> Gallery:
    """Collect every clip of the videos that some captions [T] (rows of the store) describe."""
    wanted = [store.captions[i].file_id for i in captions.tolist()]
    videos = sorted(set(wanted))
    column = {video: i for i, video in enumerate(videos)}
    clips = [i for i, clip in enumerate(store.clips) if clip.file_id in column]
    files = torch.tensor([column[store.clips[i].file_id] for i in clips])
    return Gallery(
        captions, torch.tensor(clips), files, np.array([column[v] for v in wanted], dtype=np.int64), tuple(videos)
    )


def video_scores(method: Method, features: Features, gallery: Gallery, memory_budget: int) -> Tensor:
    """Return scores [T, V] of a gallery: equal items scored once, windows of a file merged by their best."""
    text, video = features.text(gallery.captions), features.video(gallery.clips)
    text_rows, text_of = _first_of_equal(text.key)
    clip_rows, clip_of = _first_of_equal(video.key)
    scores = score.score_matrix(method, text.rows(text_rows), video.rows(clip_rows), memory_budget=memory_budget)
    scores = scores[text_of][:, clip_of]
    if len(gallery.clips) == len(gallery.videos):
        order = gallery.file_of_clip.argsort()
        return scores[:, order]
    merged = torch.full((len(scores), len(gallery.videos)), -torch.inf)
    return merged.scatter_reduce(1, gallery.file_of_clip.expand(len(scores), -1), scores, "amax")


def summarise(drawn: Sequence[np.ndarray], video_of_caption: np.ndarray) -> dict[str, Any]:
    """Return the metrics of one or several draws: their mean, and with several the deviation beside it."""
    results = [metrics.evaluate(scores, video_of_caption) for scores in drawn]
    if len(results) == 1:
        return results[0]
    mean, deviation = _fold(results, np.mean), _fold(results, lambda x: np.std(x, ddof=1))
    return {**mean, "ties": results[0]["ties"], "draws": len(results), "deviation": deviation}


def describe(scorer: Scorer, store: FeatureStore, gallery: Gallery, split: str) -> dict[str, Any]:
    """Return the head of a result: what was scored, with what, and under which protocol."""
    expected = store.provenance.get("expected", {}).get(split) or len(gallery.videos)
    return {
        "schema": "tvr/evaluate@1",
        "tvr": __version__,
        "method": scorer.name,
        "fidelity": scorer.method.fidelity,
        "run": scorer.run.name if scorer.run else None,
        "backbone": store.backbone_name,
        "store": store.fingerprint,
        "word_importance": store.word_importance,
        "split": split,
        "captions": len(gallery.captions),
        "videos": len(gallery.videos),
        "gallery": {"expected": expected, "scored": len(gallery.videos)},
        "v2t_protocol": "max",
        "checkpoint": scorer.checkpoint,
    }


def write_scores(path: Path, scores: np.ndarray, gallery: Gallery, store: FeatureStore) -> None:
    """Write `scores` [T, V] and `video_of_caption` [T] as safetensors, with the ids in a JSON file beside them."""
    write_bytes(path, save({"scores": np.ascontiguousarray(scores), "video_of_caption": gallery.video_of_caption}))
    ids = {"captions": [store.captions[i].id for i in gallery.captions.tolist()], "videos": list(gallery.videos)}
    write_json(path.with_suffix(".ids.json"), ids)


def load(workspace: Path, *, run: str | None, method: str | None, backbone: str | None) -> tuple[Scorer, FeatureStore]:
    """Find what `evaluate` was asked for: a run, an untrained method, or the newest run of the newest features."""
    found = models.find_run(workspace, run)
    store = models.store_for(workspace, found, backbone)
    if found is None and method is None:
        found = models.newest_run(workspace, store)
        if found is None:
            raise DataError(
                f"no run in {str(workspace / 'runs')!r} was trained on the features {store.fingerprint}; train one, or "
                "evaluate a method without training: tvr evaluate --method text_guided"
            )
    scorer = models.trained(found, store) if found else models.untrained(method or "", store)
    models.announce(scorer, store)
    return scorer, store


def _keep(
    run: RunDir, split: str, result: Mapping[str, Any], scores: np.ndarray, gallery: Gallery, store: FeatureStore
) -> None:
    forward = metrics.text_to_video(scores, gallery.video_of_caption)
    backward = metrics.video_to_text(scores, gallery.video_of_caption)
    tensors = {
        f"{side}.{name}": getattr(ranks, name)
        for side, ranks in (("t2v", forward), ("v2t", backward))
        for name in ("better", "tied", "positives")
    }
    tensors["video_of_caption"] = gallery.video_of_caption
    write_bytes(run.results / f"{split}.ranks.safetensors", save(tensors))
    ids = {"captions": [store.captions[i].id for i in gallery.captions.tolist()], "videos": list(gallery.videos)}
    write_json(run.results / f"{split}.ids.json", ids)
    write_json(run.results / f"{split}.json", dict(result))


def _first_of_equal(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of the first item of each key [U], and for every item its place among them [N]."""
    unique, inverse = torch.unique(keys, return_inverse=True)
    first = torch.full((len(unique),), len(keys)).scatter_reduce(0, inverse, torch.arange(len(keys)), "amin")
    return first, inverse


def _fold(results: Sequence[Mapping[str, Any]], fold: Any) -> dict[str, Any]:
    folded: dict[str, Any] = {
        side: {k: float(fold([r[side][k] for r in results])) for k in results[0][side]} for side in ("t2v", "v2t")
    }
    folded["rsum"] = float(fold([r["rsum"] for r in results]))
    return folded
