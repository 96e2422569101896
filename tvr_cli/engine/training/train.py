"""Training a method in a workspace: find or make the features, build everything, run the loop, say what came out."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tvr_cli import commands, config, files, log, metrics
from tvr_cli.backbones import registry
from tvr_cli.config import Experiment, Resolved, TrainConfig
from tvr_cli.engine import scorers
from tvr_cli.engine.device import DEFAULT_BUDGET, default_threads, kernel_errors, pick_device, use_threads
from tvr_cli.engine.evaluation.gallery import gallery_of_captions, video_scores
from tvr_cli.engine.features import require as training_store
from tvr_cli.engine.training import board, checkpoint, launch, ranks, resume
from tvr_cli.engine.training import optimisers as optim
from tvr_cli.engine.training.assemble import (
    build_learner,
    build_source,
    require_backbone,
    require_in_range,
    require_named_backbone,
    require_trainable,
    skeleton,
)
from tvr_cli.engine.training.learner import Learner
from tvr_cli.engine.training.loop import Loop, Names, Outcome
from tvr_cli.engine.training.presence import Place, RankLost
from tvr_cli.engine.training.ranks import Ranks
from tvr_cli.engine.training.sampling import PairSampler
from tvr_cli.engine.training.selection import Selection, numbers_of_videos, select
from tvr_cli.engine.training.sources import FeatureSource
from tvr_cli.engine.training.train_result import BestStep, Leaf, StoreFound, StoreNeeded, TrainPreview, TrainSummary
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem, Interrupted, MethodNotNamed
from tvr_cli.methods import base
from tvr_cli.plans import PrecomputeOptions, Wish
from tvr_cli.results.base import read
from tvr_cli.results.metrics import Metrics
from tvr_cli.runs import RunDir, environment
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.types import Manifest
from tvr_cli.version import __version__
from tvr_cli.workspace import Workspace

_WAIT_S = 10.0  # for another process that trains the run of the same name


@dataclass(frozen=True)
class TrainOptions:
    """What is not part of the experiment. run: name, None = the first free one: `stem`, with a number when it is taken.

    stem: what that name begins with, None = the method's. like: a run whose features, threads and matrix product this
    one takes over. threads: None = the cores that stand idle; a resumed run keeps those it began with. workers:
    processes that decode frames for `tune: full`, None = all cores but one, 0 = none; of each rank. devices: of this
    machine to train on, each in a process of its own. place: which rank this process is, where others started them.
    """

    run: str | None = None
    stem: str | None = None
    resume: bool = False
    captions: Path | None = None
    device: str = "auto"
    offline: bool = False
    like: RunDir | None = None
    threads: int | None = None
    workers: int | None = None
    memory_budget: int = DEFAULT_BUDGET
    devices: int = 1
    place: Place | None = None


def resolve(layers: list[config.Layer]) -> Resolved:
    """Resolve the layers of a training run against the method's own options."""
    return config.resolve(layers, scorers.options_schema)


