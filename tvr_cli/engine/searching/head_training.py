"""Training a moment head (`tvr train --moments`): from what is seen in a span of a film to what is said of it.

Ridge regression (lambda 1), in closed form: from the mean of the span's frames and the frames in the middle of its
thirds, unit vectors all, to the sentence's unit vector less the mean of all. A moment of an index begins and ends
between two looks, and where these fall in an event is chance. So each span is seen several times, its edges moved by
up to half the time between two looks, and up to half of it earlier still (`head_examples.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from tvr_cli import commands, files, log
from tvr_cli.engine.features import precompute, repair
from tvr_cli.engine.features import require as training_store
from tvr_cli.engine.features.corpus import read_corpus
from tvr_cli.engine.searching.head_examples import DRAWS, Examples, Found, Said, pieces_of
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.plans import PrecomputeOptions
from tvr_cli.results.base import Result
from tvr_cli.runs import RunDir
from tvr_cli.stores import run_header
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.moment_head import PARTS, MadeFor, MomentHead
from tvr_cli.workspace import Workspace

STEM = "moments"
RIDGE = 1.0


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """run: its name, None = the first free one of `moments`, `moments-2` … captions: a file, None = as for training."""

    run: str | None = None
    captions: Path | None = None
    backbone: str | None = None
    seed: int = 0
    device: str = "auto"
    offline: bool = False


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Moments of the validation split, each looked for among all of them by its sentence. first: how many percent stand
    first with the head, and by the cosine of their frames' mean without it.
    """

    moments: int
    first: float
    first_without: float


@dataclass(frozen=True, kw_only=True)
class HeadReport(Result):
    """A moment head, and what it was trained on. left_out: training captions without times, or outside of the frames.

    held_out: None without such moments. seconds: wall clock.
    """

    schema = "train-moments"
    dry_run: Literal[False] = field(default=False, init=False)
    run: str
    path: Path
    store: str
    backbone: str
    fps: float
    moments: int
    videos: int
    left_out: int
    held_out: HeldOut | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class HeadPreview(Result):
    """What a head would be trained on. store, fps: None where features have to be made first, or again for frames that
    came or went; then nothing is known of the captions either.
    """

    schema = "train-moments"
    dry_run: Literal[True] = field(default=True, init=False)
    run: str
    store: str | None
    backbone: str | None
    fps: float | None
    moments: int | None
    videos: int | None
    left_out: int | None


def train(workspace: Workspace, options: HeadOptions) -> HeadReport:
    """Train a head and keep it as a run.

    Raises DataError without captions that have times, or frames by time, ConfigError where the run is there already.
    """
    started = time.monotonic()
    run = _run(workspace, options)
    store = _store(workspace, options)
    made_for = _made_for(store, workspace)
    examples = Examples.of(store, "train")
    examples.found.require_some(workspace)
    weights, mean = fit(examples.draws(1 / made_for.fps, options.seed), examples.said)
    head = MomentHead(
        weights, mean, made_for, moments=len(examples.spans), videos=examples.found.videos, seed=options.seed,
        store=store.fingerprint,
    )  # fmt: skip
    with files.lock(run.path):
        _require_new(run)
        run.write_env({"device": "cpu", "store": store.fingerprint})
        head.save(run_header.head_path(run.path))
    return HeadReport(
        run=run.name, path=run.path, store=store.fingerprint, backbone=store.backbone_name, fps=made_for.fps,
        moments=head.moments, videos=head.videos, left_out=examples.found.left_out,
        held_out=_held_out(head, Examples.of(store, "val")), seconds=time.monotonic() - started,
    )  # fmt: skip


def dry_run(workspace: Workspace, options: HeadOptions) -> HeadPreview:
    """Say what `train` would do, writing nothing. Raises as `train`, as far as that is known."""
    run, store = _run(workspace, options), _there(workspace, options)
    if store is None or (workspace.has_frames and workspace.outdated(store)):
        return HeadPreview(
            run=run.name, store=None, backbone=store.backbone_name if store else options.backbone, fps=None,
            moments=None, videos=None, left_out=None,
        )  # fmt: skip
    made_for = _made_for(store, workspace)
    found = Found.of(store, _captions(workspace, store, options))
    found.require_some(workspace)
    return HeadPreview(
        run=run.name, store=store.fingerprint, backbone=store.backbone_name, fps=made_for.fps,
        moments=len(found.spans), videos=found.videos, left_out=found.left_out,
    )  # fmt: skip


