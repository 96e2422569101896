"""`demo.json`: which files of a workspace a demo made, so that it takes away its own and nothing else.

    {"schema": "tvr/demo-files@1", "files": {"videos/test/00000.mp4": {"bytes": 11873, "sha256": "…"}, …}}

A file is listed when a stage of the demo has written it and its name is one that the demo gives; it is the demo's as
long as its bytes are the same. A demo of tvr 0.1.0 left no list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli.errors import DataError
from tvr_cli.files import read_json, sha256_file, write_json
from tvr_cli.removal import below, remove_files
from tvr_cli.stores.columns import TABLE
from tvr_cli.stores.features import head as features_head
from tvr_cli.stores.frames.records import RECORDS, SHARD
from tvr_cli.stores.frames.unfinished import NAME as UNFINISHED
from tvr_cli.stores.listing import LIST as SHARDS
from tvr_cli.workspace import Workspace

LIST = "demo.json"
SCHEMA = "tvr/demo-files@1"
VIDEOS = "videos"  # where a demo makes its corpus
FILMS = "films"  # a workspace of their own, and in it VIDEOS
# The names that a demo gives to files, below each of its folders.
_OF_CORPUS = r"(train|val|test)/\d+\.mp4|world\.json|(captions|events|truth)\.jsonl"
_OF_FRAMES = "|".join(
    [*(x.pattern for x in (SHARD, RECORDS, SHARDS, UNFINISHED)), r"store\.json|(manifest|failures)\.jsonl"]
)
_OF_FEATURES = "|".join(
    [
        *(x.pattern for x in (features_head.SHARD, features_head.ROWS, TABLE, SHARDS)),
        r"(clips|captions)-[0-9a-f]{16}\.json|(store|state)\.json|shards\.jsonl",  # the latter of 0.1.0
    ]
)
_OF_A_RUN = r"(config|origins|env)\.json|metrics\.jsonl|head\.safetensors|(checkpoints|results|backbone)/[^/]+"
_OF_THE_INDEX = r"current|g\d{6,}/(store\.json|\d{6}-\d{2,}\.bin|\d{6}\.sums|deleted\.bits)"
_OF_AN_OLD_INDEX = r"store\.json|clips\.jsonl|(coarse|encoding-\d+)\.safetensors"  # of tvr 0.1.0
_Stamp = tuple[int, int, int]  # inode, bytes, time of the last change


@dataclass(frozen=True, slots=True)
class Taken:
    """What `remove` takes away, or took. kept: files on the list that have changed, and the rest of their stores."""

    removed: tuple[str, ...]
    kept: tuple[str, ...]


class MadeFiles:
    """The list of one workspace. Use `begin` or `open`."""

    def __init__(self, workspace: Workspace, files: dict[str, dict[str, Any]]):
        self._workspace, self._root = workspace, workspace.root
        self._files, self._names = files, _names(workspace)
        self._seen = self._look()

    @staticmethod
    def open(workspace: Workspace) -> MadeFiles | None:
        """Read the list of a workspace, None where there is none. Raises DataError for a file of something else."""
        path = workspace.root / LIST
        if not path.exists():
            return None
        found = read_json(path, fix="nothing was changed; choose another folder with -o")
        files = found.get("files") if isinstance(found, dict) and found.get("schema") == SCHEMA else None
        names = _names(workspace)
        if not isinstance(files, dict) or not all(names.fullmatch(n) and _is_record(r) for n, r in files.items()):
            raise DataError(
                f"{str(path)!r} is not a list of the files of a demo ({SCHEMA}); nothing was changed. "
                "Move it elsewhere, or choose another folder with -o"
            )
        for name in files:
            below(workspace.root, name)
        return MadeFiles(workspace, files)

    @staticmethod
    def begin(workspace: Workspace) -> MadeFiles:
        """Return the list of a workspace, writing an empty one where there is none."""
        made = MadeFiles.open(workspace) or MadeFiles(workspace, {})
        made._write()
        return made

    def record(self) -> None:
        """Put on the list what has been written since it was opened or last recorded."""
        now = self._look()
        self._files = {name: record for name, record in self._files.items() if name in now}
        for name, stamp in now.items():
            if self._seen.get(name) != stamp and self._names.fullmatch(name):
                self._files[name] = {"bytes": stamp[1], "sha256": sha256_file(self._root / name)}
        self._seen = now
        self._write()

    def unchanged(self, path: Path) -> bool:
        """Whether a file is on the list and still what the demo wrote."""
        record = self._files.get(path.relative_to(self._root).as_posix())
        if record is None or path.is_symlink() or not path.is_file():
            return False
        return path.stat().st_size == record["bytes"] and sha256_file(path) == record["sha256"]

    def takes(self) -> Taken:
        """Say what `remove` would take away, touching nothing."""
        there = [name for name in self._files if (self._root / name).exists()]
        changed = [name for name in there if not self.unchanged(self._root / name)]
        # A store that was written to since is somebody's work: half of it would be of no use to them.
        stores = {self._store(name) for name in changed}
        kept = [name for name in there if name in changed or self._store(name) in stores]
        return Taken(tuple(sorted(set(there) - set(kept))), tuple(sorted(kept)))

    def remove(self) -> Taken:
        """Remove the files on the list that have not changed, the list too when that is all of them."""
        taken = self.takes()
        self._files = {name: self._files[name] for name in taken.kept}
        if taken.kept:
            remove_files(self._root, taken.removed)
            self._write()
        else:
            remove_files(self._root, [*taken.removed, LIST])
        return taken

    def _look(self) -> dict[str, _Stamp]:
        """Return a stamp of every file that a demo could have made."""
        found: dict[str, _Stamp] = {}
        films = Workspace(self._root / FILMS)
        folders = [self._root / VIDEOS, *self._workspace.parts(), films.root / VIDEOS, *films.parts()]
        locks = [self._root / ".lock", films.root / ".lock"]
        for path in [*locks, *(p for folder in folders for p in folder.rglob("*"))]:
            if path.is_file() and not path.is_symlink():
                stat = path.stat()
                stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
                found[path.relative_to(self._root).as_posix()] = stamp
        return found

    def _store(self, name: str) -> str:
        """Return the store that a file belongs to; a video is one by itself."""
        of_films = f"{FILMS}/" if name.startswith(f"{FILMS}/") else ""
        parts = name.removeprefix(of_films).split("/")
        several = (self._workspace.features_folder.name, self._workspace.runs_folder.name)
        return name if parts[0] == VIDEOS else of_films + "/".join(parts[: 2 if parts[0] in several else 1])

    def _write(self) -> None:
        write_json(self._root / LIST, {"schema": SCHEMA, "files": dict(sorted(self._files.items()))})


def _names(workspace: Workspace) -> re.Pattern[str]:
    """Return what matches the paths, below the workspace, of files that a demo may have written."""
    frames, features, runs, index = (
        re.escape(folder.name)
        for folder in (
            workspace.frames_folder, workspace.features_folder, workspace.runs_folder, workspace.index_folder,
        )
    )  # fmt: skip
    return re.compile(
        rf"(.+/)?\.lock|({FILMS}/)?({VIDEOS}/({_OF_CORPUS})|{frames}/({_OF_FRAMES})"
        rf"|{features}/[0-9a-f]{{16}}/({_OF_FEATURES})|{runs}/[^/]+/({_OF_A_RUN})"
        rf"|{index}/({_OF_THE_INDEX}|{_OF_AN_OLD_INDEX}))"
    )


def _is_record(record: Any) -> bool:
    return isinstance(record, dict) and isinstance(record.get("bytes"), int) and isinstance(record.get("sha256"), str)
