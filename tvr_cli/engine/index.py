"""Building the search index of a workspace, and keeping it as new as its store and run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tvr_cli import log
from tvr_cli.engine import models, score
from tvr_cli.engine.models import Scorer
from tvr_cli.errors import StoreMismatch
from tvr_cli.files import lock, read_json
from tvr_cli.stores.features import FeatureStore
from tvr_cli.stores.index import ENCODING_ROWS, Index, IndexBlock, IndexedClip, write_index


def index_folder(workspace: Path) -> Path:
    """Return where a workspace keeps its index."""
    return workspace / "index"


def identity_of(scorer: Scorer, store: FeatureStore) -> dict[str, Any]:
    """Return what an index is made from; an index with another identity is stale."""
    return {
        "backbone": store.backbone_name,
        "store": store.fingerprint,
        "content": store.content_hash(),
        **scorer.identity(),
    }


def index(
    workspace: Path,
    *,
    run: str | None,
    method: str | None,
    backbone: str | None,
    device: str = "auto",
    overwrite: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Build the index unless it is up to date, and return what `tvr index --json` prints.

    An existing index made with another run, method or backbone is replaced: naming them is asking for that.
    """
    scorer, store = _wanted(workspace, run=run, method=method, backbone=backbone)
    folder = index_folder(workspace)
    current = not overwrite and _head(folder) == identity_of(scorer, store)
    report: dict[str, Any] = {
        "schema": "tvr/index@1",
        "path": str(folder),
        "method": scorer.name,
        "run": scorer.run.name if scorer.run else None,
        "backbone": store.backbone_name,
        "clips": len(store.clips),
        "videos": len({c.file_id for c in store.clips}),
        "built": not current and not dry_run,
        "bytes": 0,
    }
    if dry_run:
        return report
    models.announce(scorer, store)
    made = Index.open(folder) if current else build_index(scorer, store, workspace, device=device)
    return {**report, "bytes": made.size_bytes()}


@torch.no_grad()
def build_index(scorer: Scorer, store: FeatureStore, workspace: Path, *, device: str = "auto") -> Index:
    """Encode every clip of the store and write the index. Runs under the workspace's index lock."""
    scorer.method.to(score.pick_device(device))
    clips = [IndexedClip(c.id, c.file_id, c.path, c.span[0], c.span[1]) for c in store.clips]

    def blocks() -> Iterator[IndexBlock]:
        with log.progress("indexing", total=len(clips), unit="clips") as bar:
            for start in range(0, len(clips), ENCODING_ROWS):
                video = store.video(torch.arange(start, min(start + ENCODING_ROWS, len(clips))))
                encoded = score.encode_videos(scorer.method, video)
                coarse = scorer.method.coarse(encoded).cpu()
                yield IndexBlock(encoded.to("cpu"), coarse, video.ts, video.n_frames)
                bar.advance(len(video))

    with lock(workspace):
        return write_index(index_folder(workspace), identity_of(scorer, store), clips, blocks())


def fresh_index(
    workspace: Path, *, run: str | None, method: str | None, backbone: str | None, device: str = "auto"
) -> tuple[Index, Scorer, FeatureStore]:
    """Open the workspace's index, building or refreshing it where it is missing or older than its store or run.

    Without flags the newest run of the features answers, else the untrained `text_guided`. Raises StoreMismatch when a
    flag names another run, method or backbone than the index was made with.
    """
    folder = index_folder(workspace)
    head = _head(folder)
    if head is not None:
        _refuse_other(head, run=run, method=method, backbone=backbone)
    scorer, store = _wanted(workspace, run=run, method=method, backbone=backbone)
    wanted = identity_of(scorer, store)
    if head == wanted:
        return Index.open(folder), scorer, store
    if head is not None:
        changed = [key for key in wanted if head.get(key) != wanted[key]]
        log.logger.info("the index is out of date (%s changed); refreshing it", ", ".join(changed))
    models.announce(scorer, store)
    return build_index(scorer, store, workspace, device=device), scorer, store


def _wanted(
    workspace: Path, *, run: str | None, method: str | None, backbone: str | None
) -> tuple[Scorer, FeatureStore]:
    found = models.find_run(workspace, run)
    store = models.store_for(workspace, found, backbone)
    if found is None and method is None:
        found = models.newest_run(workspace, store)
    scorer = models.trained(found, store) if found else models.untrained(method or models.DEFAULT_METHOD, store)
    return scorer, store


def _head(folder: Path) -> dict[str, Any] | None:
    """Return the identity of an existing index, or None."""
    return read_json(folder / "store.json").get("identity", {}) if (folder / "store.json").is_file() else None


def _refuse_other(head: dict[str, Any], *, run: str | None, method: str | None, backbone: str | None) -> None:
    asked = {"run": Path(run).name if run else None, "method": method, "backbone": backbone}
    for field, value in asked.items():
        if value is not None and head.get(field) != value:
            flag = f"--{field} {value}"
            raise StoreMismatch(
                f"the index was made with {field} {head.get(field)!r}, but {flag} asks for {value!r}; rebuild it with: "
                f"tvr index {flag}"
            )
