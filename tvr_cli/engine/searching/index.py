"""Building the search index of a workspace, and keeping it as new as its store and run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tvr_cli import commands, log
from tvr_cli.engine import scorers
from tvr_cli.engine.device import kernel_errors, pick_device
from tvr_cli.engine.scorers import Scorer
from tvr_cli.errors import EnvironmentProblem, MethodNotNamed, StoreMismatch
from tvr_cli.files import Stamp, bare_name, lock, stamp
from tvr_cli.results.base import Result, key
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.index import place as index_place
from tvr_cli.stores.index.store import ENCODING_ROWS, Index, IndexBlock, IndexedClip, write_index
from tvr_cli.workspace import Workspace

_TRIES = 3  # to find the index as it was built: others may build theirs in between


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


@dataclass(frozen=True, kw_only=True)
class IndexReport(Result):
    """An index and what it was made with. built: False where it was up to date, and in a dry run, where bytes are 0."""

    schema = "index"
    path: Path
    method: str
    run: str | None
    backbone: str
    clips: int
    videos: int
    built: bool
    size_bytes: int = dataclasses.field(metadata=key("bytes"))


@kernel_errors()
def index(
    workspace: Workspace, asked: Asked, *, device: str = "auto", overwrite: bool = False, dry_run: bool = False
) -> IndexReport:
    """Build the index unless it is up to date, and say what is there.

    An existing index made with another run, method or backbone is replaced: naming them is asking for that. Raises
    DataError when something else than an index stands in its place.
    """
    scorers.check_named(workspace, asked.run, asked.method)
    _head(workspace.index_folder)  # refused before anything is loaded
    scorer, store = _wanted(workspace, asked, asked.method)
    asked = _by_name(asked, scorer)
    folder = workspace.index_folder
    head = _head(folder)
    current = not overwrite and head is not None and (head["identity"], _asked_of(head)) == (
        identity_of(scorer, store), asked,
    )  # fmt: skip
    if not current:
        index_place.require_free(folder)
    report = IndexReport(
        path=folder,
        method=scorer.name,
        run=scorer.run.name if scorer.run else None,
        backbone=store.backbone_name,
        clips=len(store.clips),
        videos=len({c.file_id for c in store.clips}),
        built=not current and not dry_run,
        size_bytes=0,
    )
    if dry_run:
        return report
    scorers.announce(scorer, store)
    if not current:
        with lock(workspace.root):
            build_index(scorer, store, workspace, asked, device=device)
    return replace(report, size_bytes=Index.open(folder).size_bytes())


@torch.no_grad()
def build_index(
    scorer: Scorer, store: FeatureStore, workspace: Workspace, asked: Asked, *, device: str = "auto"
) -> Index:
    """Encode every clip of the store and write the index. The caller holds the workspace's lock."""
    scorer.method.to(pick_device(device))
    clips = [IndexedClip(c.id, c.file_id, c.path, c.span[0], c.span[1]) for c in store.clips]

    def blocks() -> Iterator[IndexBlock]:
        with log.progress("indexing", total=len(clips), unit="clips") as bar:
            for start in range(0, len(clips), ENCODING_ROWS):
                video = store.video(torch.arange(start, min(start + ENCODING_ROWS, len(clips))))
                encoded = scorers.encode_videos(scorer.method, video)
                coarse = scorer.method.coarse(encoded).cpu()
                yield IndexBlock(encoded.to("cpu"), coarse, video.ts, video.n_frames)
                bar.advance(len(video))

    return write_index(workspace.index_folder, identity_of(scorer, store), clips, blocks(), asked=asdict(asked))


def asked_for(workspace: Workspace, flags: Asked) -> Asked:
    """Return what a query is to be answered with: its flags, else what the index was built for.

    Raises ConfigError or DataError when a flag names what does not exist, StoreMismatch when it names another run,
    method or backbone than the index was made with, DataError when something else stands in the place of the index.
    """
    scorers.check_named(workspace, flags.run, flags.method)
    head = _head(workspace.index_folder)
    if head is None:
        return flags
    made = head["identity"]
    _refuse_other(made, flags, workspace)
    before = _asked_of(head)
    if before.run is not None and not workspace.run(before.run).config_path.is_file():
        log.logger.info("the run %r that the index was built for is gone", before.run)
        before = replace(before, run=None)
    return Asked(flags.run or before.run, flags.method or before.method, flags.backbone or before.backbone)