def experiment_of(
    workspace: Workspace,
    options: TrainOptions,
    *,
    method: str | None = None,
    recipe: str | None = None,
    config_file: Path | None = None,
    assignments: list[str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> tuple[Resolved, TrainOptions]:
    """Resolve what the command line says; a resumed run starts from its own stored configuration.

    Returns the experiment, and the options with the name of the run that is continued filled in.
    """
    layers: list[config.Layer] = []
    run: RunDir | None = None
    if options.resume:
        run = _run_to_resume(workspace, options.run)
        options = dataclasses.replace(options, run=run.name)
        stored = {k: v for k, v in run.config().items() if v is not None}
        layers.append(config.Layer(stored, str(run.config_path)))
    if method is not None:
        layers += [config.method_layer(method)] if options.resume else scorers.method_layers(method)
    if recipe is not None:
        layers += config.preset_layers("recipes", recipe)
    if config_file is not None:
        layers += config.file_layers(config_file)
    layers += [config.set_layer(assignments or []), config.flag_layer(flags or {})]
    try:
        return resolve(layers), options
    except MethodNotNamed as e:
        e.run = run.name if run else None
        raise


@kernel_errors()
def train(resolved: Resolved, workspace: Workspace, options: TrainOptions) -> TrainSummary:
    """Train as `resolved` says and return the summary.

    Raises ConfigError for a method without anything to train, DataError without captions or when a resumed run differs,
    Interrupted, with the command that continues, when the user stops it, RankLost when another rank ends early.
    """
    require_named_backbone(resolved)
    require_in_range(resolved.experiment.train)
    _require_devices(options)
    if options.devices > 1:
        return launch.launch(options.devices, partial(_train_at, resolved, workspace, options))
    with contextlib.ExitStack() as held:
        group = held.enter_context(ranks.join(options.place))
        begun = _begin(held, resolved, workspace, options) if group.first else None
        told = group.of_first(lambda: None if begun is None else [begun[0].name, begun[1].fingerprint, begun[2]])
        run, store, before = begun or (workspace.run(told[0]), workspace.features(told[1]), told[2])
        return _train_in(run, workspace, store, resolved, options, before, group)


def _require_devices(options: TrainOptions) -> None:
    if options.devices > 1:
        launch.require_devices(options.devices, options.device)


def _train_at(resolved: Resolved, workspace: Workspace, options: TrainOptions, place: Place) -> TrainSummary:
    """Train as one of the ranks that this machine's launcher starts."""
    return train(resolved, workspace, dataclasses.replace(options, devices=1, place=place))


def _begin(
    held: contextlib.ExitStack, resolved: Resolved, workspace: Workspace, options: TrainOptions
) -> tuple[RunDir, FeatureStore, dict[str, Any]]:
    """Make the features where they are missing, and take the lock of the run into `held`.

    Returns the run, its features, and the environment of the run that is continued or repeated.
    """
    experiment = resolved.experiment
    run = _named_or_fresh(workspace, experiment.method, options)
    if options.resume:
        stored = RunDir.open(run.path)
        resume.require_same_config(run.name, stored.config(), resolved.tree())
    else:
        _require_new(run)
    origin = RunDir.open(run.path) if options.resume else options.like
    wish = Wish.from_experiment(experiment, base.load_class(experiment.method).needs)
    if origin is not None:
        store = training_store.of_run(workspace, origin)
        _require_possible(experiment, workspace, wish, store)
    else:
        _require_possible(experiment, workspace, wish, training_store.find(workspace, wish)[0])
        store = training_store.require(
            workspace, wish, captions=_captions(resolved, options),
            device=options.device, offline=options.offline,
        )  # fmt: skip
    run = _claim(held, run, workspace, experiment.method, options)
    return run, store, {} if origin is None else origin.env()


def dry_run(resolved: Resolved, workspace: Workspace, options: TrainOptions) -> TrainPreview:
    """Return what `train` would do, writing nothing: the store it needs, the configuration, the parameter groups."""
    experiment = resolved.experiment
    require_named_backbone(resolved)
    require_in_range(experiment.train)
    _require_devices(options)
    run = _named_or_fresh(workspace, experiment.method, options)
    wish = Wish.from_experiment(experiment, base.load_class(experiment.method).needs)
    store, reasons = training_store.find(workspace, wish)
    _require_possible(experiment, workspace, wish, store)
    sizes = store.sizes if store is not None else training_store.expected_sizes(workspace, wish)
    method = base.build(experiment.method, sizes, experiment.options)
    learner = Learner(method, skeleton(workspace, wish, store) if experiment.train.tune == "full" else None)
    pairs, steps = None, experiment.train.steps
    if store is not None and len(store.split("train")):
        sampler = _sampler(store, select(store, experiment.train), experiment.train)
        pairs, steps = len(sampler), steps or experiment.train.epochs * sampler.steps
    return TrainPreview(
        method=experiment.method,
        fidelity=method.fidelity,
        run=run.name,
        store=_store_needed(workspace, wish, store, reasons),
        sizes=sizes,
        config=[Leaf(*leaf) for leaf in resolved.leaves()],
        groups=optim.group_parameters(learner.named(), experiment.train, learner.dead()).table(),
        pairs=pairs,
        steps=steps,
    )


def _train_in(
    run: RunDir,
    workspace: Workspace,
    store: FeatureStore,
    resolved: Resolved,
    options: TrainOptions,
    before: Mapping[str, Any],
    group: Ranks,
) -> TrainSummary:
    """Train in a run's folder. before: environment of the run that is continued or repeated; its settings are kept.

    group: the ranks that train it together, of which the first writes.
    """
    train_config = resolved.experiment.train
    if options.resume:
        resume.require_same_world(run.name, train_config, before.get("devices", 1), group.world)
    saved = _saved(run, store) if options.resume else None
    threads = use_threads(group.of_first(lambda: options.threads or before.get("threads") or _threads_of_each(group)))
    gemm = _fix_gemm(group, before.get("cpu_gemm"))
    device = group.open(pick_device(options.device))
    chosen = select(store, train_config)
    sampler = _sampler(store, chosen, train_config)
    scale = scorers.scale_of_run(before) if before else None
    learner = build_learner(resolved, store, offline=options.offline, device=device, scale=scale)
    source = build_source(
        store, learner, train_config, device, workspace=workspace, workers=options.workers, ranks=group
    )
    about = {
        "method": resolved.experiment.method,
        "tune": train_config.tune,
        "config": resume.config_hash(resolved.tree()),
        "store": store.fingerprint,
        "content": store.content_hash(),
        "sizes": dataclasses.asdict(store.sizes),
    }
    loop = Loop(
        learner, source, sampler, _names(store), train_config, run, device=device, about=about,
        validate=_validator(learner, source, store, chosen, options.memory_budget, group),
        watch=board.watcher(run.path / "tensorboard") if train_config.tensorboard and group.first else None,
        ranks=group,
    )  # fmt: skip
    if saved is not None:
        loop.resume(saved)
        log.logger.info("run %r goes on after step %d of %d", run.name, loop.step, loop.total)
    _require_same(group, resolved, learner, loop, store)
    several = {} if group.world == 1 else {"devices": group.world}
    if not group.first:
        pass  # the first writes for all
    elif options.resume:
        session = {"step": loop.step, **several, **environment(registry.packages().values())}
        files.write_json(run.env_path, {**before, "resumed": [*before.get("resumed", []), session]})
    else:
        kept = {"device": str(device), "threads": threads, "cpu_gemm": gemm, "store": store.fingerprint, **several}
        kept |= scorers.scale_said(learner.method.scale)
        run.write_env({**kept, "validation": chosen.where}, registry.packages().values())
        run.write_config(resolved)  # last: a run exists from here on, and can be resumed
    log.logger.info(
        "training %s on features %s (%s): %d pairs an epoch, %d steps, %d thread%s; selected on %s",
        resolved.experiment.method, store.fingerprint, store.backbone_name, len(sampler), loop.total, threads,
        "" if threads == 1 else "s", chosen.where,
    )  # fmt: skip
    try:
        outcome = loop.run()
    except (Interrupted, RankLost) as e:
        named = commands.own_method(resolved.experiment.method)
        again = commands.tvr("train", resume=True, run=run.name, **named, workspace=workspace)
        raise type(e)(f"{e}; continue with: {again}") from e
    finally:
        source.close()
    if train_config.tune == "full" and group.first:
        from tvr_cli.engine.training import tuned

        store = tuned.finish(
            run, workspace, store, PrecomputeOptions(device=options.device, offline=options.offline),
            named=resolved.experiment.backbone.name,
        )  # fmt: skip
    return _summary(run, store, resolved, outcome)


def _require_possible(experiment: Experiment, workspace: Workspace, wish: Wish, store: FeatureStore | None) -> None:
    """Refuse what cannot be trained: first for what the backbone lacks, which another form of the method needs too."""
    require_backbone(experiment, workspace, wish, store)
    require_trainable(
        experiment.method, experiment.options, experiment.train, workspace=workspace, backbone=wish.backbone
    )


def _run_to_resume(workspace: Workspace, name: str | None) -> RunDir:
    run = workspace.find_run(name) if name else workspace.newest_run()
    if run is None:
        raise DataError(f"expected a run to resume in {str(workspace.runs_folder)!r}, found none")
    if name is None:
        log.logger.info("resuming the newest run, %r", run.name)
    return run


def _captions(resolved: Resolved, options: TrainOptions) -> Path | Manifest | None:
    """Return the captions that were named: a file, else the experiment's data set, where it says its root."""
    named, origin = resolved.experiment.data, resolved.origins.get("data.name", "default")
    if options.captions is not None or not (named.name and named.root):
        return options.captions
    from tvr_cli import data

    spec = f"{named.name}:{named.root}{f':{named.variant}' if named.variant else ''}"
    if config.is_typed(origin):
        return data.load(spec)
    return data.load_from(origin, spec, fix=commands.tvr("train", set=f"data.name={named.name}"))


def _saved(run: RunDir, store: FeatureStore) -> checkpoint.Checkpoint | None:
    path = checkpoint.last_path(run.checkpoints)
    if path is None:
        log.logger.info("run %r has no checkpoint yet; it starts from the beginning", run.name)
        return None
    saved = checkpoint.read(path)
    resume.require_same_data(run.name, saved.about, store.fingerprint, store.content_hash())
    return saved


def _sampler(store: FeatureStore, chosen: Selection, train: TrainConfig) -> PairSampler:
    rows = chosen.train.tolist()
    sampler = PairSampler(
        rows,
        store.captions.clips_of(chosen.train),
        batch_size=train.batch_size * train.accumulate,
        per_video=train.captions,
        seed=train.seed,
    )
    if len(sampler) < 2:
        raise DataError(
            f"expected at least two pairs to compare with each other, found {len(sampler)} training caption(s) of "
            "distinct videos; add captions of more videos"
        )
    return sampler


def _validator(
    learner: Learner,
    source: FeatureSource,
    store: FeatureStore,
    chosen: Selection,
    memory_budget: int,
    group: Ranks,
) -> Callable[[], dict[str, Any]] | None:
    if len(chosen.validation) == 0:
        log.logger.warning("warning: no validation captions; the last weights are kept instead of the best")
        return None
    gallery = gallery_of_captions(store, chosen.validation)

    def validate() -> dict[str, Any]:
        together = None if group.world == 1 else group
        scores = video_scores(learner.method, source, gallery, memory_budget, together)
        found: dict[str, Any] = group.of_first(lambda: metrics.evaluate(scores.numpy(), gallery.video_of_caption))
        return found

    return validate


def _names(store: FeatureStore) -> Names:
    captions, clips = store.captions, store.clips
    return Names(lambda i: captions[i].id, lambda i: clips[i].id, numbers_of_videos(store))


def _fix_gemm(group: Ranks, before: str | None) -> str:
    """Fix the matrix product of scores for this run: the one it began with, else the faster one here (at rank 0)."""
    from tvr_kernels import gemm

    return gemm.use(group.of_first(lambda: before or gemm.setting()))


def _threads_of_each(group: Ranks) -> int:
    """Return the threads of a rank where nobody says how many: its part of the cores that stand idle."""
    return max(1, default_threads() // group.local_world)


def _require_same(group: Ranks, resolved: Resolved, learner: Learner, loop: Loop, store: FeatureStore) -> None:
    """Compare what every rank is about to do before the first step. Raises as `Ranks.require_same` does."""
    if group.world == 1:
        return
    group.require_same(
        resume.leaves(resolved.tree()),
        {
            "version of tvr": __version__,
            "features": f"{store.fingerprint} {store.content_hash()}",
            "step": str(loop.step),
            "weights": ranks.hash_of(learner.state_dict()),
        },
    )


def _claim(held: contextlib.ExitStack, run: RunDir, workspace: Workspace, method: str, options: TrainOptions) -> RunDir:
    """Take the lock of a run into `held` and return it: the one named, else the first that no other process begins.

    Raises ConfigError when another process has begun the named run meanwhile, EnvironmentProblem while it trains.
    """
    taken: set[str] = set()
    while True:
        lock = contextlib.ExitStack()
        try:
            lock.enter_context(files.lock(run.path, wait_s=_WAIT_S if options.run else 0.0))
            if not options.resume:
                _require_new(run)
        except (EnvironmentProblem, ConfigError):
            lock.close()
            if options.run or not run.path.is_dir():
                raise
            taken.add(run.name)
            run = _named_or_fresh(workspace, method, options, taken)
        else:
            held.enter_context(lock)
            return run


def _require_new(run: RunDir) -> None:
    if run.begun:
        raise ConfigError(
            f"the run {run.name!r} exists; continue it with --resume, or give this one another name with --run NAME"
        )
    run.require_own()


def _named_or_fresh(workspace: Workspace, method: str, options: TrainOptions, taken: Collection[str] = ()) -> RunDir:
    """Return the run that is named, else the first free one that begins with the stem."""
    if options.run:
        return workspace.run(options.run)
    stem = options.stem or (method.rpartition(".")[2] if method.rpartition(".")[2] != "Method" else method)
    return workspace.free_run(stem, taken)


def _store_needed(
    workspace: Workspace, wish: Wish, store: FeatureStore | None, reasons: list[str]
) -> StoreFound | StoreNeeded:
    if store is not None:
        return StoreFound(
            fingerprint=store.fingerprint,
            backbone=store.backbone_name,
            captions=len(store.captions),
            clips=len(store.clips),
        )
    from tvr_cli.engine.features.choose import choose_for

    frames = workspace.has_frames
    return StoreNeeded(
        backbone=choose_for(wish, workspace),
        shape=wish.shape,
        frames=wish.frames,
        words=wish.words,
        importance=wish.importance,
        temporal_shift=wish.temporal_shift,
        next=f"{commands.tvr('train')} computes it from the frames"
        if frames
        else commands.tvr("extract-frames", commands.VIDEOS, workspace=workspace),
        why_not_the_newest=reasons,
    )


def _summary(run: RunDir, store: FeatureStore, resolved: Resolved, outcome: Outcome) -> TrainSummary:
    return TrainSummary(
        tvr=__version__,
        method=resolved.experiment.method,
        fidelity=base.load_class(resolved.experiment.method).fidelity,
        run=run.name,
        path=run.path,
        store=store.fingerprint,
        backbone=store.backbone_name,
        tune=resolved.experiment.train.tune,
        steps=outcome.steps,
        stopped=outcome.stopped,
        seconds=outcome.seconds,
        samples_per_s=outcome.samples_per_s,
        peak_memory_bytes=outcome.peak_memory_bytes,
        selected_on=resolved.experiment.train.select_on,
        best=_best_of(run, outcome.best),
    )


def _best_of(run: RunDir, best: checkpoint.Best | None) -> BestStep | None:
    """Return the best step; its metrics may come from the checkpoint of an earlier session, so they are checked."""
    if best is None:
        return None
    return BestStep(best.step, read(Metrics, best.metrics, f"the best step of {run.name!r}") if best.metrics else None)
