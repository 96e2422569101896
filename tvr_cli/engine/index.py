"""Building the search index of a workspace, and keeping it as new as its store and run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tvr_cli import log
from tvr_cli.engine import models, score
from tvr_cli.engine.kernel_errors import kernel_errors
from tvr_cli.engine.models import Scorer
from tvr_cli.errors import DataError, EnvironmentProblem, MethodNotNamed, StoreMismatch
from tvr_cli.files import lock, read_json
from tvr_cli.stores.features import FeatureStore
from tvr_cli.stores.index import ENCODING_ROWS, Index, IndexBlock, IndexedClip, write_index

_TRIES = 3  # to find the index as it was built: others may build theirs in between


def index_folder(workspace: Path) -> Path:
    """Return where a workspace keeps its index."""
    return workspace / "index"


def identity_of(scorer: Scorer, store: FeatureStore) -> dict[str, Any]:
    """Return what an index is made from; an index with another identity is stale."""
    return {
        "backbone": store.backbone_name,
        "architecture": store.identity["backbone"]["name"],
        "store": store.fingerprint,
        "content": store.content_hash(),
        **scorer.identity(),
    }


@dataclass(frozen=True, slots=True)
class Asked:
    """What was named to score with; None = whatever is there."""

    run: str | None = None
    method: str | None = None
    backbone: str | None = None


@kernel_errors()
def index(
    workspace: Path, asked: Asked, *, device: str = "auto", overwrite: bool = False, dry_run: bool = False
) -> dict[str, Any]:
    """Build the index unless it is up to date, and return what `tvr index --json` prints.

    An existing index made with another run, method or backbone is replaced: naming them is asking for that.
    """
    models.check_named(workspace, asked.run, asked.method)
    scorer, store = _wanted(workspace, asked, asked.method)
    asked = _by_name(asked, scorer)
    folder = index_folder(workspace)
    head = _head(folder)
    current = not overwrite and head is not None and (head["identity"], _asked_of(head)) == (
        identity_of(scorer, store), asked,
    )  # fmt: skip
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
    if not current:
        with lock(workspace):
            build_index(scorer, store, workspace, asked, device=device)
    return {**report, "bytes": Index.open(folder).size_bytes()}


@torch.no_grad()
def build_index(scorer: Scorer, store: FeatureStore, workspace: Path, asked: Asked, *, device: str = "auto") -> Index:
    """Encode every clip of the store and write the index. The caller holds the workspace's lock."""
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

    return write_index(index_folder(workspace), identity_of(scorer, store), clips, blocks(), asked=asdict(asked))


def asked_for(workspace: Path, flags: Asked) -> Asked:
    """Return what a query is to be answered with: its flags, else what the index was built for.

    Raises ConfigError or DataError when a flag names what does not exist, StoreMismatch when it names another run,
    method or backbone than the index was made with.
    """
    models.check_named(workspace, flags.run, flags.method)
    head = _head(index_folder(workspace))
    if head is None:
        return flags
    made = head["identity"]
    _refuse_other(made, flags, workspace)
    before = _asked_of(head)
    if before.run is not None and not (workspace / "runs" / before.run / "config.json").is_file():
        log.logger.info("the run %r that the index was built for is gone", before.run)
        before = replace(before, run=None)
    return Asked(flags.run or before.run, flags.method or before.method, flags.backbone or before.backbone)


@contextmanager
def fresh_index(
    workspace: Path, asked: Asked, *, named: str | None = None, device: str = "auto"
) -> Iterator[tuple[Index, Scorer, FeatureStore]]:
    """Give the workspace's index, building or refreshing it where it is missing or older than its store or run.

    named: the method that the command itself names; another one that is not built in is not loaded (MethodNotNamed).
    Nobody replaces the index while it is held. Where nothing was asked for the newest run of the features answers, else
    the untrained `text_guided`.
    """
    folder = index_folder(workspace)
    scorer, store = _wanted(workspace, asked, named)
    wanted = identity_of(scorer, store)
    for _ in range(_TRIES):
        with lock(workspace, shared=True):
            head = _head(folder)
            if head is not None and head["identity"] == wanted:
                yield Index.open(folder), scorer, store
                return
        with lock(workspace):
            head = _head(folder)
            if head is not None and head["identity"] == wanted:
                continue  # another process was faster
            if head is not None:
                changed = [key for key in wanted if head["identity"].get(key) != wanted[key]]
                log.logger.info("the index is out of date (%s changed); refreshing it", ", ".join(changed))
            models.announce(scorer, store)
            build_index(scorer, store, workspace, _by_name(asked, scorer), device=device)
    raise EnvironmentProblem(
        f"other tvr processes keep rebuilding the index of {str(workspace)!r} for other runs; wait until they end"
    )


def _wanted(workspace: Path, asked: Asked, named: str | None) -> tuple[Scorer, FeatureStore]:
    found = models.find_run(workspace, asked.run)
    store = models.store_for(workspace, found, asked.backbone)
    if found is None and asked.method is None:
        found = models.newest_run(workspace, store)
    if found is not None:
        return models.trained(found, store, named), store
    method = asked.method or models.DEFAULT_METHOD
    if "." in method and method != named:
        raise MethodNotNamed(f"the index in {str(index_folder(workspace))!r}", method)
    return models.untrained(method, store), store


def _by_name(asked: Asked, scorer: Scorer) -> Asked:
    """Return `asked` with a run's name where its path was given, and without its method, which the run says itself."""
    return replace(asked, run=scorer.run.name, method=None) if asked.run and scorer.run else asked


def _head(folder: Path) -> dict[str, Any] | None:
    """Return the store.json of an existing index, None where there is none or it cannot be read: built again then."""
    if not (folder / "store.json").is_file():
        return None
    try:
        head = read_json(folder / "store.json")
    except DataError as e:
        log.warn_once(f"{e}; the index is built again")
        return None
    return {"identity": {}, **head} if isinstance(head, dict) else None


def _asked_of(head: Mapping[str, Any]) -> Asked:
    return Asked(**head.get("asked", {}))


def _refuse_other(made: Mapping[str, Any], flags: Asked, workspace: Path) -> None:
    named = {"run": Path(flags.run).name if flags.run else None, "method": flags.method}
    wrong = [(field, value) for field, value in named.items() if value is not None and made.get(field) != value]
    if flags.backbone is not None and flags.backbone not in (made.get("backbone"), made.get("architecture")):
        wrong.append(("backbone", flags.backbone))
    for field, value in wrong:
        flag = f"--{field} {value}"
        raise StoreMismatch(
            f"the index was made with {field} {made.get(field) or 'none'!r}, but {flag} asks for {value!r}; rebuild it "
            f"with: tvr index {flag} -o {workspace}"
        )
