"""DiDeMo (Hendricks et al., ICCV 2017) as paragraph retrieval: all sentences of a video in file order, its first 30 s.

Files: `{train,val,test}_data.json` (list of {"video", "description", …}) and, optionally, `{split}_list.txt` with the
file names of the split (the community's `*_list_mp4.txt` too). File names are ids: they hold `@`, some end in a dot.

The official JSON names some videos twice, once with each of two extensions (33 of test: 1037 names, 1004 videos). Hence
three protocols: `default` makes one video of the spellings of a name, with the sentences of all, under the first one in
the file, whatever a list says; `names` keeps every spelling as a video of its own; `lists` keeps the spelling that the
list has and drops the sentences of the other, as the community's code does (89 of the 4021 of test).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tvr_cli.data import annotation_files as ann
from tvr_cli.data.sizes import SplitSize
from tvr_cli.errors import DataError
from tvr_cli.types import Caption, Manifest

VARIANTS = ("default", "names", "lists")
SIZES = {
    "default": {"train": SplitSize(8392, 8392), "val": SplitSize(1065, 1065), "test": SplitSize(1004, 1004)},
    "names": {"train": SplitSize(None, None), "val": SplitSize(1094, 1094), "test": SplitSize(1037, 1037)},
    "lists": {"train": SplitSize(8392, 8392), "val": SplitSize(1065, 1065), "test": SplitSize(1004, 1004)},
}
GALLERIES = {
    1003: "DiDeMo without one test video, as several papers have it",
}
ORDINARY = ("train_data.json", "val_data.json", "test_data.json")
_SPLITS = ("train", "val", "test")
SECONDS = 30.0  # annotations cover six segments of five seconds; what follows has no caption


def wanted(root: Path, variant: str | None = None) -> list[tuple[str, ...]]:
    """Return the annotation files that are needed, each with the names that it may have."""
    needed: list[tuple[str, ...]] = [(f"{split}_data.json",) for split in _SPLITS]
    return [*needed, *(_lists(split) for split in _SPLITS)] if variant == "lists" else needed


def load(root: Path, variant: str | None = None) -> Manifest:
    """Read DiDeMo. Variants: default (spellings of one name are one video), names, lists."""
    variant = ann.check_variant("didemo", variant, VARIANTS)
    videos: dict[str, list[str]] = {}
    captions: list[Caption] = []
    sources: list[Path] = []
    lists: dict[str, Path] = {}
    notes = [f"all sentences of a video are one paragraph; the first {SECONDS:.0f} s of each video are used"]
    for split in _SPLITS:
        path = ann.find_file(root, "DiDeMo", f"{split}_data.json")
        names, sentences = _records(path)
        listed, lists[split] = _listed(root, split, names, path)
        sources += dict.fromkeys((path, lists[split]))
        if variant == "lists" and not listed:
            raise DataError(f"DiDeMo, lists: expected {' or '.join(_lists(split))} below {str(root)!r}, found neither")
        texts = _PROTOCOLS[variant](listed, names, sentences)
        videos[split] = list(texts)
        for video, parts in texts.items():
            captions += ann.captions_of(video, [" ".join(parts)], split, path)
        if note := _spellings(variant, split, listed, names, texts):
            notes.append(note)
    ann.refuse_leaks("didemo", videos, lists, same=ann.video_stem)
    clips, missing = ann.clips_of((v for ids in videos.values() for v in ids), ann.VideoFiles(root), end=SECONDS)
    return Manifest(
        "didemo",
        root,
        tuple(clips),
        tuple(captions),
        None if variant == VARIANTS[0] else variant,
        missing=tuple(missing),
        annotations=tuple(sources),
        notes=tuple(notes),
    )


# -------------------------------------------------------------------------------------------------------- the protocols

_Names = Mapping[str, Sequence[str]]  # stem -> its spellings, in the order of the file
_Sentences = Sequence[tuple[str, str]]  # name and sentence of each record, in the order of the file


def _merged(listed: Sequence[str], names: _Names, sentences: _Sentences) -> dict[str, list[str]]:
    """One video a stem, under its first spelling, with the sentences of all."""
    texts: dict[str, list[str]] = {names[stem][0]: [] for stem in _stems(listed, names)}
    for name, sentence in sentences:
        if (first := names[ann.video_stem(name)][0]) in texts:
            texts[first].append(sentence)
    return texts


def _separate(listed: Sequence[str], names: _Names, sentences: _Sentences) -> dict[str, list[str]]:
    """One video a spelling, with its own sentences."""
    texts: dict[str, list[str]] = {name: [] for stem in _stems(listed, names) for name in names[stem]}
    for name, sentence in sentences:
        if name in texts:
            texts[name].append(sentence)
    return texts


def _as_listed(listed: Sequence[str], names: _Names, sentences: _Sentences) -> dict[str, list[str]]:
    """One video a line of the list, with the sentences of that spelling only."""
    texts: dict[str, list[str]] = {}
    for name in listed:
        spellings = names[ann.video_stem(name)]
        texts[name if name in spellings else spellings[0]] = []
    for name, sentence in sentences:
        if name in texts:
            texts[name].append(sentence)
    return texts


_PROTOCOLS = {"default": _merged, "names": _separate, "lists": _as_listed}


def _stems(listed: Sequence[str], names: _Names) -> Iterable[str]:
    return dict.fromkeys(map(ann.video_stem, listed)) if listed else names


def _spellings(variant: str, split: str, listed: Sequence[str], names: _Names, texts: Mapping[str, object]) -> str:
    """Say how many videos of a split have two names and what became of them, nothing where none has."""
    stems = list(_stems(listed, names))
    twice = [names[stem] for stem in stems if len(names[stem]) > 1]
    if not twice:
        return ""
    total = sum(len(names[stem]) for stem in stems)
    said = {
        "default": "one video each, with the sentences of both",
        "names": "each name is a video of its own here",
        "lists": "the sentences of the name that the list does not have are dropped here",
    }
    return (
        f"{split}: {len(twice)} videos are named twice (like {' and '.join(map(repr, twice[0]))}): {total} names, "
        f"{len(stems)} videos; {said[variant]}"
    )


# ------------------------------------------------------------------------------------------------------------- reading


def _records(path: Path) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Return the spellings of each stem and the sentences, in the order of the file."""
    names: dict[str, list[str]] = {}
    sentences = []
    for i, record in enumerate(ann.read_json(path)):
        video = ann.field(record, "video", str, path, f"record {i}")
        spellings = names.setdefault(ann.video_stem(video), [])
        if video not in spellings:
            spellings.append(video)
        sentences.append((video, ann.field(record, "description", str, path, f"record {i}")))
    return names, sentences


def _listed(root: Path, split: str, names: _Names, data: Path) -> tuple[list[str], Path]:
    """Return the names of a split's list and its file; none and that of the sentences where there is no list."""
    path = ann.optional_file(root, *_lists(split))
    if path is None:
        return [], data
    listed = []
    for number, name in ann.read_lines(path):
        if ann.video_stem(name) not in names:
            raise DataError(f"{path}:{number}: the video {name!r} has no description in {data.name}")
        listed.append(name)
    return listed, path


def _lists(split: str) -> tuple[str, str]:
    return f"{split}_list.txt", f"{split}_list_mp4.txt"
