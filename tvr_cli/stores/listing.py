"""The head of a store and the list of shards that it covers: `store.json`, and so many bytes of `shards-<n>.jsonl`.

The head holds its own checksum and that of the bytes of the list that count; a line of the list holds those of a shard
and of what lies beside it. So what one head says is whole or an error, and the moment in which `store.json` is replaced
is the moment in which a step counts. What lies beyond the bytes that the head covers was never finished.

Stores of frames and of features are written this way; what head and lines say is theirs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tvr_cli import files, os_errors
from tvr_cli.errors import DataError, EnvironmentProblem
from tvr_cli.schema import Misfit

HEAD = "store.json"
LIST = re.compile(r"shards-(\d+)\.jsonl")
_TRIES = 5  # heads that are read while a writer replaces them
_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Covered:
    """The list that counts: its name, how many of its bytes, and their sha256."""

    name: str
    size_bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return {"list": self.name, "bytes": self.size_bytes, "sha256": self.sha256}

    @staticmethod
    def from_json(said: Mapping[str, Any]) -> Covered:
        """Read what `to_json` wrote, its types being checked. Raises Misfit for the name of another file."""
        if not LIST.fullmatch(said["list"]):
            raise Misfit(f"it names {said['list']!r} as the list of shards")
        return Covered(said["list"], said["bytes"], said["sha256"])


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object of a head with its own checksum."""
    return {**body, "sha256": _checksum(body)}


def require_as_read(root: Path, before: Sequence[object], now: Sequence[object]) -> None:
    """Raise EnvironmentProblem unless a store lists what it did when it was read: the rest would be lost.

    before, now: lines of its list. The caller holds the lock, which who reads does not.
    """
    if tuple(before) != tuple(now):
        raise EnvironmentProblem(
            f"{str(root)!r} has other shards than when it was read, as when another process writes into it; nothing "
            "was added to it. The same command goes on"
        )


def require_sealed(found: Mapping[str, Any]) -> None:
    """Raise Misfit unless the object of a head has the checksum that it says."""
    if found.get("sha256") != _checksum({name: value for name, value in found.items() if name != "sha256"}):
        raise Misfit("it differs from its checksum")


def while_written(folder: Path, read: Callable[[], _Read]) -> _Read:
    """Return what `read` makes of a head and what it covers, as of one moment, also while a writer goes on.

    What an older head covers may be gone by the time it is looked for; then the new head is read.
    """
    for left in reversed(range(_TRIES)):
        before = files.stamp(folder / HEAD)
        try:
            return read()
        except DataError:
            if not left or files.stamp(folder / HEAD) == before:
                raise
    raise AssertionError("the loop above returns or raises")


# ------------------------------------------------------------------------------------------------------------ the list


def first_list() -> str:
    """Return the name of the first list of a store."""
    return "shards-1.jsonl"


def next_list(name: str) -> str:
    """Return the name of the list that replaces the list `name`."""
    found = LIST.fullmatch(name)
    return f"shards-{int(found[1]) + 1 if found else 1}.jsonl"


def free_list(folder: Path) -> str:
    """Return a name that no list of a folder has."""
    name = first_list()
    while (folder / name).exists():
        name = next_list(name)
    return name


def list_bytes(lines: Iterable[Mapping[str, Any]]) -> bytes:
    """Serialise lines of a list."""
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode("utf-8")


def covered_bytes(folder: Path, covered: Covered, damaged: Callable[[Path, str], DataError]) -> bytes:
    """Return the bytes of the list that count. Raises what `damaged` makes of a finding unless they were written so.

    Raises Unreadable or EnvironmentProblem where the system does not give them.
    """
    path = folder / covered.name
    try:
        with open(path, "rb") as f:
            data = f.read(covered.size_bytes)
    except OSError as e:
        raise os_errors.unread(e, path) or damaged(path, f"it cannot be read ({e.strerror})") from e
    if len(data) != covered.size_bytes or hashlib.sha256(data).hexdigest() != covered.sha256:
        raise damaged(path, f"its first {covered.size_bytes} bytes differ from their checksum")
    return data


def write_list(folder: Path, name: str, data: bytes) -> Covered:
    """Write a whole list, and return what covers it. It counts when the head says so."""
    return Covered(name, len(data), files.write_bytes(folder / name, data))


def append(folder: Path, covered: Covered, digest: Any, data: bytes) -> Covered:
    """Write lines behind what the head covers, and return what covers them too. They count when the head says so.

    digest: the hashlib object of what is covered; it has taken in the lines afterwards.
    """
    path = folder / covered.name
    with files.disk_errors(path), open(path, "r+b") as f:
        f.truncate(covered.size_bytes)  # what an append left that was not finished
        f.seek(covered.size_bytes)
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    digest.update(data)
    return Covered(covered.name, covered.size_bytes + len(data), digest.hexdigest())


def _checksum(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
