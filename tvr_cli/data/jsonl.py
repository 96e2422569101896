"""Captions of one's own videos: a JSONL file, one object a line, and how its captions find their clips.

    {"video": id or unique stem, "caption": str, "id"?: str, "split"?: "train|val|test", "path"?: file of the video,
     "start"?: seconds, "end"?: seconds}

`video` names a file by its id (its path below the folder that was extracted), by its path without extension, by its
bare name or stem where that is unique, or one window of it (`path#t=30,60`). Unknown keys are ignored. Everything is
checked before any work starts; an error names file and line. Other names of keys, and CSV and JSON: `columns.py`;
annotation files of data sets about moments: `timed.py`.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from tvr_cli import schema
from tvr_cli.data import timed
from tvr_cli.data.annotation_files import VideoFiles, refuse_empty
from tvr_cli.data.columns import KEYS, CaptionsFile, captions_in, is_table, named, parse_columns, records
from tvr_cli.data.truth.question import Format
from tvr_cli.errors import ConfigError, DataError, did_you_mean
from tvr_cli.files import is_text, parse_json
from tvr_cli.log import warn_once
from tvr_cli.types import SPLITS, Caption, Clip, Manifest, Split

EXAMPLE = '{"video": "beach.mp4", "caption": "a dog surfing"}'
_TRAIN, _VAL = 0.8, 0.9  # upper ends of the hash's range

# What a captions file looks like, for a message about one that is missing.
CAPTIONS_EXAMPLE = (
    '{"video": "dogs/beach.mp4", "caption": "a dog runs along the beach"}',
    '{"video": "surf.mov", "caption": "someone rides a wave"}',
)


class ClipInfo(Protocol):
    """What resolving needs to know of a clip; `stores.frames.ClipRecord` is one."""

    @property
    def id(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def file_id(self) -> str: ...
    @property
    def span(self) -> tuple[float, float]: ...


@dataclass(frozen=True, slots=True)
class Resolved:
    """A caption with the rows of the clips that it describes, all of one file. Its split is never None."""

    caption: Caption
    clips: tuple[int, ...]
    file_id: str


def load(root: Path, variant: str | None = None) -> Manifest:
    """Read a captions file (or the `captions.jsonl` of a folder) as a corpus whose videos lie beside it.

    A video is the file at `path`, or at its id, or the only one with its name or stem; others are listed as missing.
    variant: names of columns, as in `parse_columns`. Raises DataError for a name that several files have.
    """
    if variant is not None and "=" not in variant:
        raise ConfigError(f"captions of one's own have no variants, found {variant!r}; say jsonl:{root}")
    file = root / "captions.jsonl" if root.is_dir() else root
    captions = read_captions(CaptionsFile(file, parse_columns(variant)), empty=True)
    beside = VideoFiles(file.parent)
    clips: dict[str, Clip] = {}
    missing: dict[str, None] = {}
    for caption in captions:
        found = caption.path or file.parent / caption.video
        if not found.is_file():
            found = _only(beside.called(caption.video), caption, file.parent) or found
        if found.is_file():
            clips[caption.video] = Clip(caption.video, found)
        else:
            missing[caption.video] = None
    return Manifest(
        "jsonl",
        file.parent,
        tuple(clips.values()),
        tuple(captions),
        variant,
        missing=tuple(missing),
        annotations=(file,),
    )


def _only(paths: Sequence[Path], caption: Caption, folder: Path) -> Path | None:
    """Return the only file that a caption may mean, None where there is none. Raises DataError where there are more."""
    if len(paths) > 1:
        named = ", ".join(repr(path.relative_to(folder).as_posix()) for path in paths)
        raise DataError(
            f"{caption.source}: the video {caption.video!r} is ambiguous: it may be {named}; say which by its path"
        )
    return paths[0] if paths else None


def read_captions(file: Path | CaptionsFile, *, empty: bool = False) -> list[Caption]:
    """Read a captions file. Ids are made where absent: `video#0`, `video#1`, … in the order of the file.

    JSON, CSV and TSV are read too, and other names of keys (`columns.py`). empty: keep captions without words.
    Raises DataError, with file and line, for anything that is not as the module's docstring says.
    """
    file = CaptionsFile(file) if isinstance(file, Path) else file
    captions = list(unlike_ids(each_caption(file), file.path))
    if not captions:
        raise no_captions(file.path)
    if not empty:
        refuse_empty(captions)
    return captions


def each_caption(file: CaptionsFile) -> Iterator[Caption]:
    """Yield the captions of a file one by one, as `read_captions` says; ids that occur twice are not looked for."""
    path = file.path
    if (format := timed_format(file)) is not None:
        yield from timed.captions(path, format)
        return
    count: dict[str, int] = defaultdict(int)
    table = is_table(path) and path.is_file()
    for where, said in records(path) if table else _lines(path):
        row = named(said, file.columns, path, where)
        for record in captions_in(row) if table else [row]:
            caption = _caption(record, path, where)
            if not caption.id:
                caption = replace(caption, id=f"{caption.video}#{count[caption.video]}")
                count[caption.video] += 1
            yield caption


def timed_format(file: CaptionsFile) -> Format | None:
    """Return which data set about moments a file is of, None of captions of one's own, or whose columns are named."""
    return None if file.columns else timed.format_of(file.path)


