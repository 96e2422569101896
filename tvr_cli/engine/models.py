"""Which method, with which weights, on which features: what `evaluate`, `index` and `query` start from."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvr_cli import config, log
from tvr_cli.config import Experiment, Resolved
from tvr_cli.engine.training import checkpoint
from tvr_cli.errors import ConfigError, DataError, MethodNotNamed, StoreMismatch
from tvr_cli.files import sha256_file
from tvr_cli.methods import base
from tvr_cli.methods.base import Method
from tvr_cli.runs import RunDir
from tvr_cli.stores.features import FeatureStore

DEFAULT_METHOD = "text_guided"  # answers queries where nothing was trained


@dataclass(frozen=True)
class Scorer:
    """A method ready to score. run: None for a method without training. checkpoint: sha256 of the trained weights."""

    method: Method
    name: str
    experiment: Experiment
    run: RunDir | None
    checkpoint: str | None

    def identity(self) -> dict[str, Any]:
        """Return what makes two scorers the same: method, options, sizes and weights."""
        options = json.dumps(dict(self.experiment.options), sort_keys=True, default=str)
        return {
            "method": self.name,
            "run": self.run.name if self.run else None,
            "options": hashlib.blake2b(options.encode(), digest_size=8).hexdigest(),
            "sizes": asdict(self.method.sizes),
            "checkpoint": self.checkpoint,
        }


def load_method(workspace: Path | str, *, run: str | None = None, method: str | None = None) -> Method:
    """Return a method ready to score: a run's best weights, or one without training, for the workspace's features.

    A run whose method is not built in needs both: a run's files alone never import a module.
    """
    workspace = Path(workspace)
    check_named(workspace, run, method)
    found = find_run(workspace, run)
    store = store_for(workspace, found, None)
    return (trained(found, store, method) if found else untrained(method or DEFAULT_METHOD, store)).method


def options_schema(name: str) -> type:
    """Return the dataclass of a method's options, for `config.resolve`."""
    return base.load_class(name).Config


def resolve_method(name: str, assignments: list[str] | None = None) -> Resolved:
    """Resolve a method's preset (or a dotted third-party method) with `--set` values on top."""
    if "." in name:
        layers = [config.method_layer(name)]
    else:
        layers = config.preset_layers("methods", name)
    return config.resolve([*layers, config.set_layer(assignments or [])], options_schema)


def untrained(name: str, store: FeatureStore, assignments: list[str] | None = None) -> Scorer:
    """Make a method that needs no training. Raises ConfigError when it has parameters that training must set."""
    resolved = resolve_method(name, assignments)
    method = build(resolved.experiment, store)
    if method.trains:
        raise ConfigError(
            f"{resolved.experiment.method} has parameters and no run was named; train it: tvr train --method {name}"
        )
    return Scorer(method.eval(), resolved.experiment.method, resolved.experiment, None, None)


def experiment_of(run: RunDir, named: str | None = None) -> Resolved:
    """Resolve the configuration that a run stores. named: its method, where the command or the caller names it too.

    Raises MethodNotNamed where the run's method is not built in and nobody named it, ConfigError where they named
    another.
    """
    try:
        return config.from_tree(run.config(), options_schema, str(run.config_path), named=named)
    except MethodNotNamed as e:
        e.run = run.name
        raise


def trained(run: RunDir, store: FeatureStore, named: str | None = None) -> Scorer:
    """Load a run's best weights. Raises as `experiment_of` does, and StoreMismatch for features not of the run."""
    resolved = experiment_of(run, named)
    fingerprint = trained_on(run)
    if fingerprint != store.fingerprint:
        raise StoreMismatch(
            f"the run {run.name!r} was trained on the feature store {fingerprint}, this one is {store.fingerprint} "
            f"({store.backbone_name}); name the run's workspace with -o, or train again"
        )
    method = build(resolved.experiment, store)
    path = checkpoint.best_path(run.checkpoints)
    checkpoint.load_model(method, checkpoint.read(path))
    return Scorer(method.eval(), resolved.experiment.method, resolved.experiment, run, sha256_file(path))


def trained_on(run: RunDir) -> str | None:
    """Return the fingerprint of the feature store that a run's best weights go with, None without weights.

    That is the one it was trained on; of a fully tuned run the one that its own backbone made when it was finished.
    """
    path = checkpoint.best_path(run.checkpoints)
    if not path.is_file():
        return None
    about = checkpoint.read_about(path)
    if imported := about.get("imported"):  # its own CLIP made them, or (DMAE) any backbone may
        store = FeatureStore.newest(run.path.parent.parent, imported if isinstance(imported, str) else None)
        return store.fingerprint if store else None
    return run.env().get("tuned_store") if about.get("tune") == "full" else about.get("store")


