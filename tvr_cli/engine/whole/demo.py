"""`tvr demo`: every stage of the pipeline on a toy world, by the functions that the commands call.

make the corpus -> extract frames -> precompute features -> train -> evaluate -> query; and then a few films, with a
head that ranks their moments (`demo_films.py`). Each stage keeps what an earlier demo in the same workspace has done.
The result is a table that says nothing about which method is better: the world is made up, the backbone was trained on
it, and every method has a minute or so. What a demo made is listed in `demo.json` beside it; only that, and only as
long as it is unchanged, is ever replaced or removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tvr_cli import config
from tvr_cli.backbones import registry
from tvr_cli.config import Resolved
from tvr_cli.data.demo import NOTE
from tvr_cli.data.demo_world import corpus
from tvr_cli.data.demo_world.corpus import Truth, WorldOptions
from tvr_cli.data.demo_world.films import FilmOptions
from tvr_cli.engine import scorers
from tvr_cli.engine.evaluation import evaluate
from tvr_cli.engine.extraction.extract import ExtractOptions, extract
from tvr_cli.engine.features.precompute import precompute
from tvr_cli.engine.scorers import Scorer
from tvr_cli.engine.searching import index, query
from tvr_cli.engine.searching.hits import SearchOptions
from tvr_cli.engine.training import checkpoint, resume
from tvr_cli.engine.training.seeds import check_seeds
from tvr_cli.engine.training.train import TrainOptions, train
from tvr_cli.engine.whole import demo_results
from tvr_cli.engine.whole.demo_files import FILMS, LIST, VIDEOS, MadeFiles, Taken
from tvr_cli.engine.whole.demo_films import DemoFilms, HeadRow
from tvr_cli.engine.whole.demo_results import Moments, Recalls
from tvr_cli.errors import ConfigError, DataError, did_you_mean
from tvr_cli.log import logger
from tvr_cli.methods import base
from tvr_cli.plans import FramePlan, Wish
from tvr_cli.preset_loader import preset_names
from tvr_cli.removal import listed, remove_folder
from tvr_cli.results.base import INLINE, OPTIONAL, Result, key
from tvr_cli.results.found import Hit
from tvr_cli.results.metrics import fold
from tvr_cli.runs import RunDir
from tvr_cli.stores import run_header
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.types import Sizes
from tvr_cli.workspace import Workspace

BACKBONE = "demo-tiny"
DATASET = "demo"
DEFAULT_METHODS = ("mean", "text_guided", "glccl")
SPLIT = "test"
BYTES_A_VIDEO = 80_000  # of disk: the video, its frames and their features, the captions' features, the index
FILMED, FILMED_SMALL = (160, 60), (30, 10)  # videos of train and test of which films are made
FULL = {"train.backbone_lr": 1e-4}  # a hundred times what a real CLIP bears; 3e-4 forgets faster than it learns
SMALL = {"train.epochs": 2, "train.batch_size": 32}


@dataclass(frozen=True)
class DemoOptions:
    """What to run.

    methods: in the order of the table. seeds: one training run each. small: a corpus of 160 videos, for tests. tune:
    `full` trains the backbone as well. workers: processes that make and decode videos.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    seeds: tuple[int, ...] = (0,)
    small: bool = False
    tune: str = "head"
    workers: int | None = None
    device: str = "auto"
    assignments: tuple[str, ...] = ()

    @property
    def world(self) -> WorldOptions:
        return corpus.SMALL if self.small else WorldOptions()

    @property
    def films(self) -> FilmOptions:
        """Of whose videos films are made."""
        return FilmOptions(self.world, *(FILMED_SMALL if self.small else FILMED))


@dataclass(frozen=True)
class Stage:
    """One line of the demo. text: what was done. seconds: wall clock."""

    name: str
    text: str
    seconds: float


