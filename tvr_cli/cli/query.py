"""`tvr query`: find moments by a sentence."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import api, log
from tvr_cli.cli import render, streams
from tvr_cli.cli.options import (
    DEFAULT_WORKSPACE,
    OWN_METHOD,
    Backbone,
    Device,
    Json,
    NoHead,
    Offline,
    Searched,
    number,
    require_threads,
    seconds,
    share,
)
from tvr_cli.errors import ConfigError, PartialFailure
from tvr_cli.files import is_text
from tvr_cli.workspace import Workspace

if TYPE_CHECKING:
    from tvr_cli.results.found import Answer, Hit, QueryReport
    from tvr_cli.results.shown import SavedClips, SavedTimeline

_NEAREST = 3  # rows of what was not found
_TOLD = 20  # moments that were not saved and are told one by one
_SAID = 60  # letters of what is said, in a table


def query(
    text: Annotated[
        list[str] | None, typer.Argument(help='What to look for; "-" reads one query a line from stdin.')
    ] = None,
    workspace: Searched = DEFAULT_WORKSPACE,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of moments to show.")] = 10,
    per_file: Annotated[int, typer.Option("--per-file", min=0, help="Moments of one file at most; 0 = all.")] = 3,
    run: Annotated[
        str | None, typer.Option("--run", help="Run whose scores rank the moments, or a moment head.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help=f"A method without training instead of a run; or: {OWN_METHOD}")
    ] = None,
    backbone: Backbone = None,
    first: Annotated[
        str | None,
        typer.Option("--first", help="The first backbone of an index of two, where it is a module of your own."),
    ] = None,
    shortlist: Annotated[
        int | None,
        typer.Option(
            "--shortlist",
            min=1,
            help="Clips that the method scores itself; default: as many as the index says that it takes.",
        ),
    ] = None,
    exhaustive: Annotated[bool, typer.Option("--exhaustive", help="Let the method score every clip.")] = False,
    min_score: Annotated[
        float | None,
        typer.Option(
            "--min-score",
            parser=number("--min-score"),
            metavar="SCORE",
            help="Leave out what the picture scores below this.",
        ),
    ] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            "--min-confidence",
            parser=share("--min-confidence"),
            metavar="SHARE",
            help="A moment below this, 0 to 1, is not found, but among the nearest; default: 0.95.",
        ),
    ] = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="Show what is not found with confidence, too, as hits.")
    ] = False,
    channel: Annotated[
        str | None,
        typer.Option(
            "--channel",
            help="picture, speech (subtitles and text streams) or both; default: both where words were read before.",
        ),
    ] = None,
    no_head: NoHead = False,
    image: Annotated[
        list[str] | None, typer.Option("--image", metavar="FILE", help="Look for a picture; repeatable.")
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option("--like", metavar="PATH@START-END", help="Look for what a moment of the library shows."),
    ] = None,
    plus: Annotated[
        list[str] | None,
        typer.Option(
            "--plus",
            metavar="TEXT",
            help="Add a sentence, image:FILE or like:PATH@START-END; 2:TEXT counts twice; repeatable.",
        ),
    ] = None,
    minus: Annotated[
        list[str] | None, typer.Option("--minus", metavar="TEXT", help="Take off what --plus would add; repeatable.")
    ] = None,
    inside: Annotated[
        list[str] | None,
        typer.Option("--in", metavar="GLOB", help="Search files whose id or path matches, or FOLDER/; repeatable."),
    ] = None,
    newer: Annotated[
        str | None, typer.Option("--newer", metavar="DATE", help="Search files written since 2026-11-01, or 7d ago.")
    ] = None,
    older: Annotated[
        str | None, typer.Option("--older", metavar="DATE", help="Search files written before that.")
    ] = None,
    longer: Annotated[
        float | None,
        typer.Option("--longer", parser=seconds("--longer"), metavar="SECONDS", help="Search files that last longer."),
    ] = None,
    shorter: Annotated[
        float | None,
        typer.Option(
            "--shorter", parser=seconds("--shorter"), metavar="SECONDS", help="Search files that are shorter."
        ),
    ] = None,
    not_in: Annotated[
        Path | None, typer.Option("--not-in", metavar="FILE", help="Leave out files that FILE lists, one a line.")
    ] = None,
    paths: Annotated[
        bool, typer.Option("--paths", help="Print bare paths, one a line; escaped on a terminal.")
    ] = False,
    null: Annotated[bool, typer.Option("-0", help="Print bare paths, each ended by NUL, for xargs -0.")] = False,
    device: Device = "auto",
    offline: Offline = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say what encodes the sentences, and how.")] = False,
    as_json: Json = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write the answer as a page that plays the moments, offline.")
    ] = None,
    save_clips: Annotated[
        Path | None,
        typer.Option("--save-clips", metavar="DIR", help="Save each moment as a file of this folder, with its sound."),
    ] = None,
    pad: Annotated[
        float | None,
        typer.Option(
            "--pad",
            parser=seconds("--pad"),
            metavar="SECONDS",
            help="Of --save-clips: seconds before and after a moment.",
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            metavar="FILE",
            help="Write a timeline for an editor, by the ending: .otio, .xml (FCP 7), .edl, .fcpxml; or .csv.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there of what is written.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what --save-clips and --export would write, and write none of it.")
    ] = False,
) -> None:
    """Find the moments in videos that match a sentence, a picture, another moment, or a sum of these.

    Example: tvr query "a dog surfing" --index out/
    """
    if verbose:
        log.show_details()
    if as_json and (paths or null):
        raise ConfigError("--json and --paths are two forms of one answer; give one of them")
    if exhaustive and shortlist is not None:
        raise ConfigError("--exhaustive scores every clip, --shortlist only the best of them; give one of them")
    if show_all and min_confidence is not None:
        raise ConfigError("--all asks for no confidence, --min-confidence for some; give one of them")
    opened = api.open_workspace(workspace)
    if pad is not None and save_clips is None:
        raise ConfigError("--pad is about the files of --save-clips, and there is none; name their folder")
    if dry_run and html is not None:
        raise ConfigError("--dry-run is about --save-clips and --export, and --html would write; leave out one of them")
    if (dry_run or overwrite) and save_clips is None and export is None and html is None:
        about = (
            "--overwrite is about the files of --html, --save-clips"
            if overwrite
            else "--dry-run is about the files of --save-clips"
        )
        raise ConfigError(f"{about} and --export, and none of them is given")
    if html is not None:
        opened.require_page(html, overwrite=overwrite)  # before anything is searched
    if export is not None:
        opened.require_exportable(export, overwrite=overwrite)
    require_threads()
    wanted = _piped() if text == ["-"] else [" ".join(text)] if text else []
    report = opened.ask(
        wanted,
        k=k,
        per_file=per_file,
        run=run,
        method=method,
        backbone=backbone,
        first=first,
        shortlist=shortlist,
        exhaustive=exhaustive,
        min_score=min_score,
        min_confidence=None if show_all else api.FOUND if min_confidence is None else min_confidence,
        channel=channel,
        no_head=no_head,
        curves=html is not None,
        image=image or (),
        like=like or (),
        plus=plus or (),
        minus=minus or (),
        inside=inside or (),
        newer=newer,
        older=older,
        longer=longer,
        shorter=shorter,
        not_in=not_in,
        device=device,
        offline=offline,
    )
    if report.missing:
        _say_missing(report.missing, workspace)
    if html is not None:
        opened.page(report, html, overwrite=overwrite)
        report = report.without_curves()
    if save_clips is not None:
        report = opened.save_clips(report, save_clips, pad=pad or 0.0, overwrite=overwrite, dry_run=dry_run)
    if export is not None:
        report = opened.export(report, export, overwrite=overwrite, dry_run=dry_run)
    if paths or null:
        shown = [dict.fromkeys(hit.path for hit in answer.hits if not hit.missing) for answer in report.results]
        render.exact([path for paths in shown for path in paths], end="\0" if null else "\n")
    else:
        render.result(report, as_json, lambda: _show(report, min_score))
    for note in report.timeline.notes if report.timeline is not None else ():
        log.logger.warning("note: %s", note)
    if failed := _not_written(report):
        raise PartialFailure("; ".join(failed))


def _piped() -> list[str]:
    """Return the lines of stdin that say something. Raises ConfigError where none does, and for what is no UTF-8.

    Whatever the locale: in most of them Python's own stdin ends at the first byte that is no UTF-8.
    """
    lines = io.StringIO(streams.read().decode("utf-8-sig", "surrogateescape"), newline=None)
    wanted = {at: line.strip() for at, line in enumerate(lines, 1) if line.strip()}
    if not wanted:
        raise ConfigError("expected one sentence a line on standard input, found no line that says anything")
    for at, line in wanted.items():
        if not is_text(line):
            raise ConfigError(
                f"standard input, line {at}: expected a sentence in UTF-8, found {line!r}; convert it, for example "
                "with iconv"
            )
    return list(wanted.values())


def _show(report: QueryReport, min_score: float | None) -> None:
    for i, answer in enumerate(report.results):
        if i:
            render.line()
        title = answer.query if len(report.results) > 1 else None
        if answer.found:
            _table(title, answer.hits)
            _say_left_out(answer)
        elif answer.nearest:
            render.line(f"{answer.query!r}: nothing found with confidence; nearest:")
            _table(None, answer.nearest[:_NEAREST])
        else:
            limit = f" (nothing scored {min_score} or more)" if min_score is not None else ""
            render.line(f"{answer.query!r}: nothing found{limit}")
    if report.clips is not None or report.timeline is not None:
        _show_saved(report)


def _table(title: str | None, hits: Sequence[Hit]) -> None:
    heard = any(h.channel != "picture" for h in hits)
    told = any(h.confidence is not None for h in hits)
    rows = [
        [
            h.rank,
            f"{render.shortest(h.path)}{f' ({h.why_missing})' if h.missing else ''}",
            *([h.channel, textwrap.shorten(h.said or "", _SAID, placeholder=" …")] if heard else []),
            f"{render.seconds(h.start)}–{render.seconds(h.end)}",
            render.seconds(h.peak),
            f"{h.score:.3f}",
            *(["–" if h.percent is None else f"{h.percent / 100:.2f}"] if told else []),
        ]
        for h in hits
    ]
    columns = ("#", "video", *(("by", "said") if heard else ()), "where", "peak", "score", "confidence")
    render.table(title, columns if told else columns[:-1], rows, left=4 if heard else 2)


def _say_left_out(answer: Answer) -> None:
    left_out = {hit.path: hit.more for hit in answer.hits if hit.more}
    places = answer.places
    all_of_them = f"--per-file 0 -k {places}{' --all' if answer.nearest else ''} shows all"
    for path, more in left_out.items():
        render.line(f"{render.shortest(path)}: {render.count(more, 'more moment')}; {all_of_them}")
    if answer.nearest:
        some = render.count(len(answer.nearest), "moment")
        them = "it" if len(answer.nearest) == 1 else "them"
        render.line(f"{some} more, found with less confidence; --all shows {them}, too")


def _show_saved(report: QueryReport) -> None:
    """Say what was written besides the answer."""
    if not any(answer.hits for answer in report.results):
        nearest = any(answer.nearest for answer in report.results)
        also = "; --all takes what is nearest, too" if nearest else ""
        if report.clips is not None:
            render.line(f"nothing saved in {report.clips.folder}: no moment was found{also}")
        if report.timeline is not None:
            render.line(f"nothing written as {report.timeline.path}: no moment was found{also}")
        return
    if report.clips is not None:
        _show_clips(report.clips)
    if report.timeline is not None:
        _show_timeline(report.timeline)


def _show_clips(saved: SavedClips) -> None:
    there = [clip for clip in saved.clips if clip.problem is None]
    if saved.dry_run:
        for clip in there:
            how = "copied" if clip.copied else "encoded again"
            render.line(
                f"would save {clip.path}: {render.seconds(clip.start)}–{render.seconds(clip.end)} of "
                f"{render.shortest(clip.source)}, {render.count(clip.frames, 'frame')}, {how}"
            )
        return
    copied = sum(clip.copied for clip in there)
    how = f"{copied} copied, {len(there) - copied} encoded again"
    render.line(f"{render.count(len(there), 'moment')} saved in {saved.folder}: {how}")


def _show_timeline(saved: SavedTimeline) -> None:
    done = "would be written" if saved.dry_run else "written"
    rate = "" if saved.frames_a_second is None else f", {saved.frames_a_second:.5g} frames a second"
    render.line(f"{render.count(saved.events, 'moment')} {done} as {saved.path}{rate}")


def _not_written(report: QueryReport) -> list[str]:
    """Return sentences about what was asked for and is not there."""
    said = []
    if report.clips is not None and (failed := report.clips.failed):
        for clip in failed[1:_TOLD]:
            log.logger.warning("not saved: %s: %s", clip.path.name, clip.problem)
        of = render.count(len(report.clips.clips), "moment")
        said.append(f"{len(failed)} of {of} not saved: {failed[0].path.name}: {failed[0].problem}")
    if report.timeline is not None and (left_out := report.timeline.left_out):
        files = render.count(len(left_out), "file")
        said.append(f"the moments of {files} are not in {str(report.timeline.path)!r}: {left_out[0].problem}")
    return said


def _say_missing(paths: Sequence[str], workspace: Workspace) -> None:
    if named := [path for path in paths if not os.path.isabs(path)]:
        log.logger.warning(
            "%s of the answer %s no file here: the features were imported without (%r%s)",
            render.count(len(named), "video"), "has" if len(named) == 1 else "have", named[0],
            " …" if len(named) > 1 else "",
        )  # fmt: skip
    paths = [path for path in paths if os.path.isabs(path)]
    if not paths:
        return
    what = render.count(len(paths), "file")
    if not workspace.has_frames:
        log.logger.warning(
            "%s of the answer %s not on this machine, as far as the features say (%r%s); there are no frames here that "
            "tell more", what, "is" if len(paths) == 1 else "are", paths[0], " …" if len(paths) > 1 else "",
        )  # fmt: skip
        return
    log.logger.warning(
        "%s of the answer %s renamed, moved or deleted since (%r%s); bring the index up to date with: %s",
        what, "was" if len(paths) == 1 else "were", paths[0], " …" if len(paths) > 1 else "",
        workspace.extract_again(),
    )  # fmt: skip
