"""`tvr demo`: every stage of the pipeline on a toy world, by the functions that the commands call.

make the corpus -> extract frames -> precompute features -> train -> evaluate -> query. Each stage keeps what an earlier
demo in the same workspace has done. The result is a table that says nothing about which method is better: the world is
made up, the backbone was trained on it, and every method has a minute or so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvr_cli import config
from tvr_cli.config import Resolved
from tvr_cli.data.demo import NOTE
from tvr_cli.data.demo_world import corpus
from tvr_cli.data.demo_world.corpus import Truth, WorldPlan
from tvr_cli.engine import demo_results, evaluate, index, models, query
from tvr_cli.engine.extract import ExtractOptions, extract
from tvr_cli.engine.models import Scorer
from tvr_cli.engine.precompute import PrecomputeOptions, precompute
from tvr_cli.engine.search import SearchOptions
from tvr_cli.engine.train import TrainOptions, train
from tvr_cli.engine.training import checkpoint, resume
from tvr_cli.errors import ConfigError, did_you_mean
from tvr_cli.log import logger
from tvr_cli.methods import base
from tvr_cli.preset_loader import preset_names
from tvr_cli.runs import RunDir
from tvr_cli.stores.features import FeatureStore
from tvr_cli.types import FramePlan, Sizes

BACKBONE = "demo-tiny"
DATASET = "demo"
DEFAULT_METHODS = ("mean", "text_guided", "glccl")
SPLIT = "test"
BYTES_A_VIDEO = 80_000  # of disk: the video, its frames and their features, the captions' features, the index
FULL = {"train.backbone_lr": 1e-4}  # a hundred times what a real CLIP bears; 3e-4 forgets faster than it learns
SMALL = {"train.epochs": 2, "train.batch_size": 32}
MADE = ("videos", "frames", "features", "runs", "index")  # what a demo leaves in its workspace


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
    def world(self) -> WorldPlan:
        return corpus.SMALL if self.small else WorldPlan()


@dataclass
class Stage:
    """One line of the demo. seconds: wall clock. kept: nothing had to be done."""

    name: str
    text: str = ""
    seconds: float = 0.0


class Demo:
    """One demo in a workspace; `run` does everything and returns what `tvr demo --json` prints."""

    def __init__(self, workspace: Path, options: DemoOptions):
        self.workspace, self.options = workspace, options
        self.stages: list[Stage] = []
        self.experiments = {name: self._resolve(name) for name in options.methods}

    def run(self) -> dict[str, Any]:
        """Run every stage. Raises whatever a stage raises; what was done before is kept and not done again."""
        started = time.monotonic()
        world = self.make_corpus()
        self.extract_frames()
        store = self.precompute_features()
        truth = corpus.read_truth(self.videos)
        rows = [self.measure(name, store, truth) for name in self.options.methods]
        answer = self.ask(store)
        return {
            "schema": "tvr/demo@1",
            "title": NOTE,
            "workspace": str(self.workspace),
            "backbone": BACKBONE,
            "encoder": world.encoder,
            "small": self.options.small,
            "tune": self.options.tune,
            "seeds": list(self.options.seeds),
            "split": SPLIT,
            "queries": len(store.split(SPLIT)),
            "stages": [asdict(stage) for stage in self.stages],
            "methods": rows,
            "query": answer,
            "seconds": time.monotonic() - started,
        }

    def plan(self) -> dict[str, Any]:
        """Say what `run` would make, writing nothing."""
        world = self.options.world
        videos = world.train + world.val + world.test
        return {
            "schema": "tvr/demo@1",
            "dry_run": True,
            "workspace": str(self.workspace),
            "videos": videos,
            "captions": (world.train + world.val) * world.captions + world.test * world.test_captions,
            "frames": videos * self._frame_plan().num_frames,
            "bytes": videos * BYTES_A_VIDEO,
            "methods": [
                {
                    "method": name,
                    "trains": self._trains(name),
                    "runs": len(self.options.seeds) if self._trains(name) else 0,
                    "epochs": self.experiments[name].experiment.train.epochs,
                }
                for name in self.options.methods
            ],
        }

    @property
    def videos(self) -> Path:
        return self.workspace / "videos"

    def make_corpus(self) -> corpus.WorldReport:
        """Make the videos, captions and ground truth, or what is missing of them."""
        with self._stage("videos") as stage:
            made = corpus.make(self.videos, self.options.world, workers=self.options.workers or os.cpu_count() or 1)
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
        options = PrecomputeOptions(
            shape=experiment.shape or "fixed",
            words=experiment.words.shape,
            max_words=experiment.words.length,
            word_importance="stopwords",  # dmae reads it, the others do not mind
            device=self.options.device,
            offline=True,
        )
        with self._stage("features") as stage:
            store = precompute(self.workspace, BACKBONE, None, options).store
            assert store is not None  # only a dry run has none
            stage.text = f"{len(store.clips)} videos, {len(store.captions)} captions, {store.sizes.dim} numbers each"
        return store

    def measure(self, name: str, store: FeatureStore, truth: dict[str, Truth]) -> dict[str, Any]:
        """Train a method once a seed if it trains, and evaluate: one row of the table."""
        scorers, seconds = self._scorers(name, store)
        results, moments = [], []
        options = evaluate.EvaluateOptions(SPLIT, device=self.options.device)
        with self._stage(f"evaluate {name}") as stage:
            for scorer in scorers:
                # A run that tuned the backbone has features of its own.
                seen = models.store_for(self.workspace, scorer.run, None) if scorer.run else store
                evaluate.evaluate(scorer, seen, self.workspace, options)
                run = scorer.run or RunDir.at(self.workspace, scorer.name)
                ranks, videos = demo_results.kept_ranks(run, SPLIT)
                results.append(demo_results.recalls(ranks, [truth[v].kind for v in videos]))
                moments.append(demo_results.spans(scorer.method, seen, SPLIT, truth).summary())
            folded = demo_results.over_seeds(results)
            stage.text = f"R@1 {folded['R@1']['value']:.1f} on {len(videos)} captions x {len(set(videos))} videos"
        return {
            "method": name,
            "fidelity": scorers[0].method.fidelity,
            "runs": [s.run.name if s.run else None for s in scorers],
            "trains": self._trains(name),
            "train_seconds": seconds,
            "t2v": folded,
            "moments": demo_results.over_seeds(moments),
        }

    def ask(self, store: FeatureStore) -> dict[str, Any]:
        """Answer the first test caption with the last method of the list, as `tvr query` does."""
        name = self.options.methods[-1]
        run = self._run_name(name, self.options.seeds[0]) if self._trains(name) else None
        caption = store.captions[int(store.split(SPLIT)[0])]
        with self._stage("query") as stage, _hushed():
            asked = index.Asked(run=run, method=name)
            index.index(self.workspace, asked, device=self.options.device)
            hits = query.query([caption.text], self.workspace, SearchOptions(k=3), run=run, method=name, offline=True)[
                0
            ]
            stage.text = f"{len(store.clips)} videos indexed, one question asked"
        truth = corpus.read_truth(self.videos)[caption.file_id]
        return {
            "query": caption.text,
            "method": name,
            "hits": [{**asdict(h), "right": h.video_id == caption.file_id} for h in hits],
            "event": list(truth.span),
        }

    def _scorers(self, name: str, store: FeatureStore) -> tuple[list[Scorer], float]:
        """Return one scorer a seed (one in all without training), and the seconds that training took now."""
        if not self._trains(name):
            return [models.untrained(name, store)], 0.0
        scorers, seconds = [], 0.0
        for seed in self.options.seeds:
            with self._stage(f"train {name}" + (f", seed {seed}" if len(self.options.seeds) > 1 else "")) as stage:
                stage.text, kept = self._train(name, seed, store)
            seconds += 0.0 if kept else stage.seconds
            run = RunDir.at(self.workspace, self._run_name(name, seed))
            scorers.append(models.trained(run, models.store_for(self.workspace, run, None), name))
        return scorers, seconds

    def _train(self, name: str, seed: int, store: FeatureStore) -> tuple[str, bool]:
        """Train, go on, or keep what is finished; say what was done, and whether it was the last of the three."""
        resolved = self._resolve(name, seed)
        run = RunDir.at(self.workspace, self._run_name(name, seed))
        if run.config_path.is_file() and not _same_experiment(run, resolved, store):
            shutil.rmtree(run.path)  # of an earlier demo with other settings
        before = checkpoint.last_path(run.checkpoints)
        options = TrainOptions(run=run.name, resume=run.config_path.is_file(), device=self.options.device, offline=True)
        with _hushed():
            summary = train(resolved, self.workspace, options)
        best = summary["best"] or {}
        kept = before is not None and before == checkpoint.last_path(run.checkpoints)
        done = "kept" if kept else f"{summary['samples_per_s']:.0f} pairs/s"
        return f"{summary['steps']} steps ({done}), best on validation after {best.get('step', summary['steps'])}", kept

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
        return config.resolve(layers, models.options_schema)

    def _frame_plan(self) -> FramePlan:
        frames = next(iter(self.experiments.values())).experiment.frames
        return FramePlan("uniform", num_frames=frames.num_frames or 12, size=frames.size or 64)

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[Stage]:
        stage = Stage(name)
        started = time.monotonic()
        yield stage
        stage.seconds = time.monotonic() - started
        self.stages.append(stage)
        logger.info("%-24s %s, %.1f s", name, stage.text, stage.seconds)


def check_methods(wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the methods to compare; `all` means every built-in one, those without parameters first.

    Raises ConfigError for an unknown name.
    """
    if list(wanted) == ["all"]:
        rest = [name for name in base.names() if name not in DEFAULT_METHODS[:2]]
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


def clean(workspace: Path) -> None:
    """Delete what the demo left in a workspace, and the workspace itself if nothing else is in it."""
    for part in MADE:
        shutil.rmtree(workspace / part, ignore_errors=True)
    (workspace / ".lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        workspace.rmdir()


def _preset(name: str, tune: str) -> list[config.Layer]:
    """Return a method's preset: the variant for frozen features where it has one, nothing for a third party's."""
    if "." in name:
        return [config.method_layer(name)]
    frozen = f"{name}-frozen"
    return config.preset_layers("methods", frozen if tune == "head" and frozen in preset_names("methods") else name)


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
