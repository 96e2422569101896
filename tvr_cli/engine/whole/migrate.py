"""Bringing a workspace of an older tvr to the formats of this one. Nothing is decoded, encoded or trained again.

Frames and features change; runs are read as they are, and an index is built again by the next query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from tvr_cli import commands, files, log
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError
from tvr_cli.results.base import Result, key
from tvr_cli.stores.features import format1 as features_format1
from tvr_cli.stores.features import head as features_head
from tvr_cli.stores.frames import format1 as frames_format1
from tvr_cli.stores.frames import head as frames_head
from tvr_cli.stores.frames.store import FrameStore
from tvr_cli.stores.upgraded import Upgraded
from tvr_cli.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class MigratedStore:
    """One store. found, format: its format before and now (with dry_run: then). clips, shards: in it.

    size_bytes: of the files that were written, or would be; 0 where the format was this one already.
    """

    kind: Literal["frames", "features"]
    path: Path
    found: int
    format: int
    shards: int
    clips: int
    size_bytes: int = field(metadata=key("bytes"))

    @property
    def changed(self) -> bool:
        return self.found != self.format


@dataclass(frozen=True, kw_only=True)
class MigrateReport(Result):
    """What was changed, or would be."""

    schema = "migrate"
    dry_run: bool
    workspace: Path
    stores: Sequence[MigratedStore]


class _Format1(Protocol):
    """What the file of a store's older format does."""

    FORMAT_VERSION: int

    def found_format(self, folder: Path, workspace: Folder | None, /) -> int | None: ...
    def shard_count(self, folder: Path, /) -> int: ...
    def remove_old(self, folder: Path, /) -> None: ...
    def upgrade(
        self, folder: Path, workspace: Folder | None, /, *, dry_run: bool, each: Callable[[], None]
    ) -> Upgraded: ...


@dataclass(frozen=True)
class _Kind:
    """A kind of store. sizes: shards and clips of one that has the format of this version."""

    kind: Literal["frames", "features"]
    format: int
    old: _Format1
    sizes: Callable[[Path, Workspace], tuple[int, int]]


def migrate(workspace: Workspace, *, dry_run: bool = False) -> MigrateReport:
    """Bring the stores of a workspace to the formats of this version. Run again after a stop, it goes on.

    dry_run: say what would be done and write nothing. Raises DataError where there is no workspace or a store is
    damaged, StoreMismatch for a format that is not known, EnvironmentProblem when the disk is full or another process
    writes; the store is then what it was.
    """
    if not workspace.parts():
        start = commands.tvr("extract-frames", commands.VIDEOS, workspace=workspace)
        raise DataError(f"expected a workspace in {str(workspace)!r}, found none; start with: {start}")
    stores = [_migrated(workspace, workspace.frames_folder, _FRAMES, dry_run)] if workspace.has_frames else []
    stores += [_migrated(workspace, folder, _FEATURES, dry_run) for folder in workspace.begun_features()]
    return MigrateReport(dry_run=dry_run, workspace=workspace.root, stores=stores)


def _migrated(workspace: Workspace, folder: Path, store: _Kind, dry_run: bool) -> MigratedStore:
    if dry_run:
        return _upgraded(workspace, folder, store, dry_run)
    with files.lock(folder):
        return _upgraded(workspace, folder, store, dry_run)


def _upgraded(workspace: Workspace, folder: Path, store: _Kind, dry_run: bool) -> MigratedStore:
    found = store.old.found_format(folder, workspace)
    if found == store.old.FORMAT_VERSION:
        with log.progress(f"migrating {store.kind}", total=store.old.shard_count(folder), unit="shards") as bar:
            done = store.old.upgrade(folder, workspace, dry_run=dry_run, each=lambda: bar.advance(1))
        shards, clips, size = done.shards, done.clips, done.size_bytes
    else:
        found, size = store.format, 0
        shards, clips = store.sizes(folder, workspace)
        if not dry_run:
            store.old.remove_old(folder)
    return MigratedStore(
        kind=store.kind,
        path=folder,
        found=found,
        format=store.format,
        shards=shards,
        clips=clips,
        size_bytes=size,
    )


def _sizes_of_frames(folder: Path, workspace: Workspace) -> tuple[int, int]:
    store = FrameStore.open(folder, workspace)
    return store.shard_count, len(store)


def _sizes_of_features(folder: Path, workspace: Workspace) -> tuple[int, int]:
    head, lines = features_head.read(folder, workspace)
    return len(lines), 0 if head.finished is None else len(head.finished.clips)


_FRAMES = _Kind("frames", frames_head.FORMAT_VERSION, frames_format1, _sizes_of_frames)
_FEATURES = _Kind("features", features_head.FORMAT_VERSION, features_format1, _sizes_of_features)
