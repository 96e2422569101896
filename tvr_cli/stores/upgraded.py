"""What becomes of a store that is brought to the format of this version."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What became of a store. size_bytes: of the files that were written, or would be."""

    shards: int
    clips: int
    size_bytes: int
