"""VATEX (Wang et al., ICCV 2019), English captions, in the three layouts that are in use.

hgr: `trn_names.npy`, `val_names.npy`, `tst_names.npy` and `ref_captions.json` (25 991 / 1500 / 1500, the official
validation set halved). lists: `train_list.txt`, `test_list.txt` and `ref_captions.json` (TS2-Net, EagleNet; they
validate on test). official: `vatex_training_v1.0.json`, `vatex_validation_v1.0.json`,
`vatex_public_test_english_v1.1.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvr_cli.data import annotation_files as ann
from tvr_cli.data.sizes import SplitSize
from tvr_cli.errors import DataError
from tvr_cli.types import Caption, Manifest

VARIANTS = ("hgr", "lists", "official")
SIZES = {
    "hgr": {
        "train": SplitSize(25_991, 259_910),
        "val": SplitSize(1500, 15_000),
        "test": SplitSize(1500, 15_000),
    },
    "lists": {"train": SplitSize(25_991, 259_910), "test": SplitSize(1500, 15_000)},
    "official": {
        "train": SplitSize(25_991, 259_910),
        "val": SplitSize(3000, 30_000),
        "test": SplitSize(6000, 60_000),
    },
}
ORDINARY = ("ref_captions.json", "train_list.txt", "test_list.txt")
_OFFICIAL = {
    "train": ("vatex_training_v1.0.json",),
    "val": ("vatex_validation_v1.0.json",),
    "test": ("vatex_public_test_english_v1.1.json",),
}
_HGR = {"train": "trn_names.npy", "val": "val_names.npy", "test": "tst_names.npy"}
_LISTS = {"train": "train_list.txt", "test": "test_list.txt"}


def wanted(root: Path, variant: str | None = None) -> list[tuple[str, ...]]:
    """Return the annotation files that are needed, each with the names that it may have; those of the layout found."""
    files: dict[str, list[tuple[str, ...]]] = {
        "hgr": [("ref_captions.json",), *((name,) for name in _HGR.values())],
        "lists": [("ref_captions.json",), *((name,) for name in _LISTS.values())],
        "official": list(_OFFICIAL.values()),
    }
    if variant in files:
        return files[variant]
    return max(files.values(), key=lambda groups: sum(ann.optional_file(root, *g) is not None for g in groups))


def seconds_of(video: str) -> float | None:
    """Return how long a clip is by its id `YOUTUBEID_SSSSSS_EEEEEE`, None for another id."""
    return ann.seconds_between(video, r"_(\d{6})_(\d{6})$")


def load(root: Path, variant: str | None = None) -> Manifest:
    """Read VATEX. Without a variant, the layout that is found: hgr, else lists, else official."""
    variant = ann.check_variant("vatex", variant, VARIANTS) if variant else _found(root)
    sources: list[Path] = []
    notes: list[str] = []
    texts: dict[str, list[str]]
    videos: dict[str, list[str]]
    if variant == "official":
        videos, texts = _read_official(root, sources)
    else:
        source = ann.find_file(root, "VATEX captions", "ref_captions.json")
        texts = ann.read_json(source)
        sources.append(source)
        videos = _read_names(root, sources) if variant == "hgr" else _read_lists(root, sources)
        if variant == "lists":
            notes.append("this layout has no validation split: training holds out a tenth of the training videos")
    lists = sources if variant == "official" else sources[1:]
    ann.refuse_leaks("vatex", videos, dict(zip(videos, lists, strict=True)))
    captions: list[Caption] = []
    for split, ids in videos.items():
        for video in ids:
            if video not in texts:
                raise DataError(f"{sources[0]}: the video {video!r} of the split {split} has no captions")
            captions += ann.captions_of(video, texts[video], split, sources[0])
    clips, missing = ann.clips_of((v for ids in videos.values() for v in ids), ann.VideoFiles(root))
    return Manifest(
        "vatex",
        root,
        tuple(clips),
        tuple(captions),
        variant,
        missing=tuple(missing),
        annotations=tuple(sources),
        notes=tuple(notes),
    )


def _found(root: Path) -> str:
    if ann.optional_file(root, "trn_names.npy"):
        return "hgr"
    if ann.optional_file(root, "ref_captions.json"):
        return "lists"
    if ann.optional_file(root, *_OFFICIAL["train"]):
        return "official"
    raise DataError(
        f"VATEX: expected below {str(root)!r} trn_names.npy and ref_captions.json (hgr), train_list.txt and "
        f"ref_captions.json (lists), or {_OFFICIAL['train'][0]} (official); found none of them"
    )


def _read_official(root: Path, sources: list[Path]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    videos: dict[str, list[str]] = {}
    texts: dict[str, list[str]] = {}
    for split, names in _OFFICIAL.items():
        path = ann.find_file(root, "VATEX", *names)
        sources.append(path)
        videos[split] = []
        for i, record in enumerate(ann.read_json(path)):
            video = ann.field(record, "videoID", str, path, f"record {i}")
            texts[video] = ann.field(record, "enCap", list, path, f"record {i}")
            videos[split].append(video)
    return videos, texts


def _read_names(root: Path, sources: list[Path]) -> dict[str, list[str]]:
    import numpy as np

    videos = {}
    for split, name in _HGR.items():
        path = ann.find_file(root, "VATEX split", name)
        sources.append(path)
        try:
            names: Any = np.load(path, allow_pickle=False)
        except ValueError:
            raise DataError(
                f"{str(path)!r} holds pickled objects, which could run code, and an array of text was expected; use "
                f"the lists instead ({' and '.join(_LISTS.values())}, one id a line): --data vatex:{root}:lists"
            ) from None
        videos[split] = [n.decode() if isinstance(n, bytes) else str(n) for n in names.tolist()]
    return videos


def _read_lists(root: Path, sources: list[Path]) -> dict[str, list[str]]:
    videos = {}
    for split, listed in _LISTS.items():
        path = ann.find_file(root, "VATEX split", listed)
        sources.append(path)
        videos[split] = [name for _, name in ann.read_lines(path)]
    return videos
