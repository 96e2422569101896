"""Features that clip-video-encode wrote: tar files of `KEY.npy` [F, D], `KEY.txt` and `KEY.json`, a sample each.

Layout: its `WebDatasetWriter` and dataset/README.md at commit b5df2c7. A sample's video is what its JSON calls
`videoID` (`video_id`, the stem of `videoLoc`), else its key. Nothing is unpacked to disk and nothing of it is executed.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tvr_cli.errors import DataError, reason
from tvr_cli.files import parse_json

_NAMES = ("videoID", "video_id", "videoLoc")
_MOST_BYTES = 1 << 28  # of one sample: an hour of frames has a hundredth of it


def read(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """Return the features of every video, float32 [F, D], by its id, in the order of the files.

    Raises DataError for what is no such file, for a sample that is cut short or no matrix of finite numbers, for two
    different ones of one video, and for other sizes than the first has.
    """
    found: dict[str, np.ndarray] = {}
    for path in paths:
        for video, features in _samples(path):
            if video in found and not np.array_equal(found[video], features):
                raise DataError(f"{path}: the video {video!r} has two samples, and their features differ")
            first = next(iter(found.values()), features)
            if features.shape[1] != first.shape[1]:
                raise DataError(
                    f"{path}: the features of {video!r} have {features.shape[1]} numbers, those before "
                    f"{first.shape[1]}; the files are of two encoders"
                )
            found[video] = features
    if not found:
        raise DataError(f"expected samples KEY.npy in {', '.join(map(str, paths)) or 'no file'}, found none")
    return found


def _samples(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield video and features of each sample of a file."""
    if not path.is_file():
        raise DataError(f"expected a tar of clip-video-encode at {str(path)!r}, found none")
    parts: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if member.size > _MOST_BYTES:
                    raise DataError(f"{path}: {member.name!r} has {member.size} bytes, more than features of a video")
                key, _, kind = member.name.rpartition("/")[2].partition(".")
                held = tar.extractfile(member)
                data = held.read() if held is not None else b""
                if len(data) != member.size:
                    raise DataError(f"{path}: {member.name!r} is cut short; download the file again")
                parts.setdefault(key, {})[kind] = data
    except (tarfile.TarError, EOFError, OSError) as e:
        raise DataError(f"{str(path)!r} is no tar file, or half of one: {reason(e)}; download it again") from e
    for key, held_parts in parts.items():
        if "npy" in held_parts:
            yield _video_of(key, held_parts.get("json"), path), _matrix(held_parts["npy"], key, path)


def _video_of(key: str, said: bytes | None, path: Path) -> str:
    if said is None:
        return key
    try:
        about: Any = parse_json(said)
    except ValueError as e:
        raise DataError(f"{path}: {key}.json cannot be read: {reason(e)}") from e
    name = next((about[n] for n in _NAMES if isinstance(about.get(n), str)), key) if isinstance(about, Mapping) else key
    return PurePosixPath(name).stem if name != key else key


def _matrix(data: bytes, key: str, path: Path) -> np.ndarray:
    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError) as e:
        raise DataError(f"{path}: {key}.npy cannot be read: {reason(e)[:80]}") from e
    if found.ndim != 2 or found.dtype.kind != "f" or 0 in found.shape:
        raise DataError(f"{path}: {key}.npy: expected features [F, D] as numbers, found {found.dtype} {found.shape}")
    if not np.isfinite(found).all():
        raise DataError(f"{path}: {key}.npy has a value that is not finite")
    return found.astype(np.float32)
