"""Making features again by their store's own backbone and plans: a damaged shard, what it lacks, what has changed."""

from __future__ import annotations

from typing import Any

from tvr_cli import files
from tvr_cli.backbones import registry
from tvr_cli.engine.features.corpus import Captions
from tvr_cli.engine.features.precompute import PrecomputeReport, precompute
from tvr_cli.errors import DataError
from tvr_cli.plans import PrecomputeOptions
from tvr_cli.stores.features import store as features
from tvr_cli.stores.features.shards import read_lines
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.features.writer import FeatureWriter
from tvr_cli.workspace import Workspace


def repair(
    workspace: Workspace,
    shard: str,
    options: PrecomputeOptions,
    captions: Captions = None,
    *,
    named: str | None = None,
) -> PrecomputeReport:
    """Make one shard of any feature store of a workspace again, with the settings of its store.

    shard: its name, or the fingerprint of a store: then everything that this store lacks is made. named: as in
    `backbone_of`. Only device, batch and offline are taken from `options`. Raises DataError when no store has such a
    shard.
    """
    folders = workspace.begun_features()
    if shard in (f.name for f in folders):
        return _again(
            workspace, features.read_header(workspace.feature_folder(shard), workspace), options, captions, named=named
        )
    folder = next((f for f in folders if any(line.name == shard for line in read_lines(f))), None)
    if folder is None:
        raise DataError(f"no feature store in {str(workspace.features_folder)!r} has a shard or fingerprint {shard!r}")
    header = features.read_header(folder, workspace)
    with files.lock(folder):
        FeatureWriter(folder, header).drop(shard)
    return _again(workspace, header, options, captions, named=named)


def refresh(
    workspace: Workspace,
    store: FeatureStore,
    options: PrecomputeOptions,
    captions: Captions = None,
    *,
    named: str | None = None,
) -> PrecomputeReport:
    """Bring a store up to date with the frames and captions of its workspace, by its own backbone and plans.

    captions: as in `precompute`. named: as in `backbone_of`. Only device, batch and offline are taken from `options`.
    """
    return _again(workspace, features.read_header(store.root, workspace), options, captions, named=named)


def _again(
    workspace: Workspace,
    header: dict[str, Any],
    options: PrecomputeOptions,
    captions: Captions = None,
    *,
    named: str | None,
) -> PrecomputeReport:
    registry.require_named(header["backbone"], named, workspace.feature_folder(header["fingerprint"]))
    own = options.as_made(header["identity"], header["provenance"])
    return precompute(workspace, header["backbone"], captions, own)
