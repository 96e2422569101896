"""Whether somebody else keeps a library up to date: then a search answers from what is there, and makes nothing.

Between the moment when a video has come and the moment when its clips stand in the index, frames and features are newer
than the index. A search would catch up first; where `tvr watch` runs, that is its work, and a search that did it, too,
would wait for it, or do it twice.
"""

from __future__ import annotations

from tvr_cli import commands, files
from tvr_cli.errors import EnvironmentProblem
from tvr_cli.stores.index import place
from tvr_cli.workspace import Workspace


def by_watcher(workspace: Workspace) -> bool:
    """Return whether `tvr watch` keeps a workspace up to date at this moment."""
    return files.is_locked(workspace.watch_folder)


def require_begun(workspace: Workspace) -> None:
    """Raise EnvironmentProblem where there is no index yet, which the watcher of a workspace is about to make."""
    if place.standing(workspace.index_folder) is None:
        raise EnvironmentProblem(
            f"{str(workspace)!r} is watched, and its first videos are still being taken in; how far that is says: "
            + commands.tvr("watch", status=True, workspace=workspace)
        )
