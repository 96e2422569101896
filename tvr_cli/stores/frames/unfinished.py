"""What was read of a video before Ctrl-C: pictures of single frames, kept beside the store until the video is whole.

    <workspace>/frames/<hash>.unfinished.safetensors    jpeg u8 [bytes], offsets i64 [frames + 1], number i64 [frames]
                                                        seen i64, change f64 [frames decoded], of a plan with timelines

One file a video and track, named after them. It is no part of the store: no head covers it, no clip is made of it.
Whoever reads the video again takes the pictures for the frames of these numbers instead of decoding them, but only
where the file is the same (its stamp), and plan, decoder and their versions are (of frames by time the spans as well),
so that the store gets the same bytes as from a run that nobody stopped. A file that is damaged, or of another kind, is
as good as none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tvr_cli import files

NAME = re.compile(r"[0-9a-f]{20}\.unfinished\.safetensors")
_FORMAT = "tvr/unfinished@1"
_ARRAYS = ("jpeg", "offsets", "number", "seen", "change")


@dataclass(frozen=True, slots=True)
class Unfinished:
    """jpegs: by number in the timeline of the file. size: width and height of its upright frames, pixels.

    about: what has to be the same for the pictures to be of use: path, stamp, plan, decoder, versions, spans (JSON
    values). change: by number, how much each frame decoded differs from the one before it; of a plan with timelines,
    which keeps the pictures of some of them.
    """

    jpegs: Mapping[int, bytes]
    size: tuple[int, int]
    about: Mapping[str, Any]
    change: Mapping[int, float] = field(default_factory=dict)


def name_of(path: Path, track: int | None) -> str:
    """Return the name of the file for a track of a video."""
    return f"{hashlib.sha256(json.dumps([str(path), track]).encode()).hexdigest()[:20]}.unfinished.safetensors"


def pack(part: Unfinished) -> bytes:
    """Serialise what was read. What it is about stands in the metadata, with a checksum over everything."""
    from safetensors.numpy import save

    numbers = sorted(part.jpegs)
    arrays: dict[str, np.ndarray] = {
        "jpeg": np.frombuffer(b"".join(part.jpegs[n] for n in numbers), dtype=np.uint8),
        "offsets": np.cumsum([0, *(len(part.jpegs[n]) for n in numbers)], dtype=np.int64),
        "number": np.array(numbers, dtype=np.int64),
        "seen": np.array(list(part.change), dtype=np.int64),
        "change": np.array(list(part.change.values()), dtype=np.float64),
    }
    about = json.dumps({"about": dict(part.about), "size": part.size}, sort_keys=True)
    return save(arrays, metadata={"format": _FORMAT, "about": about, "sha256": _checksum(about, arrays)})


def read(path: Path, about: Mapping[str, Any]) -> Unfinished | None:
    """Return what a file holds of a video that is read as `about` says, None where it is of no use."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as f:
            said = f.metadata() or {}
            arrays = {name: f.get_tensor(name) for name in _ARRAYS}
    except (OSError, SafetensorError):
        return None
    text = said.get("about", "")
    if said.get("format") != _FORMAT or said.get("sha256") != _checksum(text, arrays):
        return None
    found = files.parse_json(text)
    if found["about"] != json.loads(json.dumps(dict(about))):
        return None
    blob, ends = arrays["jpeg"].tobytes(), arrays["offsets"].tolist()
    jpegs = {n: blob[ends[i] : ends[i + 1]] for i, n in enumerate(arrays["number"].tolist())}
    change = dict(zip(arrays["seen"].tolist(), arrays["change"].tolist(), strict=True))
    return Unfinished(jpegs, (found["size"][0], found["size"][1]), about, change)


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove what was kept of videos that are whole now."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def kept(folder: Path) -> set[str]:
    """Return the names of what a folder keeps of videos."""
    return {path.name for path in folder.iterdir() if NAME.fullmatch(path.name)} if folder.is_dir() else set()


def _checksum(about: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(about.encode())
    for name in _ARRAYS:
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
