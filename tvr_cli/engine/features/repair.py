"""Making features again by their store's own backbone and plans: a damaged shard, what it lacks, what has changed."""

from __future__ import annotations

from pathlib import Path

from tvr_cli import files, log
from tvr_cli.backbones import registry
from tvr_cli.engine.features.corpus import Captions
from tvr_cli.engine.features.precompute import PrecomputeReport, precompute
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.plans import PrecomputeOptions
from tvr_cli.stores.features import head as heads
from tvr_cli.stores.features.head import Made
from tvr_cli.stores.features.rebuild import rebuild_head
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
    if workspace.feature_folder(files.bare_name(shard, workspace.features_folder)).is_dir():
        folder = workspace.feature_folder(shard)
        with files.lock(folder):
            if rebuild_head(folder, workspace):
                log.logger.info("the head of %s was made again from what lies beside its shards", folder)
        made = heads.read_head(folder, workspace).made
        _require_computed(made, folder, workspace)
        _require_same(made, named)
        return _again(workspace, made, options, captions, named=named)
    for folder in workspace.begun_features():
        head, lines = heads.read(folder, workspace)
        if any(line.name == shard for line in lines):
            _require_computed(head.made, folder, workspace)
            _require_same(head.made, named)
            with files.lock(folder):
                FeatureWriter(folder, head.made, workspace).drop(shard)
            return _again(workspace, head.made, options, captions, named=named)
    raise DataError(f"no feature store in {str(workspace.features_folder)!r} has a shard or fingerprint {shard!r}")


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
    made = heads.read_head(store.root, workspace).made
    _require_computed(made, store.root, workspace)
    return _again(workspace, made, options, captions, named=named)


def _require_computed(made: Made, folder: Path, workspace: Workspace) -> None:
    """Refuse what was imported: there are no frames that it could be made from again."""
    if made.imported is not None:
        raise DataError(
            f"the features in {str(folder)!r} were imported, and there are no frames to make them from again; import "
            f"them again, which keeps what is whole: {heads.complete(folder, workspace)}"
        )


def _require_same(made: Made, named: str | None) -> None:
    """Refuse another backbone than the store's: it was made by that one, and whoever names another means new ones."""
    if named is None or registry.is_same(made.backbone, named):
        return
    raise ConfigError(
        f"--repair makes features again by the backbone that made them, {made.backbone}, and --backbone names {named}; "
        "leave out --backbone, or leave out --repair to make features of the other"
    )


def _again(
    workspace: Workspace,
    made: Made,
    options: PrecomputeOptions,
    captions: Captions = None,
    *,
    named: str | None,
) -> PrecomputeReport:
    registry.require_named(made.backbone, named, workspace.feature_folder(made.fingerprint))
    return precompute(workspace, made.backbone, captions, options.as_made(made.identity, made.provenance))
