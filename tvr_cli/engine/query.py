"""From sentences to hits: makes whatever is missing on the way (features, index), encodes the sentences, searches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tvr_cli import log
from tvr_cli.engine import precompute, score
from tvr_cli.engine.index import fresh_index
from tvr_cli.engine.search import Hit, SearchOptions, search
from tvr_cli.errors import DataError
from tvr_cli.stores.features import FeatureStore
from tvr_cli.stores.frames import FrameStore


def query(
    texts: Sequence[str],
    workspace: Path,
    options: SearchOptions,
    *,
    run: str | None = None,
    method: str | None = None,
    backbone: str | None = None,
    device: str = "auto",
    offline: bool = False,
) -> list[list[Hit]]:
    """Answer each sentence with its best files.

    Raises DataError when the workspace holds no frames, StoreMismatch when a flag names another run or backbone than
    the index was made with.
    """
    backbone = backbone or os.environ.get("TVR_BACKBONE")
    if run is None:
        _refresh_features(workspace, backbone, device=device, offline=offline)
    index, scorer, store = fresh_index(workspace, run=run, method=method, backbone=backbone, device=device)
    model = precompute.backbone_of(store, offline=offline, device=device)
    text = precompute.encode_captions(model, list(texts), store.word_plan, store.word_importance)
    scorer.method.to("cpu")
    encoded = score.encode_texts(scorer.method, text.to("cpu"))
    return search(scorer.method, index, encoded, options)


def _refresh_features(workspace: Path, backbone: str | None, *, device: str, offline: bool) -> None:
    """Compute the features where there are none, or where the frames have changed since."""
    store = FeatureStore.newest(workspace, backbone)
    if not (workspace / "frames" / "store.json").is_file():
        if store is None:
            raise DataError(
                f"expected frames, features or an index in {str(workspace)!r}, found none; start with: "
                f"tvr extract-frames VIDEOS -o {workspace}"
            )
        return
    frames = FrameStore.open(workspace / "frames")
    if store is not None and store.provenance.get("frames_content") == frames.content_hash():
        return
    why = "no features yet" if store is None else "the frames have changed"
    log.logger.info("%s; computing features first (tvr precompute-features)", why)
    options = precompute.PrecomputeOptions(device=device, offline=offline)
    if store is None:
        precompute.precompute(workspace, backbone, None, options)
    else:  # with the plans that it was made with: a run may have been trained on them
        precompute.refresh(store, options)
