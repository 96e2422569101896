"""MSVD (Chen and Dolan, ACL 2011): 1200 / 100 / 670 videos, every caption a query.

Two other protocols change what the queries of val and test are, and nothing of train: `one-caption` takes the first
caption of each video, `paragraphs` joins all of them in the order of the file.

Files: `train_list.txt`, `val_list.txt`, `test_list.txt` (one id a line) and `raw-captions.pkl` (id -> lists of tokens;
read by a restricted unpickler) or `captions_msvd.json` (id -> list of sentences). Videos `{id}.avi`, any extension.
"""

from __future__ import annotations

from pathlib import Path

from tvr_cli.data import annotation_files as ann
from tvr_cli.data.sizes import SplitSize
from tvr_cli.errors import DataError
from tvr_cli.types import Caption, Manifest

VARIANTS = ("default", "one-caption", "paragraphs")
_ONE_EACH = {"train": SplitSize(1200, 48_774), "val": SplitSize(100, 100), "test": SplitSize(670, 670)}
SIZES = {
    "default": {"train": SplitSize(1200, 48_774), "val": SplitSize(100, 4_290), "test": SplitSize(670, 27_763)},
    "one-caption": _ONE_EACH,
    "paragraphs": _ONE_EACH,
}
GALLERIES = {660: "MSVD on the public board (MVEB)"}
_NOTES = {
    "one-caption": "the first caption of each video is its only query, in val and test; training has all",
    "paragraphs": "all captions of a video are one query, in val and test; training has all, one by one",
}
ORDINARY = ("train_list.txt", "val_list.txt", "test_list.txt")
_CAPTIONS = ("raw-captions.pkl", "captions_msvd.json")


def wanted(root: Path, variant: str | None = None) -> list[tuple[str, ...]]:
    """Return the annotation files that are needed, each with the names that it may have."""
    return [_CAPTIONS, *((f"{split}_list.txt",) for split in ("train", "val", "test"))]


def seconds_of(video: str) -> float | None:
    """Return how long a clip is by its id `YOUTUBEID_START_END`, None for another id."""
    return ann.seconds_between(video, r"_(\d+)_(\d+)$")


def load(root: Path, variant: str | None = None) -> Manifest:
    """Read MSVD. Variants: default (every caption is a query), one-caption, paragraphs."""
    variant = ann.check_variant("msvd", variant, VARIANTS)
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
            if split != "train":
                texts = _queries(variant, texts)
            captions += ann.captions_of(video, texts, split, source)
    ann.refuse_leaks("msvd", videos, dict(zip(videos, sources[1:], strict=True)))
    clips, missing = ann.clips_of((v for ids in videos.values() for v in ids), ann.VideoFiles(root))
    return Manifest(
        "msvd",
        root,
        tuple(clips),
        tuple(captions),
        None if variant == VARIANTS[0] else variant,
        missing=tuple(missing),
        annotations=tuple(sources),
        notes=(_NOTES[variant],) if variant in _NOTES else (),
    )


def _queries(variant: str, texts: list[str]) -> list[str]:
    """Return the queries that the captions of one video make."""
    if variant == "one-caption":
        return texts[:1]
    return [" ".join(texts)] if variant == "paragraphs" else texts