def unlike_ids(captions: Iterable[Caption], path: Path) -> Iterator[Caption]:
    """Yield captions of a file. Raises DataError, naming both places, at an id that another one has."""
    places: dict[str, str] = {}
    for caption in captions:
        if caption.id in places:
            at = places[caption.id].removeprefix(f"{path}:").strip()
            at = f"line {at}" if at.isdecimal() else at
            raise DataError(f"{caption.source}: the id {caption.id!r} is that of {at} already")
        places[caption.id] = caption.source
        yield caption


def no_captions(path: Path) -> DataError:
    """Return the error of a file without captions."""
    return DataError(f"{str(path)!r} holds no captions; expected lines like {EXAMPLE}")


def resolve(
    captions: Iterable[Caption], clips: Sequence[ClipInfo], *, absent: Iterable[str] = (), strict: bool = True
) -> tuple[list[Resolved], list[Caption]]:
    """Find the clips of each caption and give each a split; returns (resolved, those of videos that are not there).

    absent: ids of videos that are known but have no clip (unreadable, or named by a data set without a file); their
    captions are set aside, under that id. strict: a video that is neither a clip nor absent is an error, else it is
    set aside too.
    Raises DataError with the caption's source for an unknown or ambiguous video, a time outside of the video, or a
    video that is in train and in another split.
    """
    found: list[Resolved] = []
    aside: list[Caption] = []
    for caption in each_resolved(captions, clips, absent=absent, strict=strict):
        if isinstance(caption, Resolved):
            found.append(caption)
        else:
            aside.append(caption)
    return assign_splits(found), aside


def each_resolved(
    captions: Iterable[Caption], clips: Sequence[ClipInfo], *, absent: Iterable[str] = (), strict: bool = True
) -> Iterator[Resolved | Caption]:
    """Yield each caption with its clips, or alone where its video is not there. Raises as `resolve`, but for splits."""
    names = _Names(clips, absent)
    for caption in captions:
        rows = names.find(caption)
        known_as = names.absent(caption.video)
        if not rows and (known_as or not strict):
            yield replace(caption, video=known_as or caption.video)
        elif not rows:
            raise DataError(names.unknown(caption))
        else:
            rows = _in_time(caption, rows, clips)
            yield Resolved(caption, tuple(rows), clips[rows[0]].file_id)


def assign_splits(captions: Sequence[Resolved]) -> list[Resolved]:
    """Give a split to each caption without one: that of the video's other captions, else 80/10/10 by its id's hash.

    Raises DataError for a video with captions in train and in another split: its result would be inflated.
    """
    splits = StatedSplits()
    for c in captions:
        splits.add(c)
    splits.check()
    stated = splits.of_file
    return [c if c.caption.split else replace(c, caption=replace(c.caption, split=_split(c, stated))) for c in captions]


