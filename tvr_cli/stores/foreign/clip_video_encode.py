"""Features that clip-video-encode wrote: tar files of `KEY.npy` [F, D], `KEY.txt` and `KEY.json`, a sample each.

Layout: its `WebDatasetWriter` and dataset/README.md at commit b5df2c7. A sample's video is what its JSON calls
`videoID` (`video_id`, the stem of `videoLoc`), else its key. Its JSON has whatever columns a table had: of these only a
`duration` that is a number of seconds is read, for an `fps` there is that of the video and not of its features.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tvr_cli.errors import DataError, reason
from tvr_cli.files import parse_json
from tvr_cli.stores.foreign.sample import Sample, checked, from_npy

ENDINGS = (".tar", ".tar.gz", ".tgz")
_NAMES = ("videoID", "video_id", "videoLoc")
_MOST_BYTES = 1 << 28  # of one sample: an hour of frames has a hundredth of it
_LONGEST_S = 1e6  # longer ones are no seconds
# Frames are read by video2numpy, which gave them with red and blue swapped up to its release 2.3.0; "Convert BGR ->
# RGB" is its commit daf36dc of 2022-10-25, and 2.3.1 of 2022-11-01 the first release with it (its history on GitHub).
CHANNELS_MENDED = 1667260800.0  # 2022-11-01, seconds since 1970


def samples(path: Path) -> Iterator[Sample]:
    """Yield the samples of a tar, in its order.

    Raises DataError for what is no such file or ends early, and for a sample that is no matrix of finite numbers.
    """
    if not path.is_file():
        raise DataError(f"expected a tar of clip-video-encode at {str(path)!r}, found none")
    said: dict[str, bytes] = {}
    for key, _, data, _ in _members(path, lambda kind: kind == "json"):
        said[key] = data
    for key, name, data, written in _members(path, lambda kind: kind == "npy"):
        features = checked(from_npy(data, path, name), path, name)
        about = _about(said.get(key), key, path)
        yield Sample(_video_of(about, key), features, path, name, _duration(about), written)
    _require_end(path)


def swapped(written: float | None) -> bool:
    """Whether a sample is so old that its frames were read with red and blue swapped."""
    return written is not None and 0 < written < CHANNELS_MENDED


def _members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str, bytes, float]]:
    """Yield key, name, bytes and time of the files of some kinds in a tar."""
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                key, _, kind = name.partition(".")
                if not member.isfile() or not wanted(kind):
                    continue
                if member.size > _MOST_BYTES:
                    raise DataError(f"{path}: {name!r} has {member.size} bytes, more than features of a video")
                held = tar.extractfile(member)
                data = held.read() if held is not None else b""
                if len(data) != member.size:
                    raise DataError(f"{path}: {name!r} is cut short; download the file again")
                yield key, name, data, float(member.mtime)
    except (tarfile.TarError, EOFError, OSError) as e:
        raise DataError(f"{str(path)!r} is no tar file, or half of one: {reason(e)}; download it again") from e


def _require_end(path: Path) -> None:
    """Raise DataError where a tar stops between two samples: it ends in two blocks of zeros, which tarfile ignores."""
    if path.name.endswith(ENDINGS[1:]):
        return  # a compressed one that is cut short cannot be read to its end
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        if file.read().strip(b"\0"):
            raise DataError(f"{str(path)!r} has no end, so it is half of a tar; download it again")


def _about(said: bytes | None, key: str, path: Path) -> Mapping[str, Any]:
    if said is None:
        return {}
    try:
        about: Any = parse_json(said)
    except ValueError as e:
        raise DataError(f"{path}: {key}.json cannot be read: {reason(e)}") from e
    return about if isinstance(about, Mapping) else {}


def _video_of(about: Mapping[str, Any], key: str) -> str:
    name = next((about[n] for n in _NAMES if isinstance(about.get(n), str)), None)
    return key if name is None else PurePosixPath(name).stem


def _duration(about: Mapping[str, Any]) -> float | None:
    found = about.get("duration")
    if not isinstance(found, int | float) or isinstance(found, bool):
        return None
    return float(found) if 0 < found < _LONGEST_S else None
