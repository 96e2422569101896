"""Three steps of training and a validation in fp64, as one process or as one rank of several, for `test_ranks`."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from synthetic import SyntheticStore
from torch import Tensor, nn

from tvr_cli import metrics
from tvr_cli.config import TrainConfig
from tvr_cli.engine.evaluation.gallery import gallery_of_captions, video_scores
from tvr_cli.engine.features.precompute import backbone_of
from tvr_cli.engine.training import live, ranks
from tvr_cli.engine.training import loop as training_loop
from tvr_cli.engine.training.learner import Learner
from tvr_cli.engine.training.loop import Loop, Names
from tvr_cli.engine.training.presence import Place
from tvr_cli.engine.training.ranks import ALONE, Ranks
from tvr_cli.engine.training.sampling import PairSampler
from tvr_cli.engine.training.sources import CachedSource, Features, Inputs
from tvr_cli.errors import DataError
from tvr_cli.methods import base
from tvr_cli.runs import RunDir
from tvr_cli.types import TextFeatures, VideoFeatures
from tvr_cli.workspace import Workspace

STEPS, BATCH, VIDEOS, DIM = 3, 12, 32, 64
# Small enough for a second; dmae in the form that trains on frozen features.
OPTIONS: dict[str, dict[str, Any]] = {
    "dmae": {"interaction": "att_wti", "word_importance": False},
    "eaglenet": {"candidates": 3, "langevin_steps": 2, "replay_rows": 9},
    "tcmgc": {"keep_rate": 0.2},
}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """One training. tune: `head`, or `full` with linear towers under the features. counts: rows of each rank.

    options: of the method, besides `OPTIONS`. rows: as in large batches, where a rank scores its own captions only.
    """

    method: str
    tune: str
    counts: tuple[int, ...] | None = None
    accumulate: int = 1
    grad_cache: int | None = None
    gradients: str = "exact"
    options: tuple[tuple[str, Any], ...] = ()
    rows: bool = False

    def alone(self) -> Case:
        return dataclasses.replace(self, counts=None, rows=False)


class Towers(nn.Module):
    """A linear map of captions and one of frames."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.pictures = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def see(self, features: Features) -> Features:
        return self.read(features[0]), self.look(features[1])

    def read(self, text: TextFeatures) -> TextFeatures:
        assert text.tokens is not None
        return dataclasses.replace(text, pooled=self.words(text.pooled), tokens=self.words(text.tokens))

    def look(self, video: VideoFeatures) -> VideoFeatures:
        patches = None if video.patches is None else self.pictures(video.patches)
        return dataclasses.replace(video, frames=self.pictures(video.frames), patches=patches)


class TowerSource(CachedSource):
    """Features through the towers, so that gradients reach those."""

    towers: Towers

    def encode(self, inputs: Inputs, rows: slice) -> Features:
        return self.towers.see(super().encode(inputs, rows))

    @torch.no_grad()
    def text(self, index: Tensor | None = None) -> TextFeatures:
        return self.towers.read(super().text(index))

    @torch.no_grad()
    def video(self, index: Tensor | None = None) -> VideoFeatures:
        return self.towers.look(super().video(index))

    def _inputs(self, batch: tuple[int, np.ndarray]) -> Inputs:
        step, pairs = batch
        rows = torch.from_numpy(pairs if self._own is None else pairs[self._own(len(pairs))])
        return Inputs(step, pairs, (super().text(rows[:, 0]), super().video(rows[:, 1])))


def methods(tune: str) -> list[str]:
    """Return the names of the shipped methods that train so."""
    found = []
    for name in base.shipped():
        method = base.build(name, SyntheticStore(2, dim=DIM, words=10).sizes, OPTIONS.get(name, {}))
        if type(method).loss is not base.Method.loss and (tune == "full" or method.trains):
            found.append(name)
    return found


