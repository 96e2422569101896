"""What `api.OpenWorkspace` can show of a search beyond its answer: a part of that class in a file of its own."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_cli import log
from tvr_cli.errors import ConfigError
from tvr_cli.files import is_text
from tvr_cli.workspace import Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.searching.asked import Asked
    from tvr_cli.engine.searching.session import Session
    from tvr_cli.engine.showing.page.write import WrittenPage
    from tvr_cli.results.alike import SimilarReport
    from tvr_cli.results.explained import ExplainReport
    from tvr_cli.results.found import QueryReport

PathLike = str | os.PathLike[str]


class Showing:
    """Renderings of an answer of `search`, none of which searches again, what explains one, and who is asked for it."""

    workspace: Workspace
    progress: log.Watcher | None
    _sessions: dict[Any, Session | None]

    def ask_for(self, verb: str, **asked: Any) -> Any:
        """Return what `search`, `explain` or `similar` does, by the server of the workspace where one runs."""
        if os.path.exists(self.workspace.server_note):  # else nobody is there, and sockets need not be imported
            from tvr_cli.engine.searching import resident

            if (found := resident.ask(self.workspace, verb, asked)) is not None:
                return found
        return getattr(self, verb)(**asked)

    def page(self, found: QueryReport, to: PathLike, *, overwrite: bool = False) -> WrittenPage:
        """Write an answer as a page for a browser, which needs no network; with `search(curves=True)` it has curves.

        Raises ConfigError as `require_page`, EnvironmentProblem where it cannot be written.
        """
        from tvr_cli.engine.showing.page import write

        with self._watched():
            return write.write(found, self.workspace, Path(to), overwrite=overwrite)

    def require_page(self, to: PathLike, *, overwrite: bool = False) -> None:
        """Raise ConfigError where `page` would: for another ending than .html and .htm, or a file that is there."""
        from tvr_cli.engine.showing.page import write

        write.require_page(Path(to), overwrite=overwrite)

    def save_clips(
        self, found: QueryReport, folder: PathLike, *, pad: float = 0.0, overwrite: bool = False, dry_run: bool = False
    ) -> QueryReport:
        """Save each moment of an answer as a file of its own; the answer that is returned has `clips`.

        pad: seconds before and after each. What cannot be saved says why in its `problem`; of no moments nothing is
        written. Raises ConfigError where a file of such a name is there already, EnvironmentProblem where the folder
        cannot be written.
        """
        from tvr_cli.engine.showing import clips

        with self._watched():
            return clips.save_clips(found, Path(folder), clips.ClipOptions(pad, overwrite, dry_run))

    def export(
        self, found: QueryReport, path: PathLike, *, overwrite: bool = False, dry_run: bool = False
    ) -> QueryReport:
        """Write the moments of an answer as a timeline; the answer that is returned has `timeline`.

        The ending says which: .otio, .xml (Final Cut Pro 7), .edl, .fcpxml or .csv. Files that cannot be read are left
        out and named; of no moments nothing is written. Raises ConfigError for another ending, for a file that is there
        already and for what the format cannot say, DataError where the files of all moments are left out,
        EnvironmentProblem without the extra `timeline`.
        """
        from tvr_cli.engine.showing.timeline import export

        return export.export(found, Path(path), overwrite=overwrite, dry_run=dry_run)

    def require_exportable(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Raise before a search what `export` would raise after it about the file and what is installed."""
        from tvr_cli.engine.showing.timeline import export

        export.require_exportable(Path(path), overwrite=overwrite)

    def explain(
        self,
        sentence: str,
        video: str,
        *,
        run: str | None = None,
        method: str | None = None,
        backbone: str | None = None,
        first: str | None = None,
        no_head: bool = False,
        device: str = "auto",
        offline: bool = False,
    ) -> ExplainReport:
        """Return which seconds of a file count for a sentence, and what each word does to that.

        video: the file's id or path, `PATH@START-END` for a part of it. Raises ConfigError for an empty sentence,
        DataError for what is no file of the library, and as `search`.
        """
        from tvr_cli.engine.searching import typed
        from tvr_cli.engine.searching.asked import Asked
        from tvr_cli.engine.searching.heads import split

        if not sentence.strip() or not is_text(sentence):
            raise ConfigError(f"expected a sentence to explain, in UTF-8, found {sentence!r}")
        where = typed.stretch(video)
        with self._watched():
            run, head = split(self.workspace, run, use=not no_head)
            return self._session(Asked(run, method, backbone, first), device, offline).explain(sentence, where, head)

    def similar(
        self, moment: str, *, k: int = 10, backbone: str | None = None, device: str = "auto", offline: bool = False
    ) -> SimilarReport:
        """Return what looks like a file of the library, or like a moment of it (`PATH@START-END`), best first.

        Raises ConfigError and DataError for what is no file or moment of the library, and as `search`.
        """
        from tvr_cli.engine.searching import similar
        from tvr_cli.engine.searching.asked import Asked

        with self._watched():
            return similar.similar(self._session(Asked(backbone=backbone), device, offline), moment, k=k)

    def require_drawable(self, to: PathLike, *, overwrite: bool = False) -> None:
        """Raise ConfigError where `draw` would: for another ending, or a file that is there."""
        from tvr_cli.engine.showing import explain_plot

        explain_plot.require_drawable(Path(to), overwrite=overwrite)

    def draw(self, found: ExplainReport, to: PathLike, *, overwrite: bool = False) -> Path:
        """Draw what `explain` found, as PNG, SVG, PDF or a page (`.html`) by the ending of `to`.

        Raises ConfigError for another ending or where the file is there and `overwrite` was not said,
        EnvironmentProblem where it cannot be written, or pictures without matplotlib.
        """
        from tvr_cli.engine.showing import explain_plot

        with self._watched():
            return explain_plot.draw(found, self.workspace, Path(to), overwrite=overwrite)

    def _session(self, flags: Asked, device: str, offline: bool) -> Session:
        """Return the session that answers with what is named; it stays open until another is asked for."""
        from tvr_cli.engine.searching import query

        named = (flags, device, offline)
        if (session := self._sessions.get(named)) is None:
            session = query.session(self.workspace, flags, device=device, offline=offline)
            self._sessions.clear()  # one backbone in memory is enough
            self._sessions[named] = session
        return session

    def _watched(self) -> AbstractContextManager[None]:
        return log.watched(self.progress)