class StatedSplits:
    """Which splits the captions of each file name. of_file: file id -> split -> where that is said first."""

    def __init__(self) -> None:
        self.of_file: dict[str, dict[Split, str]] = defaultdict(dict)

    def add(self, c: Resolved) -> None:
        if c.caption.split is not None:
            self.of_file[c.file_id].setdefault(c.caption.split, c.caption.source)

    def check(self) -> None:
        """Raise DataError for a video with captions in train and in another split; warn of other differences."""
        for file_id, splits in self.of_file.items():
            if "train" in splits and len(splits) > 1:
                said = ", ".join(f"{split} at {source}" for split, source in splits.items())
                raise DataError(
                    f"the video {file_id!r} has captions to train on and to be judged by ({said}); a result would be "
                    "inflated. Give all captions of a video one split"
                )
            if len(splits) > 1:
                warn_once(f"the video {file_id!r} has captions in the splits {', '.join(sorted(splits))}")


def split_of(video_id: str) -> Split:
    """Return the split of a video by the blake2b hash of its id: 80 % train, 10 % val, 10 % test."""
    share = int.from_bytes(hashlib.blake2b(video_id.encode(), digest_size=8).digest(), "big") / 2**64
    return "train" if share < _TRAIN else "val" if share < _VAL else "test"


def _split(c: Resolved, stated: Mapping[str, Mapping[Split, str]]) -> Split:
    others = stated.get(c.file_id, {})
    return next(iter(others)) if len(others) == 1 else split_of(c.file_id)


