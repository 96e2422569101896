"""MSVD (Chen and Dolan, ACL 2011): 1200 / 100 / 670 videos, every caption a query.

Files: `train_list.txt`, `val_list.txt`, `test_list.txt` (one id a line) and `raw-captions.pkl` (id -> lists of tokens;
read by a restricted unpickler) or `captions_msvd.json` (id -> list of sentences). Videos `{id}.avi`, any extension.
"""

from __future__ import annotations

from pathlib import Path

from tvr_cli.data import annotation_files as ann
from tvr_cli.data.sizes import SplitSize
from tvr_cli.errors import DataError
from tvr_cli.types import Caption, Manifest

SIZES = {
    "default": {"train": SplitSize(1200, 48_774), "val": SplitSize(100, 4_290), "test": SplitSize(670, 27_763)},
}
ORDINARY = ("train_list.txt", "val_list.txt", "test_list.txt")
_CAPTIONS = ("raw-captions.pkl", "captions_msvd.json")


def wanted(root: Path, variant: str | None = None) -> list[tuple[str, ...]]:
    """Return the annotation files that are needed, each with the names that it may have."""
    return [_CAPTIONS, *((f"{split}_list.txt",) for split in ("train", "val", "test"))]


def load(root: Path, variant: str | None = None) -> Manifest:
    """Read MSVD."""
    ann.check_variant("msvd", variant, ("default",))
    source = ann.find_file(root, "MSVD captions", *_CAPTIONS)
    raw = ann.read_pickle(source) if source.suffix == ".pkl" else ann.read_json(source)
    if not isinstance(raw, dict):
        raise DataError(f"{source}: expected a mapping from video id to captions, found {type(raw).__name__}")
    videos: dict[str, list[str]] = {}
    captions: list[Caption] = []
    sources = [source]
    for split in ("train", "val", "test"):
        path = ann.find_file(root, "MSVD split", f"{split}_list.txt")
        sources.append(path)
        videos[split] = []
        for number, video in ann.read_lines(path):
            if video not in raw:
                raise DataError(f"{path}:{number}: the video {video!r} has no captions in {source.name}")
            videos[split].append(video)
            texts = [c if isinstance(c, str) else " ".join(map(str, c)) for c in raw[video]]
            captions += ann.captions_of(video, texts, split, source)
    ann.refuse_leaks("msvd", videos, dict(zip(videos, sources[1:], strict=True)))
    clips, missing = ann.clips_of((v for ids in videos.values() for v in ids), ann.VideoFiles(root))
    return Manifest(
        "msvd",
        root,
        tuple(clips),
        tuple(captions),
        missing=tuple(missing),
        annotations=tuple(sources),
    )
