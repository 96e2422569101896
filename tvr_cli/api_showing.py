"""What `api.OpenWorkspace` can show of a search beyond its answer: a part of that class in a file of its own."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_cli import log
from tvr_cli.workspace import Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.searching.query import QueryReport
    from tvr_cli.engine.showing.page.write import WrittenPage

PathLike = str | os.PathLike[str]


class Showing:
    """Renderings of an answer of `search`; none of them searches again."""

    workspace: Workspace
    progress: log.Watcher | None

    def page(self, found: QueryReport, to: PathLike, *, overwrite: bool = False) -> WrittenPage:
        """Write an answer as a page for a browser, which needs no network; with `search(curves=True)` it has curves.

        Raises ConfigError where the file is there and `overwrite` was not said, EnvironmentProblem where it cannot be
        written.
        """
        from tvr_cli.engine.showing.page import write

        with self._watched():
            return write.write(found, self.workspace, Path(to), overwrite=overwrite)

    def save_clips(
        self, found: QueryReport, folder: PathLike, *, pad: float = 0.0, overwrite: bool = False, dry_run: bool = False
    ) -> QueryReport:
        """Save each moment of an answer as a file of its own; the answer that is returned has `clips`.

        pad: seconds before and after each. What cannot be saved says why in its `problem`. Raises ConfigError where a
        file of such a name is there already, EnvironmentProblem where the folder cannot be written.
        """
        from tvr_cli.engine.showing import clips

        with self._watched():
            return clips.save_clips(found, Path(folder), clips.ClipOptions(pad, overwrite, dry_run))

    def export(
        self, found: QueryReport, path: PathLike, *, overwrite: bool = False, dry_run: bool = False
    ) -> QueryReport:
        """Write the moments of an answer as a timeline; the answer that is returned has `timeline`.

        The ending says which: .otio, .xml (Final Cut Pro 7), .edl, .fcpxml or .csv. Files that cannot be read are left
        out and named. Raises ConfigError for another ending, for a file that is there already and for what the format
        cannot say, DataError where no moment is left, EnvironmentProblem without the extra `timeline`.
        """
        from tvr_cli.engine.showing.timeline import export

        return export.export(found, Path(path), overwrite=overwrite, dry_run=dry_run)

    def require_exportable(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Raise before a search what `export` would raise after it about the file and what is installed."""
        from tvr_cli.engine.showing.timeline import export

        export.require_exportable(Path(path), overwrite=overwrite)

    def _watched(self) -> AbstractContextManager[None]:
        return log.watched(self.progress)
