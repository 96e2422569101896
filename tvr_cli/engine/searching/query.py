"""From sentences to hits: makes whatever is missing on the way (features, index), encodes the sentences, searches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tvr_cli import commands, log
from tvr_cli.backbones import registry
from tvr_cli.engine import scorers
from tvr_cli.engine.device import kernel_errors
from tvr_cli.engine.features import precompute, repair, sentences
from tvr_cli.engine.searching.index import Asked, asked_for, fresh_index
from tvr_cli.engine.searching.search import Hit, SearchOptions, search
from tvr_cli.plans import PrecomputeOptions
from tvr_cli.results.base import Result
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.workspace import Workspace


@dataclass(frozen=True)
class Answer:
    """The best files of one sentence, best first."""

    query: str
    hits: Sequence[Hit]


@dataclass(frozen=True)
class QueryReport(Result):
    """An answer to each sentence, in the order asked."""

    schema = "query"
    results: Sequence[Answer]


@kernel_errors()
def query(
    texts: Sequence[str],
    workspace: Workspace,
    options: SearchOptions,
    *,
    run: str | None = None,
    method: str | None = None,
    backbone: str | None = None,
    device: str = "auto",
    offline: bool = False,
) -> QueryReport:
    """Answer each sentence with its best files.

    Raises DataError when the workspace holds no frames, StoreMismatch when a flag names another run or backbone than
    the index was made with.
    """
    asked = asked_for(workspace, Asked(run, method, backbone))
    if asked.backbone is not None:
        registry.require_named(asked.backbone, backbone, workspace.index_folder)
    _refresh_features(workspace, asked, device=device, offline=offline)
    with fresh_index(workspace, asked, named=method, device=device) as (index, scorer, store):
        model = sentences.encoder_of(store, named=backbone, offline=offline, device=device)
        text = precompute.encode_captions(model, list(texts), store.word_plan, store.word_importance)
        scorer.method.to("cpu")
        encoded = scorers.encode_texts(scorer.method, text.to("cpu"))
        found = search(scorer.method, index, encoded, options)
    return QueryReport([Answer(*answer) for answer in zip(texts, found, strict=True)])


def _refresh_features(workspace: Workspace, asked: Asked, *, device: str, offline: bool) -> None:
    """Compute the features where there are none, or where the frames have changed since."""
    found = workspace.find_run(asked.run) if asked.run is not None else None
    if found is not None:
        store: FeatureStore | None = workspace.features_of(found)
    else:
        store = workspace.newest_features(asked.backbone or os.environ.get("TVR_BACKBONE"))
    if not workspace.has_frames:
        if store is None:
            workspace.refuse_without_frames(f"expected frames, features or an index in {str(workspace)!r}, found none")
        return
    if store is not None and store.provenance.get("frames_content") == workspace.frames().content_hash():
        return
    named = asked.backbone or os.environ.get("TVR_BACKBONE")
    of = f" of {named}" if named else ""
    why = f"no features{of} yet" if store is None else "the frames have changed"
    log.logger.info("%s; computing features first (%s)", why, commands.tvr("precompute-features"))
    options = PrecomputeOptions(device=device, offline=offline)
    if store is None:
        precompute.precompute(workspace, asked.backbone, None, options)
    else:  # with the plans that it was made with: a run may have been trained on them
        repair.refresh(workspace, store, options, named=asked.backbone)
