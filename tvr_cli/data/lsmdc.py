"""LSMDC 2016 (Rohrbach et al., IJCV 2017): movie clips with one sentence each; the test set is the challenge's 1000.

Files, TAB-separated without a header, six columns (CLIP_ID, START_ALIGNED, END_ALIGNED, START_EXTRACTED, END_EXTRACTED,
SENTENCE): `LSMDC16_annos_training.csv`, `LSMDC16_annos_val.csv`, `LSMDC16_challenge_1000_publictect.csv` (sic). Some
rows carry stray quotes, so quotes mean nothing here; ids repeat in training. Videos `<movie>/<clip>.avi`.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tvr_cli.data import annotation_files as ann
from tvr_cli.data.sizes import SplitSize
from tvr_cli.errors import DataError
from tvr_cli.types import Caption, Manifest

SIZES = {
    "default": {
        "train": SplitSize(None, 101_079),
        "val": SplitSize(7408, 7408),
        "test": SplitSize(1000, 1000),
    },
}
_FILES = {
    "train": ("LSMDC16_annos_training.csv",),
    "val": ("LSMDC16_annos_val.csv",),
    "test": ("LSMDC16_challenge_1000_publictect.csv", "LSMDC16_challenge_1000_publictest.csv"),
}
_COLUMNS = 6


def wanted(root: Path, variant: str | None = None) -> list[tuple[str, ...]]:
    """Return the annotation files that are needed, each with the names that it may have."""
    return list(_FILES.values())


def load(root: Path, variant: str | None = None) -> Manifest:
    """Read LSMDC."""
    ann.check_variant("lsmdc", variant, ("default",))
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
        missing=tuple(missing),
        annotations=tuple(sources),
    )
