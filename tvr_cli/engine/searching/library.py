"""The files of a library as a question may name them: by id, by path, or by a name that only one has. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tvr_cli.data.jsonl import ClipInfo
from tvr_cli.errors import DataError, did_you_mean
from tvr_cli.workspace import Workspace


@dataclass(frozen=True, slots=True)
class LibraryFile:
    """A file of a library. seconds: how long it is, as far as the library has it."""

    id: str
    path: str
    seconds: float


def files_of(workspace: Workspace) -> list[LibraryFile]:
    """Return the files of a workspace, by id. Raises DataError where it has neither frames nor features."""
    if workspace.has_frames:
        return _files(workspace.frames().records)
    store = workspace.newest_features()
    if store is None:
        workspace.refuse_without_frames(f"expected frames or features in {str(workspace)!r}, found none")
    return _files(store.clips)


def named(files: Sequence[LibraryFile], name: str) -> LibraryFile:
    """Return the file that a person calls `name`. Raises DataError where none is, or several may be."""
    path = os.path.abspath(name)
    for found in (
        [file for file in files if file.id == name],
        [file for file in files if file.path == path],
        [file for file in files if os.path.basename(file.id) == name],
    ):
        if len(found) > 1:
            raise DataError(
                f"expected one file of the library, found {len(found)} that {name!r} may be, {found[0].id!r} and "
                f"{found[1].id!r} among them; give its id or path"
            )
        if found:
            return found[0]
    before = name.rpartition("@")[0]
    if before and any(
        before in (file.id, os.path.basename(file.id)) or os.path.abspath(before) == file.path for file in files
    ):
        raise DataError(f"expected seconds behind the @ of {name!r}, such as {before}@3-4.5 or {before}@1:05-1:12")
    raise DataError(
        f"expected a file of the library (its id or path, @START-END behind it for a moment), found {name!r}, which "
        f"is none of its {len(files)}{did_you_mean(name, [file.id for file in files])}"
    )


def _files(clips: Iterable[ClipInfo]) -> list[LibraryFile]:
    ends: dict[str, tuple[str, float]] = {}
    for clip in clips:
        _, end = ends.get(clip.file_id, ("", 0.0))
        ends[clip.file_id] = (clip.path, max(end, clip.span[1]))
    return [LibraryFile(id_, *ends[id_]) for id_ in sorted(ends)]
