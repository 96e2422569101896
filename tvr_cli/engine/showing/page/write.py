"""Writing an answer as a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tvr_cli import files, log
from tvr_cli.engine.showing.page import markup, pictures
from tvr_cli.engine.showing.page.pictures import Seen
from tvr_cli.errors import ConfigError
from tvr_cli.results.found import QueryReport
from tvr_cli.workspace import Workspace

# All pictures together, so that a page of a hundred moments has at most 4 MB: in the page three bytes are four letters.
_ENDINGS = (".html", ".htm")
_PICTURE_BYTES = 2_300_000


@dataclass(frozen=True)
class WrittenPage:
    """A page that was written. moments: on it; pictures: how many of them have one."""

    path: Path
    moments: int
    pictures: int
    size_bytes: int


def require_page(to: Path, *, overwrite: bool = False) -> None:
    """Raise ConfigError for another ending than a page has, and for a file that is there and not to be replaced."""
    files.require_free(to, overwrite=overwrite)
    if to.suffix.lower() not in _ENDINGS:
        raise ConfigError(f"--html: expected a file ending in {' or '.join(_ENDINGS)}, found {str(to)!r}")


def write(report: QueryReport, workspace: Workspace, to: Path, *, overwrite: bool = False) -> WrittenPage:
    """Write an answer as a page, in one step. workspace: what it was found in; its stored frames are the pictures.

    Nothing is searched: what the page shows of a moment is in the answer, its curve where it was asked for. Raises
    ConfigError as `require_page`, EnvironmentProblem where the page cannot be written.
    """
    require_page(to, overwrite=overwrite)
    hits = [hit for answer in report.results for hit in markup.shown_of(answer)]
    seen = pictures.of_hits(hits, workspace, _PICTURE_BYTES)
    rest: Iterator[Seen] = iter(seen)
    known = [[next(rest) for _ in markup.shown_of(answer)] for answer in report.results]
    data = markup.page(report.results, known, to).encode("utf-8")
    files.write_bytes(to, data)
    shown = sum(one.picture is not None for one in seen)
    some = f"{len(hits)} moment{'' if len(hits) == 1 else 's'}"
    log.logger.info("wrote %s: %s, %d with a picture", to, some, shown)
    return WrittenPage(to, len(hits), shown, len(data))
