"""ActivityNet Captions (Krishna et al., ICCV 2017) as paragraph retrieval; val_1 is the test set.

The variant `val_2` tests on the second annotators' paragraphs instead: 4885 videos, all of them in val_1 too.

Files: `train.json`, `val_1.json` (or `val_2.json`) = {"v_id": {"duration", "timestamps", "sentences"}};
`train_ids.json`, `val_ids.json` (lists of ids) are optional and derived from the keys otherwise. Videos
`<youtube id>.*` or `v_<youtube id>.*`.
"""

from __future__ import annotations

from pathlib import Path

from tvr_cli.data import annotation_files as ann
from tvr_cli.data.sizes import SplitSize
from tvr_cli.errors import DataError
from tvr_cli.types import Caption, Clip, Manifest

VARIANTS = ("default", "val_2")
SIZES = {
    "default": {"train": SplitSize(10_009, 10_009), "test": SplitSize(4917, 4917)},
    "val_2": {"train": SplitSize(10_009, 10_009), "test": SplitSize(4885, 4885)},
}
GALLERIES = {4884: "ActivityNet val_2 on the public board (MVEB)"}
ORDINARY = ("train.json",)
_TRAIN = ("train.json",)
_FILES = {
    "default": {"train": _TRAIN, "test": ("val_1.json", "val1.json")},
    "val_2": {"train": _TRAIN, "test": ("val_2.json", "val2.json")},
}
# Lists of ids; there is none of val_2.
_IDS = {"default": {"train": "train_ids.json", "test": "val_ids.json"}, "val_2": {"train": "train_ids.json"}}


def wanted(root: Path, variant: str | None = None) -> list[tuple[str, ...]]:
    """Return the annotation files that are needed, each with the names that it may have."""
    return list(_FILES.get(variant or "", _FILES[VARIANTS[0]]).values())


def load(root: Path, variant: str | None = None) -> Manifest:
    """Read ActivityNet Captions. Variants: default (tested on val_1), val_2."""
    variant = ann.check_variant("activitynet", variant, VARIANTS)
    test = "val_1" if variant == VARIANTS[0] else variant
    videos: dict[str, list[str]] = {}
    captions: list[Caption] = []
    sources: list[Path] = []
    lists: dict[str, Path] = {}
    for split, names in _FILES[variant].items():
        path = ann.find_file(root, "ActivityNet", *names)
        sources.append(path)
        data = ann.read_json(path)
        if not isinstance(data, dict):
            raise DataError(f"{path}: expected a mapping from video id to its annotation, found {type(data).__name__}")
        ids = _ids(root, _IDS[variant].get(split), path, data, sources)
        videos[split], lists[split] = ids, sources[-1]
        for video in ids:
            sentences = ann.field(data[video], "sentences", list, path, f"video {video!r}")
            captions += ann.captions_of(video, [" ".join(map(str, sentences))], split, path)
    ann.refuse_leaks("activitynet", videos, lists)
    files = ann.VideoFiles(root)
    clips, missing = [], []
    for video in dict.fromkeys(v for ids in videos.values() for v in ids):
        found = files.find(video.removeprefix("v_"), video)
        if found is None:
            missing.append(video)
        else:
            clips.append(Clip(video, found))
    return Manifest(
        "activitynet",
        root,
        tuple(clips),
        tuple(captions),
        None if variant == VARIANTS[0] else variant,
        missing=tuple(missing),
        annotations=tuple(sources),
        notes=(
            f"all sentences of a video are one paragraph; {test} is the test set"
            + (", as in the papers" if test == "val_1" else ", with the paragraphs of the second annotators"),
            "no validation split: training holds out a tenth of the training videos by their id",
        ),
    )


def _ids(root: Path, name: str | None, path: Path, data: dict[str, object], sources: list[Path]) -> list[str]:
    listed = ann.optional_file(root, name) if name else None
    if listed is None:
        return list(data)
    sources.append(listed)
    ids = ann.read_json(listed)
    if not isinstance(ids, list):
        raise DataError(f"{listed}: expected a list of video ids, found {type(ids).__name__}")
    for video in ids:
        if video not in data:
            raise DataError(f"{listed}: the video {video!r} has no annotation in {path.name}")
    return [str(v) for v in ids]
