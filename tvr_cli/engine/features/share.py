"""Which clips `precompute-features --shard i/n` encodes: those of the part that is here, or a fixed share of all.

A workspace that notes one part (`tvr extract-frames --shard`) holds that part alone: all of it is encoded, and its
store is finished. Elsewhere every file has its share by the hash of its id, and the store is finished by the run
without `--shard`, after the shares were merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvr_cli import commands
from tvr_cli.engine.extraction import part_list
from tvr_cli.engine.extraction.discover import in_shard
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.stores.frames.store import ClipRecord, Film
from tvr_cli.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Share:
    """Part `part` (from 1) of `of` by the hash of a file's id; 1 of 1 is everything."""

    part: int
    of: int

    @property
    def is_all(self) -> bool:
        return self.of == 1

    def records(self, records: Sequence[ClipRecord]) -> list[ClipRecord]:
        return [r for r in records if in_shard(r.file_id, self.part, self.of)]

    def films(self, films: Sequence[Film]) -> list[Film]:
        """Return the films of this share: a film that several files share is of the share of the first."""
        return [film for film in films if in_shard(film.clips[0].record.file_id, self.part, self.of)]


def share_of(workspace: Workspace, shard: tuple[int, int]) -> Share:
    """Return what `--shard` means in a workspace. Raises ConfigError for an impossible one, DataError for another's."""
    part, of = shard
    if not 1 <= part <= of:
        raise ConfigError(f"--shard: expected i/n with 1 <= i <= n, found {part}/{of}")
    done = part_list.done_parts(workspace) if of > 1 else []
    if len(done) != 1:
        return Share(part, of)
    here = done[0]
    if (here.part, here.of) != shard:
        encode = commands.tvr("precompute-features", shard=f"{here.part}/{here.of}", workspace=workspace)
        raise DataError(
            f"the workspace {str(workspace)!r} holds part {here.part} of {here.of}, but this run is for part {part} of "
            f"{of}; name the workspace of that part with -o, or run: {encode}"
        )
    return Share(1, 1)