@dataclass
class _Running:
    """A stage that is not over: whoever runs it says what it did."""

    text: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One row of the tables, folded over seeds. runs: names, None of a method that does not train."""

    method: str
    fidelity: str
    runs: Sequence[str | None]
    trains: bool
    train_seconds: float
    t2v: Recalls
    moments: Moments


@dataclass(frozen=True)
class JudgedHit:
    """One answer to the demo's question. right: the caption is of this video."""

    hit: Hit = field(metadata=INLINE)
    right: bool


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question, asked as `tvr query` does. event: seconds of what the caption says, in the right video."""

    query: str
    method: str
    hits: Sequence[JudgedHit]
    event: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class DemoReport(Result):
    """A whole demo. encoder: what made the videos. queries: captions of the split, each against as many videos."""

    schema = "demo"
    title: str
    workspace: Path
    backbone: str
    encoder: str
    small: bool
    tune: str
    seeds: Sequence[int]
    split: str
    queries: int
    stages: Sequence[Stage]
    methods: Sequence[MethodRow]
    query: Question
    moment_head: HeadRow
    seconds: float


@dataclass(frozen=True)
class PlannedMethod:
    """What a demo would train of a method."""

    method: str
    trains: bool
    runs: int
    epochs: int


@dataclass(frozen=True)
class PlannedClean:
    """Files of an earlier demo that `--clean` would remove, and those that it would keep because they were changed."""

    removes: Sequence[str]
    keeps: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class DemoPreview(Result):
    """What a demo would make. films: that a moment head is trained and judged on. size_bytes: of disk, about. clean:
    with `--clean` alone.
    """

    schema = "demo"
    dry_run: Literal[True] = field(default=True, init=False)
    workspace: Path
    videos: int
    captions: int
    frames: int
    films: int
    size_bytes: int = field(metadata=key("bytes"))
    methods: Sequence[PlannedMethod]
    clean: PlannedClean | None = field(default=None, metadata=OPTIONAL)


def demo(
    workspace: Workspace,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    seeds: Sequence[str] = ("0",),
    tune: str = "head",
    small: bool = False,
    keep: bool = True,
    workers: int | None = None,
    device: str = "auto",
    assignments: Sequence[str] = (),
    dry_run: bool = False,
) -> DemoReport | DemoPreview:
    """Run a whole demo in a workspace, or (dry_run) say what it would make, writing nothing.

    methods, seeds: as typed. keep: False removes at the end what the demo made. Raises ConfigError for an unknown
    method, seed or tune, DataError where the workspace holds what is not a demo's, and whatever a stage raises.
    """
    options = DemoOptions(
        methods=check_methods(methods),
        seeds=check_seeds(seeds),
        tune=check_tune(tune),
        small=small,
        workers=workers,
        device=device,
        assignments=tuple(assignments),
    )
    asked = Demo(workspace, options)
    taken = None if keep else would_clean(workspace)
    if dry_run:
        clean_too = None if taken is None else PlannedClean(taken.removed, taken.kept)
        return dataclasses.replace(asked.dry_run(), clean=clean_too)
    report = asked.run()
    if not keep:
        clean(workspace)
    return report


class Demo:
    """One demo in a workspace; `run` does everything."""

    def __init__(self, workspace: Workspace, options: DemoOptions):
        self.workspace, self.options = workspace, options
        self.stages: list[Stage] = []
        self.made: MadeFiles | None = None
        self.experiments = {name: self._resolve(name) for name in options.methods}

    def run(self) -> DemoReport:
        """Run every stage. Raises whatever a stage raises; what was done before is kept and not done again.

        Raises DataError, before anything is written, when the workspace holds what is not a demo's.
        """
        started = time.monotonic()
        self.require_own()
        if not self._of_0_1_0():
            self.made = MadeFiles.begin(self.workspace)
        world = self.make_corpus()
        self.extract_frames()
        store = self.precompute_features()
        truth = corpus.read_truth(self.videos)
        rows = [self.measure(name, store, truth) for name in self.options.methods]
        answer = self.ask(store)
        head = self.rank_moments()
        return DemoReport(
            title=NOTE,
            workspace=self.workspace.root,
            backbone=BACKBONE,
            encoder=world.encoder,
            small=self.options.small,
            tune=self.options.tune,
            seeds=self.options.seeds,
            split=SPLIT,
            queries=len(store.split(SPLIT)),
            stages=self.stages,
            methods=rows,
            query=answer,
            moment_head=head,
            seconds=time.monotonic() - started,
        )

    def require_own(self) -> None:
        """Raise DataError when the workspace holds what is not a demo's where this one would write."""
        made = MadeFiles.open(self.workspace)
        corpus.require_own(self.videos)
        if made is not None or corpus.is_corpus(self.videos):
            return
        space = self.workspace
        names = [self._run_name(m, s) for m in self.options.methods for s in self.options.seeds]
        runs = [space.run(name).path for name in (*names, *self.options.methods)]
        films = self._films().workspace.root
        places = [space.frames_folder, space.features_folder, space.index_folder, films, *runs]
        found = [place.relative_to(space.root).as_posix() for place in places if _holds_something(place)]
        if found:
            raise DataError(
                f"{str(self.workspace)!r} holds {listed(found)}, which `tvr demo` did not make; nothing was changed. "
                "Give the demo a folder of its own with -o"
            )

    def dry_run(self) -> DemoPreview:
        """Say what `run` would make, writing nothing. Raises DataError for a workspace that `run` would refuse."""
        self.require_own()
        world = self.options.world
        videos = world.train + world.val + world.test
        return DemoPreview(
            workspace=self.workspace.root,
            videos=videos,
            captions=(world.train + world.val) * world.captions + world.test * world.test_captions,
            frames=videos * self._frame_plan().num_frames,
            films=self.options.films.films,
            size_bytes=videos * BYTES_A_VIDEO,
            methods=[
                PlannedMethod(
                    method=name,
                    trains=self._trains(name),
                    runs=len(self.options.seeds) if self._trains(name) else 0,
                    epochs=self.experiments[name].experiment.train.epochs,
                )
                for name in self.options.methods
            ],
        )

    @property
    def videos(self) -> Path:
        return self.workspace.root / VIDEOS

    def make_corpus(self) -> corpus.WorldReport:
        """Make the videos, captions and ground truth, or what is missing of them."""
        with self._stage("videos") as stage:
            made = corpus.make(
                self.videos,
                self.options.world,
                workers=self.options.workers or os.cpu_count() or 1,
                replaceable=self._unchanged,
            )
            stage.text = (
                f"{made.made + made.kept} videos ({made.made} made, {made.kept} kept), {made.captions} captions, "
                f"{made.size_bytes / 1e6:.1f} MB, encoder {made.encoder}"
            )
        return made

    def extract_frames(self) -> None:
        """Sample and store the frames, at the size that the backbone sees."""
        with self._stage("frames") as stage:
            report = extract(
                [self.videos], self.workspace, self._frame_plan(), ExtractOptions(workers=self.options.workers)
            )
            stage.text = f"{report.frames} frames of {report.ok} videos ({report.kept} kept), {report.failed} failed"

    def precompute_features(self) -> FeatureStore:
        """Run the backbone over frames and captions once."""
        experiment = next(iter(self.experiments.values())).experiment
        asked = Wish.from_experiment(experiment, ()).options(device=self.options.device, offline=True)
        options = dataclasses.replace(asked, word_importance="stopwords")  # dmae reads it, the others do not mind
        with self._stage("features") as stage:
            store = precompute(self.workspace, BACKBONE, None, options).store
            stage.text = f"{len(store.clips)} videos, {len(store.captions)} captions, {store.sizes.dim} numbers each"
        return store

    def measure(self, name: str, store: FeatureStore, truth: dict[str, Truth]) -> MethodRow:
        """Train a method once a seed if it trains, and evaluate: one row of the table."""
        ready, seconds = self._scorers(name, store)
        results, moments = [], []
        options = evaluate.EvaluateOptions(SPLIT, device=self.options.device)
        with self._stage(f"evaluate {name}") as stage:
            for scorer in ready:
                # A run that tuned the backbone has features of its own.
                seen = scorers.store_for(self.workspace, scorer.run, None) if scorer.run else store
                evaluate.evaluate(scorer, seen, self.workspace, options)
                run = scorer.run or self.workspace.run(scorer.name)
                ranks, videos = demo_results.kept_ranks(run, SPLIT)
                results.append(demo_results.recalls(ranks, [truth[v].kind for v in videos]))
                moments.append(demo_results.spans(scorer.method, seen, SPLIT, truth).summary())
            folded = fold(results)
            stage.text = f"R@1 {folded.r1.value:.1f} on {len(videos)} captions x {len(set(videos))} videos"
        return MethodRow(
            method=name,
            fidelity=ready[0].method.fidelity,
            runs=[s.run.name if s.run else None for s in ready],
            trains=self._trains(name),
            train_seconds=seconds,
            t2v=folded,
            moments=fold(moments),
        )

    def ask(self, store: FeatureStore) -> Question:
        """Answer the first test caption with the last method of the list, as `tvr query` does."""
        name = self.options.methods[-1]
        run = self._run_name(name, self.options.seeds[0]) if self._trains(name) else None
        caption = store.captions[int(store.split(SPLIT)[0])]
        with self._stage("query") as stage, _hushed():
            asked = index.Asked(run=run, method=name)
            index.index(self.workspace, asked, device=self.options.device)
            report = query.query([caption.text], self.workspace, SearchOptions(k=3), run=run, method=name, offline=True)
            hits = report.results[0].hits
            stage.text = f"{len(store.clips)} videos indexed, one question asked"
        truth = corpus.read_truth(self.videos)[caption.file_id]
        return Question(
            query=caption.text,
            method=name,
            hits=[JudgedHit(hit, hit.video_id == caption.file_id) for hit in hits],
            event=truth.span,
        )

    def rank_moments(self) -> HeadRow:
        """Make films of some of the videos, train a head that ranks their moments, and judge it."""
        films = self._films()
        with self._stage("films") as stage, _hushed():
            made = films.make(self._unchanged, self._remove_head)
            store = films.encode()
            stage.text = (
                f"{made.made + made.kept} films of {made.seconds:.0f} s by time ({made.made} made, {made.kept} kept)"
            )
        with self._stage("train a moment head") as stage, _hushed():
            trained_on, kept = films.train(store, self._remove_head)
            stage.text = f"on {trained_on} moments with their sentences{' (kept)' if kept else ''}"
        with self._stage("evaluate the head") as stage, _hushed():
            row = films.judge(made, trained_on)
            stage.text = f"R@1 {row.first:.1f}, {row.first_without:.1f} without, of {row.queries} queries"
        return row

    def _films(self) -> DemoFilms:
        space = Workspace(self.workspace.root / FILMS)
        options = self.options
        return DemoFilms(space, space.root / VIDEOS, options.films, BACKBONE, options.workers, options.device)

    def _remove_head(self, run: RunDir) -> None:
        """Remove the head of an earlier demo's films, if it is as that demo left it."""
        self._remove_run(run, last=run_header.HEAD)

    def _scorers(self, name: str, store: FeatureStore) -> tuple[list[Scorer], float]:
        """Return one scorer a seed (one in all without training), and the seconds that training took now."""
        if not self._trains(name):
            return [scorers.untrained(name, store)], 0.0
        ready, seconds = [], 0.0
        for seed in self.options.seeds:
            with self._stage(f"train {name}" + (f", seed {seed}" if len(self.options.seeds) > 1 else "")) as stage:
                stage.text, kept = self._train(name, seed, store)
            seconds += 0.0 if kept else stage.seconds
            run = self.workspace.run(self._run_name(name, seed))
            ready.append(scorers.trained(run, scorers.store_for(self.workspace, run, None), name))
        return ready, seconds

    def _train(self, name: str, seed: int, store: FeatureStore) -> tuple[str, bool]:
        """Train, go on, or keep what is finished; say what was done, and whether it was the last of the three."""
        resolved = self._resolve(name, seed)
        run = self.workspace.run(self._run_name(name, seed))
        if run.begun and not _same_experiment(run, resolved, store):
            self._remove_run(run)
        before = checkpoint.last_path(run.checkpoints)
        options = TrainOptions(run=run.name, resume=run.begun, device=self.options.device, offline=True)
        with _hushed():
            summary = train(resolved, self.workspace, options)
        best = summary.best.step if summary.best else summary.steps
        kept = before is not None and before == checkpoint.last_path(run.checkpoints)
        done = "kept" if kept else f"{summary.samples_per_s:.0f} pairs/s"
        return f"{summary.steps} steps ({done}), best on validation after {best}", kept

    def _remove_run(self, run: RunDir, last: str = "config.json") -> None:
        """Remove a run of an earlier demo with other settings, if it is as it was left. last: see `remove_folder`."""
        own = [p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file() and self._unchanged(p)]
        fix = "Move the folder elsewhere, or give the demo a folder of its own with -o"
        remove_folder(run.path, own, last=last, what="a run as a demo left it", fix=fix)

    def _unchanged(self, path: Path) -> bool:
        return self.made is not None and self.made.unchanged(path)

    def _of_0_1_0(self) -> bool:
        """Whether the workspace holds a demo of tvr 0.1.0, which left no list; none is begun in the middle of it."""
        return not (self.workspace.root / LIST).exists() and corpus.is_corpus(self.videos)

    def _trains(self, name: str) -> bool:
        experiment = self.experiments[name].experiment
        method = base.build(experiment.method, Sizes(dim=128, frames=4, words=16), experiment.options)
        return method.trains or (self.options.tune == "full" and type(method).loss is not base.Method.loss)

    def _run_name(self, name: str, seed: int) -> str:
        return f"{name}-{self.options.tune}-seed{seed}"

    def _resolve(self, name: str, seed: int | None = None) -> Resolved:
        """Return a method's preset with the demo's training on top."""
        layers = [*_preset(name, self.options.tune), *config.preset_layers("datasets", DATASET)]
        flags: dict[str, Any] = {
            "train.tune": self.options.tune,
            "train.seed": self.options.seeds[0] if seed is None else seed,
        }
        if self.options.tune == "full":
            flags |= FULL
        if self.options.small:
            flags |= SMALL
        layers += [config.flag_layer(flags), config.set_layer(list(self.options.assignments))]
        return config.resolve(layers, scorers.options_schema)

    def _frame_plan(self) -> FramePlan:
        return FramePlan.from_config(next(iter(self.experiments.values())).experiment.frames)

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[_Running]:
        stage = _Running()
        started = time.monotonic()
        try:
            yield stage
        finally:
            if self.made is not None:
                self.made.record()
        stage.seconds = time.monotonic() - started
        self.stages.append(Stage(name, stage.text, stage.seconds))
        logger.info("%-24s %s, %.1f s", name, stage.text, stage.seconds)


