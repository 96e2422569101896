"""Reading the annotation files of data sets: finding them and their videos, saying file and line of what is wrong."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tvr_cli.errors import ConfigError, DataError, did_you_mean
from tvr_cli.files import parse_json
from tvr_cli.types import Caption, Clip

# What lies beside videos and is none.
_NOT_VIDEO = frozenset(
    f".{suffix}"
    for suffix in (
        *("json", "jsonl", "csv", "tsv", "txt", "pkl", "pickle", "npy", "npz", "md", "html", "pdf", "log"),
        *("zip", "tar", "gz", "py", "sh", "srt", "vtt", "jpg", "png"),
    )
)


# An extension: two to four letters and digits, a letter among them (`.3gp`, not the `.941` of LSMDC's times); or a bare
# dot at the end, which is all that some of DiDeMo's names have.
_EXTENSION = re.compile(r"\.(?=[0-9]*[A-Za-z])[A-Za-z0-9]{2,4}$")


def video_stem(name: str) -> str:
    """Return a file name without its folder, its extension and dots at its end: what a converted video keeps."""
    return _EXTENSION.sub("", PurePosixPath(name).name.rstrip(".")).rstrip(".")


def seconds_between(video: str, pattern: str) -> float | None:
    """Return end minus start by the two numbers that a pattern finds in an id, None where they are no span."""
    found = re.search(pattern, video)
    seconds = float(found[2]) - float(found[1]) if found else 0.0
    return seconds if seconds > 0 else None


class VideoFiles:
    """The files below a root, found by the ids that annotations use: `id`, `id.ext`, `folder/id.ext`."""

    def __init__(self, root: Path):
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        self._converted: dict[str, list[Path]] = defaultdict(list)
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            for name in sorted(names):
                path = Path(folder) / name
                if name.startswith(".") or path.suffix.lower() in _NOT_VIDEO:
                    continue
                self._by_name[name].append(path)
                self._by_stem[path.stem].append(path)
                self._converted[video_stem(name)].append(path)

    def find(self, *names: str) -> Path | None:
        """Return the first file that one of `names` means: as a file name, else as one without its extension."""
        for name in names:
            bare = PurePosixPath(name).name
            for found in (self._by_name.get(bare), self._by_stem.get(bare)):
                if found:
                    return found[0]
        return None

    def called(self, name: str) -> list[Path]:
        """Return every file with a name, or where there is none, with its stem; sorted."""
        bare = PurePosixPath(name).name
        return sorted(self._by_name.get(bare) or self._by_stem.get(bare) or self._by_stem.get(Path(bare).stem) or [])

    def stem_of(self, name: str) -> Path | None:
        """Return a file with the stem of a file name, whatever its extension (videos that were converted)."""
        found = self._converted.get(video_stem(name))
        return found[0] if found else None

    def all(self) -> list[Path]:
        """Return every file that may be a video."""
        return sorted(path for paths in self._by_name.values() for path in paths)


def find_file(root: Path, what: str, *names: str) -> Path:
    """Return the annotation file with the first of `names` that exists below `root`. Raises DataError naming all."""
    found = optional_file(root, *names)
    if found is None:
        there = sorted(p.name for p in root.rglob("*") if p.is_file() and p.suffix.lower() in _NOT_VIDEO)
        near = next((hint.replace("mean", "mean the file") for n in names if (hint := did_you_mean(n, there))), "")
        raise DataError(f"{what}: expected one of {', '.join(names)} below {str(root)!r}, found none of them{near}")
    return found


def optional_file(root: Path, *names: str) -> Path | None:
    """Return the first of `names` that exists in `root` or below it, or None."""
    for name in names:
        if (root / name).is_file():
            return root / name
    for name in names:
        if found := sorted(p for p in root.rglob(name) if p.is_file()):
            return found[0]
    return None


def read_text(path: Path) -> str:
    """Read a UTF-8 annotation file. Raises DataError with the line of the first other byte."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data[: e.start].count(b"\n") + 1
        raise DataError(
            f"{path}:{line}: expected UTF-8, found the byte 0x{data[e.start]:02x} (latin-1?); convert it with: "
            f"iconv -f latin1 -t utf-8 {path.name}"
        ) from None


