"""The moments of an answer as a timeline for an editor: `tvr query --export`. Nothing is searched here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tvr_cli.engine.showing import place
from tvr_cli.engine.showing.timeline import fcpxml, interchange, markers
from tvr_cli.engine.showing.timeline.edit import make_edit
from tvr_cli.errors import ConfigError, did_you_mean
from tvr_cli.results.found import QueryReport
from tvr_cli.results.shown import SavedTimeline

FLAG = "--export"
_WRITERS = {
    ".otio": interchange.to_otio,
    ".xml": interchange.to_fcp7,
    ".edl": interchange.to_edl,
    ".fcpxml": fcpxml.to_fcpxml,
    ".csv": markers.to_csv,
}
_BY_ADAPTERS = (".otio", ".xml", ".edl")


def require_exportable(path: Path, *, overwrite: bool) -> None:
    """Refuse before a search what could not be written after it.

    Raises ConfigError for an unknown ending and for a file that is there, EnvironmentProblem without the extra.
    """
    ending = path.suffix.lower()
    if ending not in _WRITERS:
        near = did_you_mean(ending, _WRITERS)
        raise ConfigError(f"{FLAG}: expected a file ending in {', '.join(_WRITERS)}, found {str(path)!r}{near}")
    place.require_free([path], FLAG, overwrite=overwrite)
    if ending in _BY_ADAPTERS:
        interchange.require_adapters()


def export(report: QueryReport, path: Path, *, overwrite: bool = False, dry_run: bool = False) -> QueryReport:
    """Write the moments of all answers, one after another, in the format that the ending of `path` names.

    Files that cannot be read are left out, which `timeline.left_out` says; of an answer without moments nothing is
    written. Raises as `require_exportable`, DataError where the files of all moments are left out, ConfigError for what
    the format cannot say.
    """
    require_exportable(path, overwrite=overwrite)
    ending = path.suffix.lower()
    if not any(answer.hits for answer in report.results):
        return replace(report, timeline=SavedTimeline(path, ending[1:], None, 0, dry_run=dry_run))
    edit = make_edit(report)
    data = _WRITERS[ending](edit)
    if not dry_run:
        place.write(path, data, FLAG)
    rate = None if ending == ".csv" else f"{edit.rate.numerator}/{edit.rate.denominator}"
    notes = () if ending == ".csv" else tuple(edit.notes)
    saved = SavedTimeline(path, ending[1:], rate, len(edit.events), tuple(edit.left_out), notes, dry_run)
    return replace(report, timeline=saved)
