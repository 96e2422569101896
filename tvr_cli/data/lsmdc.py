"""LSMDC 2016 (Rohrbach et al., IJCV 2017): movie clips with one sentence each; the test set is the challenge's 1000.

The variant `999` leaves out one clip, as some code bases do without a word.

Files, TAB-separated without a header, six columns (CLIP_ID, START_ALIGNED, END_ALIGNED, START_EXTRACTED, END_EXTRACTED,
SENTENCE): `LSMDC16_annos_training.csv`, `LSMDC16_annos_val.csv`, `LSMDC16_challenge_1000_publictect.csv` (sic). Some
rows carry stray quotes, so quotes mean nothing here; ids repeat in training. Videos `<movie>/<clip>.avi`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from tvr_cli.data import annotation_files as ann
from tvr_cli.data.sizes import SplitSize
from tvr_cli.errors import DataError
from tvr_cli.types import Caption, Manifest

VARIANTS = ("default", "999")
_TRAIN_AND_VAL = {"train": SplitSize(None, 101_079), "val": SplitSize(7408, 7408)}
SIZES = {
    "default": {**_TRAIN_AND_VAL, "test": SplitSize(1000, 1000)},
    "999": {**_TRAIN_AND_VAL, "test": SplitSize(999, 999)},
}
# What T-MASS and others skip.
LEFT_OUT = "1012_Unbreakable_00.05.16.065-00.05.21.941"
_FILES = {
    "train": ("LSMDC16_annos_training.csv",),
    "val": ("LSMDC16_annos_val.csv",),
    "test": ("LSMDC16_challenge_1000_publictect.csv", "LSMDC16_challenge_1000_publictest.csv"),
}
_COLUMNS = 6


def wanted(root: Path, variant: str | None = None) -> list[tuple[str, ...]]:
    """Return the annotation files that are needed, each with the names that it may have."""
    return list(_FILES.values())


def seconds_of(video: str) -> float | None:
    """Return how long a clip is by its id `MOVIE_HH.MM.SS.mmm-HH.MM.SS.mmm`, None for another id."""
    times = re.search(r"_(\d\d)\.(\d\d)\.(\d\d\.\d{3})-(\d\d)\.(\d\d)\.(\d\d\.\d{3})$", video)
    if times is None:
        return None
    h0, m0, s0, h1, m1, s1 = map(float, times.groups())
    seconds = 3600 * (h1 - h0) + 60 * (m1 - m0) + s1 - s0
    return seconds if seconds > 0 else None


def load(root: Path, variant: str | None = None) -> Manifest:
    """Read LSMDC. Variants: default, 999 (one test clip less)."""
    variant = ann.check_variant("lsmdc", variant, VARIANTS)
    videos: dict[str, list[str]] = {}
    captions: list[Caption] = []
    sources: list[Path] = []
    for split, names in _FILES.items():
        path = ann.find_file(root, "LSMDC", *names)
        sources.append(path)
        seen: dict[str, int] = defaultdict(int)
        for number, line in enumerate(ann.read_text(path).split("\n"), start=1):
            if not line.strip():
                continue
            cells = line.rstrip("\r").split("\t")
            if len(cells) != _COLUMNS:
                raise DataError(
                    f"{path}:{number}: expected {_COLUMNS} columns separated by TAB, found {len(cells)}: {line[:60]!r}"
                )
            video, sentence = cells[0].strip().strip('"'), " ".join(cells[-1].strip().strip('"').split())
            if not video:
                raise DataError(f"{path}:{number}: the clip id is empty")
            if variant == "999" and video == LEFT_OUT:
                continue
            captions.append(
                Caption(f"{video}#{seen[video]}", video, sentence, split, source=f"{path}:{number}")  # type: ignore[arg-type]
            )
            seen[video] += 1
        videos[split] = list(seen)
    ann.refuse_leaks("lsmdc", videos, dict(zip(_FILES, sources, strict=True)))
    clips, missing = ann.clips_of((v for ids in videos.values() for v in ids), ann.VideoFiles(root))
    return Manifest(
        "lsmdc",
        root,
        tuple(clips),
        tuple(captions),
        None if variant == VARIANTS[0] else variant,
        missing=tuple(missing),
        annotations=tuple(sources),
        notes=(f"the clip {LEFT_OUT} is left out, as some code bases do",) if variant == "999" else (),
    )
