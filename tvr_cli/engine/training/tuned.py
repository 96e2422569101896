"""What a fully tuned run leaves for scoring: its backbone as a folder, and the features that this backbone makes.

    runs/<name>/backbone/     the best weights' backbone, `--backbone local:…` loads it
    features/<fingerprint>/   its features of the same frames and captions; env.json of the run names them

Evaluation, index and queries then work as for any run: the run's store is the one its own backbone made.
"""

from __future__ import annotations

from tvr_cli import commands, files, log
from tvr_cli.backbones import registry
from tvr_cli.engine.features import precompute
from tvr_cli.engine.features.precompute import backbone_of
from tvr_cli.engine.training import checkpoint
from tvr_cli.plans import PrecomputeOptions
from tvr_cli.runs import RunDir
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.workspace import Workspace


def finish(
    run: RunDir, workspace: Workspace, store: FeatureStore, options: PrecomputeOptions, *, named: str | None
) -> FeatureStore:
    """Write the tuned backbone of a run's best weights, compute its features with the plans of `store`, return them.

    options: device, batch and offline are taken from it. named: as in `backbone_of`.
    """
    backbone = backbone_of(store, named=named, offline=options.offline, device="cpu")
    backbone.load_state_dict(checkpoint.read(checkpoint.best_path(run.checkpoints)).clip)
    name = registry.save(backbone, run.path / "backbone")
    log.logger.info("computing the features of the tuned backbone (%s)", commands.tvr("precompute-features"))
    # The captions that it was trained on: annotation files may have moved in the hours since.
    made = precompute.precompute(workspace, name, store, options.as_made(store.identity, store.provenance)).store
    files.write_json(run.env_path, {**run.env(), "tuned_store": made.fingerprint})
    return made