def _captions(workspace: Workspace, store: FeatureStore, options: HeadOptions) -> list[Said]:
    """Return the training captions: those of a file where one is named, whose sentences may have no features yet, or
    where features have none, else those of the features.
    """
    if not workspace.has_frames or (options.captions is None and store.captions):
        return [Said(c.file_id, c.text, c.start, c.end) for c in store.captions.take(store.split("train").tolist())]
    corpus = read_corpus(options.captions, workspace.frames(), store)
    own = (c for c in corpus.captions if c.caption.split == "train")
    return [Said(c.file_id, c.caption.text, c.caption.start, c.caption.end) for c in own]


def fit(seen: Iterator[tuple[np.ndarray, np.ndarray]], said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights [4, D, D] and the mean sentence [D] of a head, float32.

    seen: some spans [m, 4, D] at a time, and the numbers [m] of the sentences that they go with. said: [n, D] unit
    vectors.
    """
    mean, dim = said.mean(0, dtype=np.float64), said.shape[1]
    gram, cross = RIDGE * np.eye(PARTS * dim), np.zeros((PARTS * dim, dim))
    for pieces, number in seen:
        x, y = pieces.reshape(len(pieces), -1).astype(np.float64), said[number] - mean
        gram += x.T @ x / DRAWS
        cross += x.T @ y / DRAWS
    found = np.linalg.solve(gram, cross)
    return found.reshape(PARTS, dim, dim).astype(np.float32), mean.astype(np.float32)


def _held_out(head: MomentHead, examples: Examples) -> HeldOut | None:
    """Say how often the moment that a sentence is of stands first among all of a split; None without two."""
    if len(examples.spans) < 2:
        return None
    pieces = np.stack([pieces_of(span.track, span.start, span.end) for span in examples.spans])
    read = np.einsum("mid,idk->mk", pieces, head.weights, optimize=True)
    texts = np.array(examples.texts)
    rates = [
        100 * float((texts[(said @ (seen / np.linalg.norm(seen, axis=1, keepdims=True)).T).argmax(1)] == texts).mean())
        for said, seen in ((examples.said - head.mean, read), (examples.said, pieces[:, 0]))
    ]
    return HeldOut(len(examples.spans), *rates)


def _run(workspace: Workspace, options: HeadOptions) -> RunDir:
    """Return the run that is named, or the first free one. Raises ConfigError where it is there, DataError where its
    folder holds something else.
    """
    if options.run is None:
        return workspace.free_run(STEM)
    run = workspace.run(options.run)
    _require_new(run)
    return run


def _require_new(run: RunDir) -> None:
    if run.begun or run_header.head_path(run.path).is_file():
        raise ConfigError(f"the run {run.name!r} exists; give this one another name with --run NAME")
    run.require_own()


def _there(workspace: Workspace, options: HeadOptions) -> FeatureStore | None:
    """Return the newest features, of the backbone that is named."""
    if options.backbone is not None:
        return workspace.newest_features(options.backbone)
    return next(workspace.given_features(), None)


def _store(workspace: Workspace, options: HeadOptions) -> FeatureStore:
    """Return the features to train on, made or brought up to date first where that is needed, which is said."""
    store = _there(workspace, options)
    why = "there are none yet" if store is None else training_store.stale(workspace, store, options.captions)
    if not why:
        assert store is not None, "why not would have said so"
        return store
    if not workspace.has_frames:
        workspace.refuse_without_frames(f"expected frames by time or their features in {str(workspace)!r}, found none")
    log.logger.info("computing features first (%s): %s", commands.tvr("precompute-features"), why)
    how = PrecomputeOptions(device=options.device, offline=options.offline)
    if store is not None:
        return repair.refresh(workspace, store, how, options.captions, named=options.backbone).store
    return precompute.precompute(workspace, options.backbone, options.captions, how).store


def _made_for(store: FeatureStore, workspace: Workspace) -> MadeFor:
    """Return what a head of these features goes with. Raises DataError where they have no frames, or no rate."""
    found = MadeFor.of(store.backbone_name, store.identity) if "video.frames" in store.tensors else None
    if found is None:
        has = "so many a clip" if "video.frames" in store.tensors else "none"
        beside = Path(f"{workspace}-by-time")
        raise DataError(
            f"a moment head is trained on frames by time, and the features of {store.backbone_name} in "
            f"{str(workspace)!r} have {has}; make some with: "
            + commands.tvr("extract-frames", *workspace.video_roots(), fps=4, workspace=beside)
        )
    return found