def read_json(path: Path) -> Any:
    """Read a JSON annotation file. Raises DataError with file and line."""
    try:
        return parse_json(read_text(path))
    except json.JSONDecodeError as e:
        raise DataError(f"{path}:{e.lineno}: not valid JSON: {e.msg}") from None
    except ValueError as e:  # nested without end, a number of thousands of digits
        raise DataError(f"{path}: not valid JSON: {e}") from None


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Read (line number, text) of every line that is not empty."""
    return [(n, line.strip()) for n, line in enumerate(read_text(path).splitlines(), start=1) if line.strip()]


def field(record: Any, key: str, kind: type | tuple[type, ...], path: Path, where: str) -> Any:
    """Return a field of a JSON record. Raises DataError that names file, record and field."""
    if not isinstance(record, Mapping) or key not in record:
        has = ", ".join(map(str, list(record)[:8])) if isinstance(record, Mapping) else type(record).__name__
        raise DataError(f"{path}{_line(path, record)}: {where}: the field {key!r} is missing (found {has})")
    if not isinstance(record[key], kind):
        raise DataError(f"{path}{_line(path, record)}: {where}: the field {key!r} has the value {record[key]!r}")
    return record[key]


def read_pickle(path: Path) -> Any:
    """Read a pickle of plain containers, strings and numbers; anything that could run code is refused (DataError)."""

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            raise DataError(
                f"{str(path)!r} asks to load {module}.{name}, and only lists, dicts, strings and numbers are read; "
                "do not use this file, get captions_msvd.json instead"
            )

    try:
        return Restricted(io.BytesIO(path.read_bytes())).load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError) as e:
        raise DataError(f"{str(path)!r} is not a readable pickle: {e}") from e


def check_variant(name: str, variant: str | None, known: Sequence[str]) -> str:
    """Return the variant, the first known one by default. Raises ConfigError with the nearest name."""
    if variant is None:
        return known[0]
    if variant not in known:
        near = did_you_mean(variant, known) or f"; there are: {', '.join(known)}"
        raise ConfigError(f"the data set {name} has no variant {variant!r}{near}")
    return variant


def refuse_leaks(
    name: str,
    videos: Mapping[str, Iterable[str]],
    files: Mapping[str, Path],
    same: Callable[[str], str] = str,
) -> None:
    """Raise DataError when a video is in train and in test (or val), naming some, and the lines of the first.

    files: the file that lists each split's videos. same: what names of one video have in common.
    """
    train = {same(video): video for video in videos.get("train", ())}
    for split in ("val", "test"):
        other = {same(video): video for video in videos.get(split, ())}
        if both := sorted(train.keys() & other.keys()):
            shown = ", ".join(" as ".join(dict.fromkeys(map(repr, (train[v], other[v])))) for v in both[:5])
            first = {"train": train[both[0]], split: other[both[0]]}
            places = " and ".join(dict.fromkeys(_place(files[s], name) for s, name in first.items()))
            raise DataError(
                f"{name}: {len(both)} videos are in train and in {split} ({shown}; the first in {places}); a result "
                "would be inflated. Check the split files"
            )


def clips_of(ids: Iterable[str], files: VideoFiles, *, end: float | None = None) -> tuple[list[Clip], list[str]]:
    """Return a clip for every id that has a file, and the ids that have none. end: seconds that count of each."""
    clips, missing = [], []
    for video in dict.fromkeys(ids):
        path = files.find(video) or files.stem_of(video)
        if path is None:
            missing.append(video)
        else:
            clips.append(Clip(video, path, None if end is None else 0.0, end))
    return clips, missing


def captions_of(video: str, texts: Sequence[str], split: str, path: Path) -> list[Caption]:
    """Make the captions of one video, with ids `video#i` and the white space of each made one blank."""
    return [
        Caption(f"{video}#{i}", video, " ".join(str(text).split()), split, source=str(path))  # type: ignore[arg-type]
        for i, text in enumerate(texts)
    ]


def empty_captions(captions: Iterable[Caption]) -> list[str]:
    """Return place and id of each caption without words."""
    return [f"{c.source}: {c.id}" for c in captions if not c.text.strip()]


def refuse_empty(captions: Iterable[Caption]) -> None:
    """Raise DataError when captions have no words, naming the first: such a query fits every video alike."""
    if found := empty_captions(captions):
        others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise DataError(f"{found[0]}: the caption has no words{others}; write it, or take it out of the file")


def _place(path: Path, name: str) -> str:
    """Return `path:line` where a name stands first in a text file, else the path."""
    if path.suffix in (".npy", ".pkl"):
        return str(path)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((f"{path}:{number}" for number, line in enumerate(lines, start=1) if name in line), str(path))


def _line(path: Path, record: Any) -> str:
    """Return `:line` where a record's first text value stands in its file, or nothing."""
    values = record.values() if isinstance(record, Mapping) else []
    needle = next((v for v in values if isinstance(v, str) and len(v) > 3), None)
    if needle is None:
        return ""
    position = path.read_text(encoding="utf-8", errors="replace").find(json.dumps(needle)[1:-1])
    return (
        "" if position < 0 else f":{path.read_text(encoding='utf-8', errors='replace')[:position].count(chr(10)) + 1}"
    )
