"""Joining feature stores of one identity: shards are linked, then one head covers them all. Nothing is encoded.

What a row is of says its key, so two shards with a row of the same clip do no harm. Which clips and captions the store
contains is decided by the next `precompute-features`, which finds every row by its key and encodes what none has: until
then a store that was joined is begun, or contains what it did before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvr_cli import commands, files, plans
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.log import Bar
from tvr_cli.schema import Misfit
from tvr_cli.stores import listing
from tvr_cli.stores.features import head as heads
from tvr_cli.stores.features import rows
from tvr_cli.stores.features.head import Head, Made, ShardLine
from tvr_cli.stores.features.writer import begin, drop_orphans, require_own


@dataclass(frozen=True)
class Side:
    """A store that takes part. workspace: for the commands in messages."""

    root: Path
    head: Head
    lines: tuple[ShardLine, ...]
    workspace: commands.Folder | None

    @classmethod
    def open(cls, root: Path, workspace: commands.Folder | None) -> Side:
        """Raises as `FeatureStore.open` does."""
        return cls(root, *heads.read(root, workspace), workspace)


@dataclass(frozen=True)
class Joint:
    """What a store holds when others are joined to it. taken: (folder, line) of shards that have to be linked."""

    made: Made
    lines: tuple[ShardLine, ...]
    taken: Sequence[tuple[Path, ShardLine]]


def joint(root: Path, sides: Sequence[Side], bar: Bar) -> Joint:
    """Return what the stores `sides` are together, in this order, as a store in `root`. Writes nothing.

    The store in `root` is the first of them where there is one. bar: advances by a shard. Raises StoreMismatch, naming
    the field, for stores of another identity or other tensors, DataError where a shard is missing or cut short, or what
    its rows are is damaged.
    """
    for side in sides[1:]:
        require_same(sides[0], side)
    held: dict[str, tuple[Path, ShardLine]] = {}
    for side in sides:
        for line in side.lines:
            if line.name not in held:
                if side.root != root:
                    _require_whole(side, line)
                held[line.name] = (side.root, line)
                bar.advance()
    taken = [(folder, line) for folder, line in held.values() if folder != root]
    return Joint(sides[0].head.made, tuple(line for _, line in held.values()), taken)


def commit(root: Path, found: Joint, workspace: commands.Folder | None, bar: Bar) -> int:
    """Write what `joint` found into the store in `root`, and return how many shards are new in it.

    First all files, then the head in one step. bar: advances by a shard that is linked. Raises EnvironmentProblem when
    the disk is full or another process writes, StoreMismatch where something else is in the folder.
    """
    with files.lock(root):
        require_own(root, workspace)
        if not (root / listing.HEAD).is_file():
            begin(root, found.made)
        head, lines = heads.read(root, workspace)
        known = {line.name for line in lines}
        for folder, line in found.taken:
            if line.name not in known:
                for name in (line.name, line.keys):
                    (root / name).unlink(missing_ok=True)  # of a merge that was stopped
                    files.link(folder / name, root / name)
            bar.advance()
        if found.lines != lines:
            covers = listing.write_list(root, listing.next_list(head.shards.name), heads.list_bytes(found.lines))
            head = dataclasses.replace(head, shards=covers)
            heads.write_head(root, head)
        drop_orphans(root, head, found.lines)
    return len({line.name for line in found.lines} - known)


def require_same(one: Side, other: Side) -> None:
    """Raise StoreMismatch, naming the first field in which two stores differ, unless they can be joined."""
    ours, theirs = one.head.made.to_json(), other.head.made.to_json()
    for what in ("identity", "tensors"):
        for differing in plans.differences(ours[what], theirs[what])[:1]:
            raise StoreMismatch(
                f"the features in {str(one.root)!r} and {str(other.root)!r} cannot be merged: {differing.field} is "
                f"{differing.found!r} in the first and {differing.wanted!r} in the second; make them with the same "
                "backbone and flags in all parts. Nothing was written"
            )


def _require_whole(side: Side, line: ShardLine) -> None:
    """Raise DataError unless a shard is there in its full size, with what its rows are."""
    path = side.root / line.name
    size = path.stat().st_size if path.is_file() else None
    if size != line.size_bytes:
        found = f"expected {line.size_bytes} bytes, found " + ("no such file" if size is None else f"{size}")
    else:
        try:
            rows.read(side.root, line)
            return
        except Misfit as e:
            found = str(e)
    mend = heads.complete(side.root, side.workspace, line.name)
    raise DataError(
        f"the shard {str(path)!r} is incomplete: {found}; copy that part again, or make the shard again with: {mend}. "
        "Nothing was written"
    )
