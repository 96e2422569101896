"""What `tvr train`, `tvr train --seeds` and `tvr rerun` print, and their dry runs. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tvr_cli.results.base import INLINE, Result
from tvr_cli.results.metrics import Deviation, Metrics
from tvr_cli.types import Sizes


@dataclass(frozen=True)
class BestStep:
    """The step whose weights are kept, and what they reached on validation; None without one."""

    step: int
    metrics: Metrics | None = field(metadata=INLINE)


@dataclass(frozen=True, kw_only=True)
class TrainSummary(Result):
    """The end of a run. steps: of all sessions. stopped: "finished" or "early". seconds: of this session."""

    schema = "train"
    tvr: str
    dry_run: Literal[False] = field(default=False, init=False)
    method: str
    fidelity: str
    run: str
    path: Path
    store: str
    backbone: str
    tune: str
    steps: int
    stopped: str
    seconds: float
    samples_per_s: float
    peak_memory_bytes: int | None
    selected_on: str
    best: BestStep | None


@dataclass(frozen=True, kw_only=True)
class StoreFound:
    """The features that a run would train on."""

    exists: Literal[True] = field(default=True, init=False)
    fingerprint: str
    backbone: str
    captions: int
    clips: int


@dataclass(frozen=True, kw_only=True)
class StoreNeeded:
    """The features that must be made first. next: the command. why_not_the_newest: what keeps that from being it."""

    exists: Literal[False] = field(default=False, init=False)
    backbone: str
    shape: str | None
    frames: Mapping[str, Any]
    words: Mapping[str, Any]
    importance: str | None
    temporal_shift: bool | None
    next: str
    why_not_the_newest: Sequence[str]


@dataclass(frozen=True)
class Leaf:
    """One value of the resolved configuration. origin: where it was said."""

    path: str
    value: Any
    origin: str


@dataclass(frozen=True)
class GroupRow:
    """Parameters that share a rate and a decay, or that are not trained (both None). parameters: numbers in them."""

    group: str
    lr: float | None
    weight_decay: float | None
    tensors: int
    parameters: int
    names: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class TrainPreview(Result):
    """What a run would do. pairs: an epoch; None, as steps may be, before the features are there."""

    schema = "train"
    dry_run: Literal[True] = field(default=True, init=False)
    method: str
    fidelity: str
    run: str
    store: StoreFound | StoreNeeded
    sizes: Sizes
    config: Sequence[Leaf]
    groups: Sequence[GroupRow]
    pairs: int | None
    steps: int | None


@dataclass(frozen=True, kw_only=True)
class SeedRow:
    """The run of one seed. kept: it was finished before. validation, test: None without such a split."""

    seed: int
    run: str
    path: Path
    kept: bool
    steps: int
    seconds: float
    best_step: int
    validation: Metrics | None
    test: Metrics | None


@dataclass(frozen=True, kw_only=True)
class SeedsReport(Result):
    """Several seeds of one experiment. mean, deviation: split -> metrics, where every run has the split."""

    schema = "train-seeds"
    tvr: str
    dry_run: Literal[False] = field(default=False, init=False)
    method: str
    fidelity: str
    tune: str
    selected_on: str
    seeds: Sequence[int]
    runs: Sequence[SeedRow]
    mean: Mapping[str, Metrics]
    deviation: Mapping[str, Deviation]


@dataclass(frozen=True)
class PlannedSeed:
    """The run that a seed would have. begun: its folder is there."""

    seed: int
    run: str
    begun: bool


@dataclass(frozen=True, kw_only=True)
class SeedsPreview(Result):
    """What several seeds would do: the preview of the first, and what is there of each."""

    schema = "train-seeds"
    first: TrainPreview = field(metadata=INLINE)
    seeds: Sequence[int]
    runs: Sequence[PlannedSeed]


@dataclass(frozen=True, kw_only=True)
class RerunReport(Result):
    """A run repeated. identical: the weights are the same bytes. environment: path -> [before, now] of what differs.

    before, after: the best step as the checkpoints say it.
    """

    schema = "rerun"
    dry_run: Literal[False] = field(default=False, init=False)
    of: str
    identical: bool
    environment: Mapping[str, Sequence[Any]]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    train: TrainSummary


@dataclass(frozen=True, kw_only=True)
class RerunPreview(Result):
    """What a repetition would train."""

    schema = "rerun"
    dry_run: Literal[True] = field(default=True, init=False)
    of: str
    train: TrainPreview