def loop_of(case: Case, group: Ranks, folder: Path) -> tuple[Loop, SyntheticStore]:
    """Make everything that a case trains with, the same on every rank."""
    store = SyntheticStore(VIDEOS, 1, dim=DIM, frames=3, words=10)
    store._text, store._video = (part.map(_double) for part in (store._text, store._video))
    train = TrainConfig(
        tune=case.tune, steps=STEPS, batch_size=BATCH // case.accumulate, accumulate=case.accumulate, lr=1e-3,  # type: ignore[arg-type]
        backbone_lr=1e-3, warmup=0.0, seed=1, grad_cache=case.grad_cache, gradients=case.gradients,  # type: ignore[arg-type]
    )  # fmt: skip
    torch.manual_seed(0)
    method = base.build(case.method, store.sizes, {**OPTIONS.get(case.method, {}), **dict(case.options)})
    towers = Towers() if case.tune == "full" else None
    learner = Learner(method, towers).double()  # type: ignore[arg-type]
    rows = store.split("train")
    sampler = PairSampler(rows.tolist(), store.captions.clips_of(rows), batch_size=BATCH, seed=1)
    kind = CachedSource if towers is None else TowerSource
    source = kind(store, CPU, patches=method.reads_patches, own=partial(group.own, batch_size=train.batch_size))  # type: ignore[arg-type]
    if towers is not None:
        source.towers = towers  # type: ignore[attr-defined]
    names = Names(str, str, torch.arange(VIDEOS))
    return Loop(learner, source, sampler, names, train, RunDir(folder), device=CPU, ranks=group), store


def run_case(case: Case, group: Ranks = ALONE) -> dict[str, Any]:
    """Return the losses, the gradients that each step applied, the state after them, and the validation's metrics."""
    torch.set_num_threads(1)
    if case.counts is not None:
        group.counts = lambda n: _cut(case.counts, n)  # type: ignore[method-assign,assignment,arg-type]
    rows_from = 0 if case.rows else training_loop.ROWS_FROM
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(training_loop, "ROWS_FROM", rows_from):
        loop, store = loop_of(case, group, Path(folder))
        untrained = scores_of(loop, store, group)
        reports, gradients = [], {}
        for inputs in loop.source.stream(loop._steps(0)):
            report = loop.train_step(inputs)
            reports.append([report.loss, report.grad_norm, *report.parts.values()])
            for name, p in loop.groups.named():
                if p.grad is not None:
                    gradients[f"{inputs.step} {name}"] = p.grad.numpy().copy()
        scores = scores_of(loop, store, group)
        state, by_rows = loop.learner.state_dict(), loop.by_rows(BATCH // case.accumulate)
    group.__dict__.pop("counts", None)
    return {
        "by_rows": by_rows,
        "reports": np.array(reports),
        "gradients": gradients,
        "state": {name: value.numpy().copy() for name, value in state.items()},
        "hash": ranks.hash_of(state),
        "scores": scores,
        "untrained": untrained,
        "metrics": metrics.evaluate(scores, gallery_of_captions(store, store.split("val")).video_of_caption),
    }


def scores_of(loop: Loop, store: SyntheticStore, group: Ranks) -> np.ndarray:
    """Return the scores of a validation, in several tiles, as the weights are now."""
    loop.learner.eval()
    gallery = gallery_of_captions(store, store.split("val"))
    small = 16 * loop.learner.method.pair_bytes()
    together = None if group is ALONE else group
    return video_scores(loop.learner.method, loop.source, gallery, small, together).numpy()


def live_features(workspace: Path, backbone: str, place: Place | None) -> list[dict[str, np.ndarray]]:
    """Return what a live source gives a validation, three captions or clips at a time."""
    torch.set_num_threads(1)
    store = Workspace(workspace).newest_features(backbone)
    assert store is not None
    clip = backbone_of(store, offline=True, device="cpu")
    with ranks.join(place) as group, mock.patch.object(live, "_CHUNK", 3):
        group.open(CPU)
        source = live.LiveSource(store, workspace / "frames", clip, TrainConfig(), CPU, workers=0, ranks=group)
        features = source.text(), source.video(), source.text(torch.tensor([4]))
        source.close()
    return [{k: v.numpy() for k, v in vars(part).items() if v is not None} for part in features]


def as_ranks(cases: list[Case], place: Place) -> list[dict[str, Any]]:
    """Run cases as one rank; the weights of all ranks have to be the same bits after each of them."""
    found = []
    with ranks.join(place) as group:
        group.open(CPU)
        for case in cases:
            found.append(run_case(case, group))
            group.require_same({}, {"weights after training": found[-1]["hash"]})
    return found


def wrong_at_rank_1(place: Place) -> None:
    """Fail at one rank while the other waits for it."""
    with ranks.join(place) as group:
        group.open(CPU)
        if place.rank == 1:
            raise DataError("what rank 1 found")
        group.any(True)


def _cut(counts: tuple[int, ...], n: int) -> list[int]:
    """Return so many rows of n: `counts` where they add up to n, else the last ranks have what the first leave."""
    left, cut = n, []
    for count in counts:
        cut.append(min(count, left))
        left -= cut[-1]
    cut[-1] += left
    return cut


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x
