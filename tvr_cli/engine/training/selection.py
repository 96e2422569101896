"""Which captions a run trains on, and on which it chooses its best weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tvr_cli import commands, log
from tvr_cli.config import TrainConfig
from tvr_cli.data import jsonl
from tvr_cli.engine.training.sampling import hold_out
from tvr_cli.errors import DataError
from tvr_cli.stores.features.store import FeatureStore


@dataclass(frozen=True)
class Selection:
    """Rows of the feature store's captions. where: what the validation captions are, in words."""

    train: Tensor
    validation: Tensor
    where: str


def select(store: FeatureStore, train: TrainConfig) -> Selection:
    """Split captions into those that are trained on and those that choose the best weights.

    select_on val: the split `val`, and where there is none a tenth of the training videos, kept back by their hash.
    select_on test: as most papers do, which is said. validation_captions one: the first caption of each video.
    Raises DataError when there is nothing to train on.
    """
    rows = store.split("train")
    if len(rows) == 0:
        raise DataError(
            f"the feature store {store.fingerprint} has no captions to train on (split train). Write a captions.jsonl "
            f"like this and run {commands.tvr('precompute-features', captions='captions.jsonl')}:",
            example=jsonl.CAPTIONS_EXAMPLE,
        )
    where = "the test split"
    if train.select_on == "test":
        log.logger.warning("warning: the best weights are chosen on the test split, so its results are optimistic")
        chosen = store.split("test")
    else:
        where, chosen = "the validation split", store.split("val")
        if len(chosen) == 0:
            where = "a tenth of the training videos"
            rows, chosen = _hold_out(store, rows)
            log.logger.info("no validation split: %d of the training captions are kept back for it", len(chosen))
    if train.validation_captions == "one":
        chosen = _first_of_each_video(store, chosen)
    return Selection(rows, chosen, where)


def numbers_of_videos(store: FeatureStore) -> Tensor:
    """Return [clips] int64: equal numbers for clips of one file."""
    number: dict[str, int] = {}
    of_file = [number.setdefault(file_id, len(number)) for file_id in store.clips.file_ids]
    return torch.tensor(of_file, dtype=torch.int64)[store.clips.file]


def _hold_out(store: FeatureStore, rows: Tensor) -> tuple[Tensor, Tensor]:
    videos = store.captions.files_of(rows)
    kept_back = hold_out(videos)
    mask = torch.tensor([v in kept_back for v in videos], dtype=torch.bool)
    return rows[~mask], rows[mask]


def _first_of_each_video(store: FeatureStore, rows: Tensor) -> Tensor:
    first: dict[str, int] = {}
    for i, file_id in zip(rows.tolist(), store.captions.files_of(rows), strict=True):
        first.setdefault(file_id, i)
    return torch.tensor(list(first.values()), dtype=torch.int64)
