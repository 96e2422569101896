"""DiDeMo (Hendricks et al., ICCV 2017) as paragraph retrieval: all sentences of a video in file order, its first 30 s.

Files: `{train,val,test}_data.json` (list of {"video", "description", …}) and, optionally, `{split}_list.txt` with the
file names of the split (the community's `*_list_mp4.txt` too). File names are ids: they hold `@` and dots, some have no
extension.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tvr_cli.data import annotation_files as ann
from tvr_cli.data.sizes import SplitSize
from tvr_cli.errors import DataError
from tvr_cli.types import Caption, Manifest

SIZES = {
    "default": {"train": SplitSize(8392, 8392), "val": SplitSize(1065, 1065), "test": SplitSize(1004, 1004)},
}
ORDINARY = ("train_data.json", "val_data.json", "test_data.json")
SECONDS = 30.0  # annotations cover six segments of five seconds; what follows has no caption


def wanted(root: Path, variant: str | None = None) -> list[tuple[str, ...]]:
    """Return the annotation files that are needed, each with the names that it may have."""
    return [(f"{split}_data.json",) for split in ("train", "val", "test")]


def load(root: Path, variant: str | None = None) -> Manifest:
    """Read DiDeMo."""
    ann.check_variant("didemo", variant, ("default",))
    videos: dict[str, list[str]] = {}
    captions: list[Caption] = []
    sources: list[Path] = []
    lists: dict[str, Path] = {}
    for split in ("train", "val", "test"):
        path = ann.find_file(root, "DiDeMo", f"{split}_data.json")
        sources.append(path)
        sentences: dict[str, list[str]] = defaultdict(list)
        for i, record in enumerate(ann.read_json(path)):
            video = ann.field(record, "video", str, path, f"record {i}")
            sentences[video].append(ann.field(record, "description", str, path, f"record {i}"))
        listed = _listed(root, split, sources)
        lists[split] = sources[-1]
        by_stem = {Path(v).stem: v for v in sentences}
        videos[split] = [v if v in sentences else by_stem[Path(v).stem] for v in listed] if listed else list(sentences)
        for video in videos[split]:
            captions += ann.captions_of(video, [" ".join(sentences[video])], split, path)
    ann.refuse_leaks("didemo", videos, lists)
    clips, missing = ann.clips_of((v for ids in videos.values() for v in ids), ann.VideoFiles(root), end=SECONDS)
    return Manifest(
        "didemo",
        root,
        tuple(clips),
        tuple(captions),
        missing=tuple(missing),
        annotations=tuple(sources),
        notes=(f"all sentences of a video are one paragraph; the first {SECONDS:.0f} s of each video are used",),
    )


def _listed(root: Path, split: str, sources: list[Path]) -> list[str]:
    path = ann.optional_file(root, f"{split}_list.txt", f"{split}_list_mp4.txt")
    if path is None:
        return []
    sources.append(path)
    known = {Path(r["video"]).stem for r in ann.read_json(sources[-2]) if isinstance(r, dict) and "video" in r}
    listed = []
    for number, name in ann.read_lines(path):
        if Path(name).stem not in known:
            raise DataError(f"{path}:{number}: the video {name!r} has no description in {sources[-2].name}")
        listed.append(name)
    return listed
