"""The official sizes of the benchmarks, and what is known about them: the table that doctor and completeness use.

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


SIZES: Mapping[tuple[str, str], Mapping[str, SplitSize]] = {
    ("msrvtt", "9k"): {"train": SplitSize(9000, 180_000), "test": SplitSize(1000, 1000)},
    ("msrvtt", "7k"): {"train": SplitSize(7010, 140_200), "test": SplitSize(1000, 1000)},
    ("msrvtt", "full"): {
        "train": SplitSize(6513, 130_260),
        "val": SplitSize(497, 9_940),
        "test": SplitSize(2990, 59_800),
    },
    ("msvd", "default"): {
        "train": SplitSize(1200, 48_774),
        "val": SplitSize(100, 4_290),
        "test": SplitSize(670, 27_763),
    },
    ("didemo", "default"): {
        "train": SplitSize(8392, 8392),
        "val": SplitSize(1065, 1065),
        "test": SplitSize(1004, 1004),
    },
    ("activitynet", "default"): {"train": SplitSize(10_009, 10_009), "test": SplitSize(4917, 4917)},
    ("vatex", "hgr"): {
        "train": SplitSize(25_991, 259_910),
        "val": SplitSize(1500, 15_000),
        "test": SplitSize(1500, 15_000),
    },
    ("vatex", "lists"): {"train": SplitSize(25_991, 259_910), "test": SplitSize(1500, 15_000)},
    ("vatex", "official"): {
        "train": SplitSize(25_991, 259_910),
        "val": SplitSize(3000, 30_000),
        "test": SplitSize(6000, 60_000),
    },
    ("lsmdc", "default"): {
        "train": SplitSize(None, 101_079),
        "val": SplitSize(7408, 7408),
        "test": SplitSize(1000, 1000),
    },
}


def expected_videos(name: str, variant: str) -> dict[str, int]:
    """Return the official number of videos of each split, where it is known."""
    return {split: s.videos for split, s in SIZES[name, variant].items() if s.videos is not None}


def sizes(name: str, variant: str | None) -> Mapping[str, SplitSize]:
    """Return the sizes of a data set, empty when there is no official one."""
    return SIZES.get((name, variant or "default"), {})
