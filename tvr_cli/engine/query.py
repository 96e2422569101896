"""From sentences to hits: makes whatever is missing on the way (features, index), encodes the sentences, searches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tvr_cli import backbones, log
from tvr_cli.engine import precompute, score
from tvr_cli.engine.index import fresh_index
from tvr_cli.engine.search import Hit, SearchOptions, search
from tvr_cli.errors import DataError
from tvr_cli.stores.features import FeatureStore


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
    _ensure_features(workspace, run=run, backbone=backbone, device=device, offline=offline)
    index, scorer, store = fresh_index(workspace, run=run, method=method, backbone=backbone, device=device)
    model = backbones.load(store.backbone_name, offline=offline, device=str(score.pick_device(device)))
    text = precompute.encode_captions(model, list(texts), store.word_plan, store.word_importance)
    scorer.method.to("cpu")
    encoded = score.encode_texts(scorer.method, text.to("cpu"))
    return search(scorer.method, index, encoded, options)


def _ensure_features(workspace: Path, *, run: str | None, backbone: str | None, device: str, offline: bool) -> None:
    if run is not None or FeatureStore.newest(workspace, backbone) is not None:
        return
    if not (workspace / "frames").is_dir():
        raise DataError(
            f"expected frames, features or an index in {str(workspace)!r}, found none; start with: "
            f"tvr extract-frames VIDEOS -o {workspace}"
        )
    log.logger.info("no features yet; computing them first (tvr precompute-features)")
    precompute.precompute(workspace, backbone, None, precompute.PrecomputeOptions(device=device, offline=offline))
