"""What `api.OpenWorkspace` can show of a search beyond its answer: a part of that class in a file of its own."""

from __future__ import annotations

import os
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

        with log.watched(self.progress):
            return write.write(found, self.workspace, Path(to), overwrite=overwrite)
