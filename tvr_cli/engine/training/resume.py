"""May this run go on? A resumed run must be the same experiment on the same features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tvr_cli import config
from tvr_cli.config import TrainConfig
from tvr_cli.errors import DataError, StoreMismatch

# Leaves that change what is kept or shown, never the numbers.
HARMLESS = frozenset({"train.keep_checkpoints", "train.checkpoint_every", "train.tensorboard"})
# Leaves that earlier versions did not have, with what they did: a run of theirs is the same experiment.
ADDED = {"train.gradients": "exact"}


def config_hash(tree: Mapping[str, Any]) -> str:
    """Return a hash of every leaf that can change the numbers of a run."""
    flat = config.flatten(tree)
    counted = {path: value for path, value in flat.items() if path not in HARMLESS and ADDED.get(path) != value}
    return hashlib.blake2b(json.dumps(counted, sort_keys=True, default=list).encode(), digest_size=8).hexdigest()


def require_same_config(run: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise DataError that lists the leaves in which the run's configuration differs from the one asked for now."""
    before, now = ADDED | leaves(stored), leaves(wanted)
    changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k) and k not in HARMLESS)
    if changed:
        told = "; ".join(f"{k} was {before.get(k)!r}, now {now.get(k)!r}" for k in changed)
        raise DataError(
            f"the run {run!r} cannot go on with another configuration: {told}. Leave these out to continue it as it "
            "was, or start another with --run NAME"
        )


def require_same_world(run: str, train: TrainConfig, before: int, now: int) -> None:
    """Raise DataError where the numbers of a run depend on how many devices train it, and those are others now."""
    if train.gradients == "authors" and before != now:
        raise DataError(
            f"the run {run!r} averages gradients over {before} devices (train.gradients: authors), so it cannot go on "
            f"with {now} to the same numbers; give --devices {before}, or start another with --run NAME"
        )


def require_same_data(run: str, about: Mapping[str, Any], store: str, content: str) -> None:
    """Raise StoreMismatch when the features or captions are not those that the run was trained on."""
    if about.get("store") != store:
        raise StoreMismatch(f"the run {run!r} was trained on the features {about.get('store')}, these are {store}")
    if about.get("content") != content:
        raise StoreMismatch(
            f"clips or captions of the features {store} have changed since the run {run!r} began, so it cannot go on "
            "to the same numbers; start another with --run NAME"
        )


def leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a configuration by dotted path, as JSON has them: lists where a resolved one has tuples."""
    return {k: json.loads(json.dumps(v, default=list)) for k, v in config.flatten(tree).items()}
