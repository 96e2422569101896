"""MSR-VTT (Xu et al., CVPR 2016) with the splits in use: 1k-A with 9k or 7k training videos, the full split, and 1k-B.

Files: `MSRVTT_data.json` (videos and sentences), or the official `train_val_videodatainfo.json` and
`test_videodatainfo.json`; for 1k-A `MSRVTT_JSFUSION_test.csv` and `MSRVTT_train.9k.csv` or `.7k.csv`; for 1k-B
(Miech et al., arXiv 1804.02516) `train_list_miech.txt` and `test_list_miech.txt`, one id a line, whose test queries are
the first caption of each video. Videos `video123.mp4` anywhere below the root.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tvr_cli.data import annotation_files as ann
from tvr_cli.data.sizes import SplitSize
from tvr_cli.errors import DataError
from tvr_cli.types import Caption, Manifest

VARIANTS = ("9k", "7k", "full", "1k-B")
SIZES = {
    "9k": {"train": SplitSize(9000, 180_000), "test": SplitSize(1000, 1000)},
    "7k": {"train": SplitSize(7010, 140_200), "test": SplitSize(1000, 1000)},
    "full": {"train": SplitSize(6513, 130_260), "val": SplitSize(497, 9_940), "test": SplitSize(2990, 59_800)},
    "1k-B": {"train": SplitSize(6656, 133_120), "test": SplitSize(1000, 1000)},
}
GALLERIES = {
    879: "1k-A with sound on the public board (MVEB)",
    884: "1k-A with sound as in GRAM",
}
_MIECH = {"train": ("train_list_miech.txt",), "test": ("test_list_miech.txt",)}
_SPLITS = {"train": "train", "validate": "val", "test": "test"}
_WHOLE = ("MSRVTT_data.json", "MSR_VTT.json", "videodatainfo_2016.json")
_TEST = ("MSRVTT_JSFUSION_test.csv", "msrvtt_jsfusion_test.csv")


def wanted(root: Path, variant: str | None = None) -> list[tuple[str, ...]]:
    """Return the annotation files that are needed, each with the names that it may have."""
    data = (*_WHOLE, "train_val_videodatainfo.json")
    more = {"full": [], "1k-B": list(_MIECH.values())}
    return [data, *more.get(variant or VARIANTS[0], [_TEST])]


def load(root: Path, variant: str | None = None) -> Manifest:
    """Read MSR-VTT. Variants: 9k (default) and 7k with the test set 1k-A, full (6513 / 497 / 2990), 1k-B."""
    variant = ann.check_variant("msrvtt", variant, VARIANTS)
    data, sources = _read_data(root)
    sentences: dict[str, list[str]] = defaultdict(list)
    for i, record in enumerate(ann.field(data, "sentences", list, sources[0], "top level")):
        video = ann.field(record, "video_id", str, sources[0], f"sentence {i}")
        sentences[video].append(ann.field(record, "caption", str, sources[0], f"sentence {i}"))
    official = _official_splits(data, sources[0])
    notes: list[str] = []
    if variant == "full":
        videos = {split: [v for v, s in official.items() if s == split] for split in ("train", "val", "test")}
        if not videos["test"]:
            raise DataError(f"{sources[0]}: the field 'split' of the videos is missing; it defines the full split")
        test: list[Caption] = []
    elif variant == "1k-B":
        videos = {split: _listed(root, names, sources) for split, names in _MIECH.items()}
        test = []
        notes.append(
            "1k-B tests on the first caption of each video, and has no validation split: training holds out a tenth of "
            "the training videos by their id"
        )
    else:
        test_path = ann.find_file(root, "MSR-VTT 1k-A", *_TEST)
        test = _read_test(test_path)
        sources.append(test_path)
        videos = {"train": _train_ids(root, variant, official, sentences, test, sources, notes)}
        videos["test"] = [c.video for c in test]
        notes.append(
            "1k-A has no validation split: training holds out a tenth of the training videos by their id "
            "(--select-on test trains on all of them and chooses on the test set, as most papers did)"
        )
    ann.refuse_leaks("msrvtt", videos, _lists(sources, videos))
    captions: list[Caption] = []
    for split, ids in videos.items():
        if split == "test" and test:
            captions += test
            continue
        for video in ids:
            if video not in sentences:
                raise DataError(f"{sources[0]}: the video {video!r} of the split {split} has no sentence")
            texts = sentences[video][:1] if variant == "1k-B" and split == "test" else sentences[video]
            captions += ann.captions_of(video, texts, split, sources[0])
    clips, missing = ann.clips_of((v for ids in videos.values() for v in ids), ann.VideoFiles(root))
    return Manifest(
        "msrvtt",
        root,
        tuple(clips),
        tuple(captions),
        variant,
        missing=tuple(missing),
        annotations=tuple(sources),
        notes=tuple(notes),
    )


def _lists(sources: list[Path], splits: Iterable[str]) -> dict[str, Path]:
    """Return the file that lists the videos of each split: a list where there is one, else that of the sentences."""
    lists = [path for path in sources if path.suffix != ".json"]
    return {split: next((p for p in lists if split in p.name.lower()), sources[0]) for split in splits}


def _read_data(root: Path) -> tuple[dict[str, Any], list[Path]]:
    whole = ann.optional_file(root, *_WHOLE)
    if whole is not None:
        return ann.read_json(whole), [whole]
    parts = [
        ann.find_file(root, "MSR-VTT", "MSRVTT_data.json", "train_val_videodatainfo.json"),
        ann.find_file(root, "MSR-VTT", "MSRVTT_data.json", "test_videodatainfo.json"),
    ]
    merged: dict[str, Any] = {"videos": [], "sentences": []}
    for path in parts:
        data = ann.read_json(path)
        for key in merged:
            merged[key] += ann.field(data, key, list, path, "top level")
    return merged, parts


def _official_splits(data: Any, path: Path) -> dict[str, str]:
    """Return the split of each video that says one."""
    splits = {}
    for i, video in enumerate(ann.field(data, "videos", list, path, "top level")):
        name = ann.field(video, "video_id", str, path, f"video {i}")
        if (split := video.get("split")) is not None:
            if split not in _SPLITS:
                raise DataError(f"{path}: video {name!r}: unknown split {split!r}; expected {', '.join(_SPLITS)}")
            splits[name] = _SPLITS[split]
    return splits


def _train_ids(
    root: Path,
    variant: str,
    official: dict[str, str],
    sentences: dict[str, list[str]],
    test: list[Caption],
    sources: list[Path],
    notes: list[str],
) -> list[str]:
    path = ann.optional_file(root, f"MSRVTT_train.{variant}.csv", f"msrvtt_train_{variant}.csv")
    if path is not None:
        sources.append(path)
        return _read_ids(path)
    held = {c.video for c in test}
    if variant == "9k":
        notes.append("MSRVTT_train.9k.csv was not found: all videos outside of 1k-A train, which is the same list")
        return [v for v in sentences if v not in held]
    ids = [v for v, split in official.items() if split in ("train", "val") and v not in held]
    if not ids:
        raise DataError(f"MSR-VTT 7k: expected MSRVTT_train.7k.csv below {str(root)!r}, found none")
    notes.append("MSRVTT_train.7k.csv was not found: the official train and validate videos train, the same list")
    return ids


def _listed(root: Path, names: Sequence[str], sources: list[Path]) -> list[str]:
    """Read a list of ids, one a line, and add its file to `sources`."""
    path = ann.find_file(root, "MSR-VTT 1k-B", *names)
    sources.append(path)
    return [video for _, video in ann.read_lines(path)]


def _read_ids(path: Path) -> list[str]:
    rows = list(csv.reader(ann.read_text(path).splitlines()))
    if not rows or rows[0][:1] != ["video_id"]:
        raise DataError(f"{path}:1: expected the header 'video_id', found {rows[0] if rows else 'an empty file'}")
    return [row[0].strip() for row in rows[1:] if row and row[0].strip()]


def _read_test(path: Path) -> list[Caption]:
    lines = ann.read_text(path).splitlines()
    reader = csv.DictReader(lines)
    if not {"video_id", "sentence"} <= set(reader.fieldnames or ()):
        raise DataError(f"{path}:1: expected the header key,vid_key,video_id,sentence, found {reader.fieldnames}")
    captions: list[Caption] = []
    for row in reader:
        video, sentence = (row["video_id"] or "").strip(), " ".join((row["sentence"] or "").split())
        if not video:
            raise DataError(f"{path}:{reader.line_num}: the video_id is empty")
        key = row.get("key") or f"{video}#{len(captions)}"
        captions.append(Caption(key, video, sentence, "test", source=f"{path}:{reader.line_num}"))
    return captions