def check_methods(wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the methods to compare; `all` means every built-in one that the toy world's encoder has features for,
    those without parameters first.

    Raises ConfigError for an unknown name.
    """
    if list(wanted) == ["all"]:
        there = registry.resolve(BACKBONE).provides | {"importance"}
        fits = [name for name in base.shipped() if base.load_class(name).needs <= there]
        rest = [name for name in fits if name not in DEFAULT_METHODS[:2]]
        return (*DEFAULT_METHODS[:2], *rest)
    if not wanted:
        raise ConfigError("expected at least one method, found none; say --methods mean,glccl or --methods all")
    for name in wanted:
        base.load_class(name)
    return tuple(dict.fromkeys(wanted))


def check_tune(wanted: str) -> str:
    """Return what is tuned. Raises ConfigError for anything but head and full."""
    if wanted not in ("head", "full"):
        raise ConfigError(f"--tune: expected head or full, found {wanted!r}{did_you_mean(wanted, ('head', 'full'))}")
    return wanted


def would_clean(workspace: Workspace) -> Taken:
    """Say what `clean` would remove of a workspace as it is now.

    Raises DataError for a demo that left no list of its files: nothing says which are its own.
    """
    made = MadeFiles.open(workspace)
    if made is not None:
        return made.takes()
    if corpus.is_corpus(workspace.root / VIDEOS):
        raise DataError(
            f"the demo in {str(workspace)!r} left no list of its files ({LIST}), as those of tvr 0.1.0 do; nothing was "
            "removed. --clean removes only what such a list names: choose another folder with -o"
        )
    return Taken((), ())


def clean(workspace: Workspace) -> Taken:
    """Remove the files that `demo.json` lists, as long as they are unchanged, and the folders that this empties.

    What has changed is kept, and said. Raises DataError for a demo without such a list.
    """
    would_clean(workspace)
    made = MadeFiles.open(workspace)
    taken = made.remove() if made is not None else Taken((), ())
    logger.info("removed %d files of the demo from %s", len(taken.removed), workspace)
    if taken.kept:
        logger.warning("warning: kept in %s, changed since the demo: %s", workspace, listed(taken.kept))
    elif workspace.root.is_dir():
        logger.info("%s stays: it holds what is not on the demo's list", workspace)
    return taken


def _holds_something(path: Path) -> bool:
    return path.is_symlink() or path.is_file() or (path.is_dir() and any(path.iterdir()))


def _preset(name: str, tune: str) -> list[config.Layer]:
    """Return a method's preset: the variant for frozen features where it has one, nothing for a third party's."""
    frozen = f"{name}-frozen"
    if tune == "head" and frozen in preset_names("methods"):
        return config.preset_layers("methods", frozen)
    return scorers.method_layers(name)


def _same_experiment(run: RunDir, resolved: Resolved, store: FeatureStore) -> bool:
    """Whether a run of an earlier demo was asked to do the same on the same features."""
    last = checkpoint.last_path(run.checkpoints)
    same_data = last is None or checkpoint.read_about(last).get("content") == store.content_hash()
    return same_data and resume.config_hash(run.config()) == resume.config_hash(resolved.tree())


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Leave out the talk of a stage's own functions; warnings stay."""
    before = logger.level
    logger.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(before)