def _imported(run: RunDir) -> str | None:
    """Return the backbone that an imported run brought along, None of any other run."""
    path = checkpoint.best_path(run.checkpoints)
    imported = checkpoint.read_about(path).get("imported") if path.is_file() else None
    return imported if isinstance(imported, str) else None


def build(experiment: Experiment, store: FeatureStore) -> Method:
    """Build an experiment's method for a store. Raises StoreMismatch when the store lacks features it needs."""
    method = base.build(experiment.method, store.sizes, experiment.options)
    lacking = sorted(method.needs - store.provides)
    if lacking:
        fix = (
            "tvr precompute-features --word-importance stopwords"
            if lacking == ["importance"]
            else ("tvr precompute-features --backbone with one that provides them (tvr methods lists what each needs)")
        )
        raise StoreMismatch(
            f"{experiment.method} needs {', '.join(lacking)}; the feature store of {store.backbone_name} has "
            f"{', '.join(sorted(store.provides))}. Run: {fix}"
        )
    return method


def find_run(workspace: Path, run: str | None) -> RunDir | None:
    """Return a run by name, path, or None when none was asked for. Raises DataError when it does not exist."""
    if run is None:
        return None
    path = Path(run)
    if os.sep in run and (path / "config.json").is_file():
        return RunDir.open(path)
    found = RunDir.at(workspace, path.name if os.sep in run else run)
    if not found.config_path.is_file():
        there = sorted(p.parent.name for p in (workspace / "runs").glob("*/config.json"))
        raise DataError(
            f"expected a run {run!r} in {str(workspace / 'runs')!r}, found {', '.join(there) or 'no run at all'}"
        )
    return found


def check_named(workspace: Path, run: str | None, method: str | None) -> None:
    """Refuse what no workspace could answer, before looking at its features.

    Raises ConfigError for an unknown method, or for a run and another method than its own, DataError for an unknown
    run.
    """
    if run is not None and method is not None and (own := _method_of(workspace, run)) != method:
        known = f"; the run's method is {own}" if own else ""
        raise ConfigError(f"name a run ({run!r}) or --method {method}, not both{known}")
    if method is not None:
        base.load_class(method)
    find_run(workspace, run)


def _method_of(workspace: Path, run: str) -> str | None:
    """Return the name of a run's method, None where there is no such run; nothing is imported."""
    try:
        found = find_run(workspace, run)
    except DataError:
        return None
    return None if found is None else config.method_of([config.Layer(found.config(), str(found.config_path))])


def newest_run(workspace: Path, store: FeatureStore) -> RunDir | None:
    """Return the newest run whose best weights were trained on this store, or None."""
    runs = sorted((workspace / "runs").glob("*/config.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    return next((RunDir(p.parent) for p in runs if trained_on(RunDir(p.parent)) == store.fingerprint), None)


def store_for(workspace: Path, run: RunDir | None, backbone: str | None) -> FeatureStore:
    """Open the feature store that a run was trained on, or that a backbone made (the flag's, else TVR_BACKBONE's), or
    the newest.

    Raises DataError when the workspace has none, StoreMismatch when it has none of this run or backbone.
    """
    if run is not None:
        fingerprint = trained_on(run)
        if fingerprint is None and (imported := _imported(run)):
            raise StoreMismatch(
                f"the run {run.name!r} was imported with its own CLIP, and there are no features of it; run: "
                f"tvr precompute-features --backbone {imported}"
            )
        if fingerprint is None:
            raise DataError(
                f"the run {run.name!r} has no weights yet; continue it with: "
                f"tvr train --resume --run {run.name} -o {workspace}"
            )
        folder = workspace / "features" / str(fingerprint)
        if not folder.is_dir():
            raise StoreMismatch(
                f"the run {run.name!r} was trained on the feature store {fingerprint}, which is not in "
                f"{str(workspace / 'features')!r}; run tvr precompute-features with the run's backbone and plans"
            )
        return FeatureStore.open(folder)
    backbone = backbone or os.environ.get("TVR_BACKBONE")
    store = FeatureStore.newest(workspace, backbone)
    if store is None:
        raise DataError(
            f"expected features in {str(workspace / 'features')!r}{f' made by {backbone}' if backbone else ''}, found "
            f"none; run: tvr precompute-features{f' --backbone {backbone}' if backbone else ''} -o {workspace}"
        )
    return store


def announce(scorer: Scorer, store: FeatureStore) -> None:
    """Say on stderr which method, run and store were taken."""
    what = f"run {scorer.run.name!r} ({scorer.name})" if scorer.run else f"method {scorer.name}, no training"
    log.logger.info("using %s on features %s (%s)", what, store.fingerprint, store.backbone_name)