# ------------------------------------------------------------------------------------------------------------- reading


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return place and object of each line of a JSONL file."""
    try:
        opened = path.open("rb")
    except OSError as e:
        raise DataError(
            f"expected a captions file at {str(path)!r}, found none ({e.strerror}); its lines look like {EXAMPLE}"
        ) from e
    with opened:
        for number, raw in enumerate(opened, start=1):  # a line at a time: the file may be larger than its captions
            line = (raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw).rstrip(b"\n")
            if line.strip():
                yield f"{path}:{number}", _object(line, path, number)


def _object(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        value = parse_json(line.decode("utf-8"))
    except UnicodeDecodeError as e:
        raise DataError(
            f"{path}:{number}: expected UTF-8, found the byte 0x{line[e.start]:02x} at column {e.start + 1} "
            "(Latin-1?); convert the file, for example with: iconv -f latin1 -t utf-8"
        ) from e
    except ValueError as e:
        raise DataError(f"{path}:{number}: expected a JSON object like {EXAMPLE}, found malformed JSON: {e}") from e
    if not isinstance(value, dict):
        raise DataError(f"{path}:{number}: expected a JSON object like {EXAMPLE}, found {type(value).__name__}")
    return value


def _caption(record: Mapping[str, Any], path: Path, where: str) -> Caption:
    video = _text(record, "video", where, required=True)
    split = _text(record, "split", where)
    if split is not None and split not in SPLITS:
        raise DataError(f"{where}: split: expected train, val or test, found {split!r}{did_you_mean(split, SPLITS)}")
    start, end = _seconds(record, "start", where), _seconds(record, "end", where)
    if end is not None and end <= (start or 0.0):
        raise DataError(f"{where}: expected start < end, found start {start or 0.0} and end {end}")
    file = _text(record, "path", where)
    return Caption(
        id=_text(record, "id", where) or "",
        video=video or "",
        text=_text(record, "caption", where, required=True) or "",
        split=split,
        start=start,
        end=end,
        source=where,
        path=(path.parent / file).resolve() if file else None,
    )


def _text(record: Mapping[str, Any], key: str, where: str, *, required: bool = False) -> str | None:
    value = record.get(key)
    if value is None and not required:
        return None
    if value is None:
        found = "null" if key in record else ", ".join(map(repr, record)) or "no key"
        near = difflib.get_close_matches(key, [k for k in record if k not in KEYS], n=1, cutoff=0.5)
        fix = f"; rename {near[0]!r} to {key!r}" if near else ""
        raise DataError(f"{where}: expected the key {key!r} with text, found {found}{fix}")
    if not isinstance(value, str):
        raise DataError(f"{where}: {key}: expected a string, found {value!r}")
    if not value.strip() and key != "caption":  # the captions without words are listed together
        raise DataError(f"{where}: {key}: expected text, found an empty string")
    if key == "path" and "\0" in value:
        raise DataError(f"{where}: path: no file can have NUL in its name, found {value!r}")
    if not is_text(value):
        raise DataError(
            f"{where}: {key}: expected text, found half of a surrogate pair in {value!r}; write the character"
        )
    return value.strip() if key != "caption" else value


def _seconds(record: Mapping[str, Any], key: str, where: str) -> float | None:
    value = record.get(key)
    if value is None:
        return None
    if not schema.number.many([value]) or value < 0:
        raise DataError(f"{where}: {key}: expected seconds (a number, 0 or more), found {schema.shown(value)}")
    return float(value)


# ----------------------------------------------------------------------------------------------------------- resolving


class _Names:
    """All names by which captions may call the clips: from exact (a window's id) to loose (a unique stem).

    absent: ids of videos without a clip. They take part, so that `dog` does not mean dog.mp4 where dog.avi failed.
    """

    def __init__(self, clips: Sequence[ClipInfo], absent: Iterable[str] = ()):
        self._absent = set(absent)
        self._clips: dict[str, list[int]] = {}
        self._files: dict[str, list[int]] = defaultdict(list)
        self._paths: dict[str, list[int]] = defaultdict(list)
        self._loose: dict[str, set[str]] = defaultdict(set)
        for row, clip in enumerate(clips):
            self._clips[clip.id] = [row]
            self._files[clip.file_id].append(row)
            self._paths[clip.path].append(row)
        self._absent -= self._files.keys()
        for file_id in (*self._files, *self._absent):
            for name in _shorter(file_id):
                self._loose[name].add(file_id)

    def absent(self, video: str) -> str | None:
        """Return the id of the video without a clip that a name means, or None."""
        video = video.partition("#t=")[0]
        ids = {video} if video in self._absent else self._loose.get(video, set()) & self._absent
        return next(iter(ids)) if len(ids) == 1 else None

    def find(self, caption: Caption) -> list[int]:
        """Return the rows that a caption names, [] if none. Raises DataError when its name fits several files."""
        if caption.path is not None and str(caption.path) in self._paths:
            return self._paths[str(caption.path)]
        for exact in (self._files, self._clips):
            if caption.video in exact:
                return exact[caption.video]
        if caption.video in self._absent:
            return []
        files = self._loose.get(caption.video, set())
        if len(files) > 1:
            raise DataError(
                f"{caption.source}: the video {caption.video!r} is ambiguous: it may be "
                f"{', '.join(map(repr, sorted(files)))}; say which by its id"
            )
        return self._files.get(next(iter(files)), []) if files else []

    def unknown(self, caption: Caption) -> str:
        near = did_you_mean(caption.video, [*self._files, *self._loose])
        return (
            f"{caption.source}: the video {caption.video!r} is not among the {len(self._files)} extracted ones"
            f"{near or '; extract it first, or correct the line'}"
        )


def _shorter(file_id: str) -> set[str]:
    """The looser names of a file: its path without extension, its bare name, its stem."""
    path = PurePosixPath(file_id)
    return {str(path.with_suffix("")), path.name, path.stem} - {file_id}


def _in_time(caption: Caption, rows: Sequence[int], clips: Sequence[ClipInfo]) -> list[int]:
    """Keep the windows that overlap the caption's span."""
    if caption.start is None and caption.end is None:
        return list(rows)
    start, end = caption.start or 0.0, math.inf if caption.end is None else caption.end
    kept = [row for row in rows if clips[row].span[0] < end and start < clips[row].span[1]]
    if not kept:
        last = max(clips[row].span[1] for row in rows)
        raise DataError(
            f"{caption.source}: expected a time inside of {caption.video!r}, which ends at {last:.1f} s, found "
            f"start {start:g}"
        )
    return kept
