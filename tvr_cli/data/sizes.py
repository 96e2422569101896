"""How large a split of a data set officially is: what a data set's `SIZES` are made of.

Counted from the split files that the community uses (docs/datasets.md says which); None = not known for sure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SplitSize:
    """Videos and captions (queries) of one split."""

    videos: int | None
    captions: int | None


def videos_of(sizes: Mapping[str, SplitSize]) -> dict[str, int]:
    """Return the official number of videos of each split, where it is known."""
    return {split: size.videos for split, size in sizes.items() if size.videos is not None}
