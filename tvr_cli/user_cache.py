"""What tvr remembers for a user from one command to the next: `tvr/` in the folder for caches.

Everything here can be deleted at any time and is made again; a cache that cannot be read or written is none. The folder
is `$XDG_CACHE_HOME` if that is an absolute path (as its specification has it), else `~/.cache`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import Any

from tvr_cli import files
from tvr_cli.errors import EnvironmentProblem

_QUIET_NS = 2 * 10**9  # a file changed so shortly before may change again without its times telling


def folder() -> Path:
    """Return the folder of tvr's caches, whether or not it exists."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path("~/.cache").expanduser()) / "tvr"


def recall(kind: str, name: str) -> Any:
    """Return what was kept under a kind and a name, None where nothing (readable) was."""
    try:
        return files.parse_json(_place(kind, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def keep(kind: str, name: str, value: Any) -> None:
    """Keep a JSON value under a kind and a name, if the disk lets us."""
    with contextlib.suppress(OSError, EnvironmentProblem):
        place = _place(kind, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(place, value)


def recall_bytes(kind: str, name: str) -> bytes | None:
    """Return the bytes that were kept under a kind and a name, whole; None where there are none."""
    try:
        data = _place(kind, name, "bin").read_bytes()
    except OSError:
        return None
    return data[32:] if hashlib.sha256(data[32:]).digest() == data[:32] else None


def keep_bytes(kind: str, name: str, data: bytes) -> None:
    """Keep bytes under a kind and a name, if the disk lets us."""
    with contextlib.suppress(OSError, EnvironmentProblem):
        place = _place(kind, name, "bin")
        place.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(place, hashlib.sha256(data).digest() + data)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, remembered by its stamp (`files.stamp`): weights of gigabytes are hashed once."""
    stamp, name = files.stamp(path), str(path.resolve())
    kept = recall("sha256", name)
    if stamp is not None and isinstance(kept, dict) and kept.get("stamp") == list(stamp):
        found = kept.get("sha256")
        if isinstance(found, str) and len(found) == 64:
            return found
    digest = files.sha256_file(path)
    if stamp is not None and stamp == files.stamp(path) and is_quiet(stamp):
        keep("sha256", name, {"file": name, "stamp": list(stamp), "sha256": digest})
    return digest


def is_quiet(stamp: files.Stamp) -> bool:
    """Whether a file was left alone long enough for its stamp to tell the next change."""
    return max(stamp[1], stamp[2]) < time.time_ns() - _QUIET_NS


def _place(kind: str, name: str, ending: str = "json") -> Path:
    short = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    return folder() / kind / f"{short}.{ending}"
