"""A damaged or lost head of a feature store is made again from the files of rows, each of which says what made it.

Features are worth hours of encoding and the head a few bytes. What clips and captions the store contains is known by
the head alone: the store is one that was begun, and finishing it encodes nothing. Only files count whose name holds
their own checksum; a head of another version or program is never touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from tvr_cli import files
from tvr_cli.commands import Folder
from tvr_cli.errors import DataError, StoreMismatch, Unreadable
from tvr_cli.schema import Misfit
from tvr_cli.stores import listing
from tvr_cli.stores.features import head as heads
from tvr_cli.stores.features import rows
from tvr_cli.stores.features.head import Finished, Head, Made, ShardLine
from tvr_cli.stores.features.rows import ShardRows


def rebuild_head(folder: Path, workspace: Folder | None = None) -> bool:
    """Make head and list of a store again where they are damaged or lost. Returns whether they were.

    The caller holds the lock of its folder. The damaged head stays beside the new one as `store.json.damaged`. Raises
    DataError as reading does where no rows are there to make it from, StoreMismatch for a head of another kind, format
    or version.
    """
    try:
        heads.read(folder, workspace)
    except (StoreMismatch, Unreadable):
        raise
    except DataError:
        there = [part for part in held(folder) if part.made.fingerprint == folder.name]
        if not there:
            raise
        made, finished, path = there[0].made, None, folder / listing.HEAD
        with contextlib.suppress(DataError):  # where the list alone is damaged the head says the rest
            finished = heads.read_head(folder, workspace).finished
        if path.is_file() and finished is None:
            files.write_bytes(path.with_name("store.json.damaged"), path.read_bytes())
        write(folder, made, [part.line for part in there], finished)
        return True
    return False


def held(folder: Path) -> list[ShardRows]:
    """Return what every whole file of rows in a folder says of a shard that is there, the newest first."""
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if heads.ROWS.fullmatch(path.name)]
    found: dict[str, ShardRows] = {}
    for path in sorted(paths, key=lambda p: (p.stat().st_mtime_ns, p.name), reverse=True):
        try:
            part = rows.read_alone(path)
        except Misfit:
            continue  # it was damaged as well, or is none
        if (folder / part.line.name).is_file():
            found.setdefault(part.line.name, part)
    return list(found.values())


def write(folder: Path, made: Made, lines: Sequence[ShardLine], finished: Finished | None = None) -> None:
    """Write head and list of a store with these shards. finished: None = it is begun."""
    covers = listing.write_list(folder, listing.free_list(folder), heads.list_bytes(lines))
    heads.write_head(folder, Head(made, covers, heads.mean_norms(lines), finished))
