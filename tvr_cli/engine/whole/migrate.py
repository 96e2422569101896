"""Bringing a workspace of an older tvr to the formats of this one. Nothing is decoded, encoded or trained again.

Frame stores are the only part that changes: features of 0.1.0 are read as they are, and an index is built again by
the next query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tvr_cli import commands, files, log
from tvr_cli.errors import DataError
from tvr_cli.results.base import Result, key
from tvr_cli.stores.frames import format1
from tvr_cli.stores.frames import head as heads
from tvr_cli.stores.frames.store import FrameStore
from tvr_cli.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class MigratedStore:
    """One store. found, format: its format before and now (with dry_run: then). clips, shards: in it.

    size_bytes: of the files that were written, or would be; 0 where the format was this one already.
    """

    kind: Literal["frames"]
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


def migrate(workspace: Workspace, *, dry_run: bool = False) -> MigrateReport:
    """Bring the stores of a workspace to the formats of this version. Run again after a stop, it goes on.

    dry_run: say what would be done and write nothing. Raises DataError where there is no workspace or a store is
    damaged, StoreMismatch for a format that is not known, EnvironmentProblem when the disk is full or another process
    writes; the store is then what it was.
    """
    if not workspace.parts():
        start = commands.tvr("extract-frames", "VIDEOS", workspace=workspace)
        raise DataError(f"expected a workspace in {str(workspace)!r}, found none; start with: {start}")
    stores = [_frames(workspace, dry_run)] if workspace.has_frames else []
    return MigrateReport(dry_run=dry_run, workspace=workspace.root, stores=stores)


def _frames(workspace: Workspace, dry_run: bool) -> MigratedStore:
    folder = workspace.frames_folder
    if dry_run:
        return _upgraded(workspace, folder, dry_run)
    with files.lock(folder):
        return _upgraded(workspace, folder, dry_run)


def _upgraded(workspace: Workspace, folder: Path, dry_run: bool) -> MigratedStore:
    found = format1.found_format(folder)
    if found == format1.FORMAT_VERSION:
        with log.progress("migrating frames", total=format1.shard_count(folder), unit="shards") as bar:
            done = format1.upgrade(folder, workspace, dry_run=dry_run, each=lambda: bar.advance(1))
        shards, clips, size = done.shards, done.clips, done.size_bytes
    else:
        store = FrameStore.open(folder, workspace)
        found, shards, clips, size = heads.FORMAT_VERSION, store.shard_count, len(store), 0
        if not dry_run:
            format1.remove_manifest(folder)
    return MigratedStore(
        kind="frames",
        path=folder,
        found=found,
        format=heads.FORMAT_VERSION,
        shards=shards,
        clips=clips,
        size_bytes=size,
    )
