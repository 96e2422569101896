"""ActivityNet Captions (Krishna et al., ICCV 2017) as paragraph retrieval; val_1 is the test set.

Files: `train.json`, `val_1.json` = {"v_id": {"duration", "timestamps", "sentences"}}; `train_ids.json`, `val_ids.json`
(lists of ids) are optional and derived from the keys otherwise. Videos `<youtube id>.*` or `v_<youtube id>.*`.
"""

from __future__ import annotations

from pathlib import Path

from tvr_cli.data import annotation_files as ann
from tvr_cli.data.sizes import SplitSize
from tvr_cli.errors import DataError
from tvr_cli.types import Caption, Clip, Manifest

SIZES = {"default": {"train": SplitSize(10_009, 10_009), "test": SplitSize(4917, 4917)}}
ORDINARY = ("train.json",)
_FILES = {"train": ("train.json",), "test": ("val_1.json", "val1.json")}
_IDS = {"train": "train_ids.json", "test": "val_ids.json"}


def wanted(root: Path, variant: str | None = None) -> list[tuple[str, ...]]:
    """Return the annotation files that are needed, each with the names that it may have."""
    return list(_FILES.values())


def load(root: Path, variant: str | None = None) -> Manifest:
    """Read ActivityNet Captions."""
    ann.check_variant("activitynet", variant, ("default",))
    videos: dict[str, list[str]] = {}
    captions: list[Caption] = []
    sources: list[Path] = []
    lists: dict[str, Path] = {}
    for split, names in _FILES.items():
        path = ann.find_file(root, "ActivityNet", *names)
        sources.append(path)
        data = ann.read_json(path)
        if not isinstance(data, dict):
            raise DataError(f"{path}: expected a mapping from video id to its annotation, found {type(data).__name__}")
        ids = _ids(root, split, path, data, sources)
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
        missing=tuple(missing),
        annotations=tuple(sources),
        notes=(
            "all sentences of a video are one paragraph; val_1 is the test set, as in the papers",
            "no validation split: training holds out a tenth of the training videos by their id",
        ),
    )


def _ids(root: Path, split: str, path: Path, data: dict[str, object], sources: list[Path]) -> list[str]:
    listed = ann.optional_file(root, _IDS[split])
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