@contextmanager
def fresh_index(
    workspace: Workspace, asked: Asked, *, named: str | None = None, device: str = "auto"
) -> Iterator[tuple[Index, Scorer, FeatureStore]]:
    """Give the workspace's index, building or refreshing it where it is missing or older than its store or run.

    named: the method that the command itself names; another one that is not built in is not loaded (MethodNotNamed).
    Nobody replaces the index while it is held. Where nothing was asked for the newest run of the features answers, else
    the untrained `text_guided`.
    """
    folder = workspace.index_folder
    scorer, store = _wanted(workspace, asked, named)
    wanted = identity_of(scorer, store)
    built: tuple[Index, Stamp | None] | None = None
    for _ in range(_TRIES):
        with lock(workspace.root, shared=True):
            if built is not None and built[1] == stamp(folder / index_place.HEAD):  # still the one that we made
                yield built[0], scorer, store
                return
            head = _head(folder)
            if head is not None and head["identity"] == wanted:
                yield Index.open(folder), scorer, store
                return
        with lock(workspace.root):
            head = _head(folder)
            if head is not None and head["identity"] == wanted:
                continue  # another process was faster
            if head is not None:
                changed = [key for key in wanted if head["identity"].get(key) != wanted[key]]
                log.logger.info("the index is out of date (%s changed); refreshing it", ", ".join(changed))
            scorers.announce(scorer, store)
            index = build_index(scorer, store, workspace, _by_name(asked, scorer), device=device)
            built = (index, stamp(folder / index_place.HEAD))
    raise EnvironmentProblem(
        f"other tvr processes keep rebuilding the index of {str(workspace)!r} for other runs; wait until they end"
    )


def _wanted(workspace: Workspace, asked: Asked, named: str | None) -> tuple[Scorer, FeatureStore]:
    found = workspace.find_run(asked.run) if asked.run is not None else None
    store = scorers.store_for(workspace, found, asked.backbone)
    if found is None and asked.method is None:
        found = workspace.newest_run_on(store)
    if found is not None:
        return scorers.trained(found, store, named), store
    method = asked.method or scorers.DEFAULT_METHOD
    if "." in method and method != named:
        raise MethodNotNamed(f"the index in {str(workspace.index_folder)!r}", method)
    return scorers.untrained(method, store), store


def _by_name(asked: Asked, scorer: Scorer) -> Asked:
    """Return `asked` with a run's name where its path was given, and without its method, which the run says itself."""
    return replace(asked, run=scorer.run.name, method=None) if asked.run and scorer.run else asked


def _head(folder: Path) -> dict[str, Any] | None:
    """Return the store.json of the index that stands at `folder`, None where there is none that was finished.

    Raises DataError for a head that cannot be read, or a folder of other things: an index never takes their place.
    """
    if not (index_place.standing(folder) / index_place.HEAD).is_file():
        index_place.require_free(folder)
        return None
    head = index_place.read_head(index_place.standing(folder))
    return None if head.get("building") else head


def _asked_of(head: Mapping[str, Any]) -> Asked:
    asked = head.get("asked", {})
    run = asked.get("run")
    return Asked(run and bare_name(run, Path(index_place.HEAD)), asked.get("method"), asked.get("backbone"))


def _refuse_other(made: Mapping[str, Any], flags: Asked, workspace: Workspace) -> None:
    named = {"run": Path(flags.run).name if flags.run else None, "method": flags.method}
    wrong = [(field, value) for field, value in named.items() if value is not None and made.get(field) != value]
    if flags.backbone is not None and flags.backbone not in (made.get("backbone"), made.get("architecture")):
        wrong.append(("backbone", flags.backbone))
    # Whatever was named belongs into the command: a run of somebody's own method is loaded only where that is named.
    asked = {field: value for field in ("run", "method", "backbone") if (value := getattr(flags, field)) is not None}
    for field, value in wrong:
        raise StoreMismatch(
            f"the index was made with {field} {made.get(field) or 'none'!r}, but --{field} asks for {value!r}; rebuild "
            f"it with: {commands.tvr('index', **asked, workspace=workspace)}"
        )
