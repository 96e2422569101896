"""`tvr extract-frames`: from videos to a frame store."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import api, commands, log
from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, DryRun, Json, Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.extraction.estimate import ExtractEstimate
    from tvr_cli.engine.extraction.extract import ExtractReport
    from tvr_cli.engine.extraction.part_list import PartListReport


def extract_frames(
    videos: Annotated[
        list[Path] | None,
        typer.Argument(
            help='Folders, video files, or manifests (.jsonl with {"path", "id"?, "start"?, "end"?} a line).'
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="NAME:ROOT[:VARIANT]", help="Videos and frame plan of a data set, not VIDEOS."),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    num_frames: Annotated[
        int | None,
        typer.Option(
            "--num-frames",
            min=1,
            help="So many frames spread evenly over each clip (12 of a data set's), instead of frames by time.",
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option("--fps", help="Frames a second, by time; default 1, and --detail. Alone: all at this rate."),
    ] = None,
    detail: Annotated[
        float | None,
        typer.Option(
            "--detail",
            metavar="FPS",
            help="Up to so many frames a second where pictures change; default 4 without --fps, 0 = none.",
        ),
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option("--max-frames", min=1, help="With --fps: keep at most this many, spread evenly.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", min=16, help="Short side of what is stored, pixels; default 224.")
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            "--fit",
            help="whole keeps all of a picture, for any backbone (default); crop its centre (default of --data); "
            "squash makes it a square.",
        ),
    ] = None,
    for_backbone: Annotated[
        str | None,
        typer.Option("--for", metavar="BACKBONE", help="Size and kind of pictures that this backbone can use."),
    ] = None,
    quality: Annotated[int, typer.Option("--quality", help="JPEG quality, 1 to 95.")] = 90,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="With --fps: keep frames that look like the one before, too.")
    ] = False,
    segment: Annotated[
        str,
        typer.Option(
            "--segment",
            help="Cut long files: auto (30 s windows with 5 s overlap above 45 s), none, or LENGTH/OVERLAP in seconds.",
        ),
    ] = "auto",
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="GLOB", help="Only files that match; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="No files that match; repeatable.")
    ] = None,
    decoder: Annotated[str, typer.Option("--decoder", help="auto, pyav or decord.")] = "auto",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Videos read at once; default one a processor.")
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Give a video up after this many seconds without progress.")
    ] = 120.0,
    shard: Annotated[
        str,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Only part I of N, for several machines or jobs; auto/N in a Slurm or Kubernetes array.",
        ),
    ] = "1/1",
    plan_parts: Annotated[
        int | None,
        typer.Option(
            "--plan-parts",
            metavar="N",
            min=1,
            help="Read nothing; write parts.jsonl, N lists of videos of equal bytes: VIDEOS of a --shard I/N.",
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also try again what is in failures.jsonl.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Empty the frame store first.")] = False,
    keep_truncated: Annotated[
        bool,
        typer.Option(
            "--keep-truncated/--refuse-truncated",
            help="What to do with a file that holds less than its header says: store it with a note, or fail it.",
        ),
    ] = True,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Forget all videos that are gone, even more than a tenth of a source."),
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Follow links that lead out of the folders, too.")] = False,
    tracks: Annotated[
        str, typer.Option("--tracks", help="Of files with several video tracks: default reads one, all reads each.")
    ] = "default",
    memory_budget: Annotated[
        str | None,
        typer.Option("--memory-budget", help="For frames of all readers, like 2GB; default half of what is free."),
    ] = None,
    repair: Annotated[
        str | None,
        typer.Option("--repair", metavar="SHARD", help="Rebuild a damaged shard (or `all` damaged ones); no VIDEOS."),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="ray runs all parts of a list on a cluster; local is this process.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option("--address", help="With --engine ray: of the cluster; default one of this machine.")
    ] = None,
    allow_failures: Annotated[
        bool, typer.Option("--allow-failures", help="Exit with 0 even if some videos failed.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Read videos and store a few frames of each; run it again to add, refresh and forget.

    Example: tvr extract-frames videos/ -o out
    """
    from tvr_cli.engine.extraction.extract import ExtractReport
    from tvr_cli.engine.extraction.part_list import PartListReport

    report = api.open_workspace(workspace).extract(
        videos or (),
        data=data,
        num_frames=num_frames,
        fps=fps,
        detail=detail,
        max_frames=max_frames,
        size=size,
        fit=fit,
        for_backbone=for_backbone,
        quality=quality,
        keep_all=keep_all,
        segment=segment,
        include=include or (),
        exclude=exclude or (),
        decoder=decoder,
        workers=workers,
        timeout=timeout,
        shard=shard,
        retry_failed=retry_failed,
        overwrite=overwrite,
        keep_truncated=keep_truncated,
        forget=forget,
        follow=follow,
        tracks=tracks,
        memory_budget=memory_budget,
        repair=repair,
        plan_parts=plan_parts,
        engine=engine,
        address=address,
        dry_run=dry_run,
        again=shlex.join(["tvr", *(a for a in sys.argv[1:] if a != "--overwrite")]),
    )
    if isinstance(report, PartListReport):
        render.result(report, as_json, lambda: _show_list(report))
    elif isinstance(report, ExtractReport):
        _finish(report, workspace, data, as_json, allow_failures)
    else:
        show_estimate(report, as_json)


def _finish(report: ExtractReport, workspace: Workspace, data: str | None, as_json: bool, allow_failures: bool) -> None:
    """Print what was done and what to do next, which is to search one's own videos and to train on a data set's.

    Exits with 5 when videos failed: news about these and no error of the run, so it is said last and in a line.
    """
    from tvr_cli.errors import PartialFailure

    render.result(report, as_json, lambda: _show(report, workspace))
    where = " (failures.jsonl)" if report.failed else ""
    log.logger.info(
        "%s: %d ok, %d kept, %d failed%s",
        render.count(report.videos, "video"), report.ok, report.kept, report.failed, where,
    )  # fmt: skip
    if report.ok or report.kept:
        then = (
            commands.tvr("query", "a dog surfing", index=workspace)
            if data is None
            else commands.tvr("precompute-features", data=data, workspace=workspace)
        )
        log.logger.info("next: %s", then)
    if report.failed and not allow_failures:
        log.logger.warning(
            "failed: %d of %s, see %s; --retry-failed tries again, --allow-failures accepts it (exit code 5)",
            report.failed, render.count(report.videos, "video"), workspace.frames_folder / "failures.jsonl",
        )  # fmt: skip
        raise typer.Exit(PartialFailure.exit_code)


def _show(report: ExtractReport, workspace: Workspace) -> None:
    if not report.ok:
        render.line(f"nothing new in {workspace.frames_folder}: {render.count(report.kept, 'video')} kept")
    else:
        render.line(
            f"{render.count(report.clips, 'clip')}, {render.count(report.frames, 'frame')}, "
            f"{render.size(report.size_bytes)} in "
            f"{render.duration(report.seconds)}: {workspace.frames_folder}"
        )
    for note in report.notes[:20]:
        render.line(f"note: {note.video}: {note.note}")
    if len(report.notes) > 20:
        render.line(f"note: … and {len(report.notes) - 20} more")
    for failure in report.failures[:20]:
        render.line(f"failed: {failure.video}: {failure.reason}")
    if report.failed > 20:
        render.line(f"failed: … and {report.failed - 20} more")


def _show_list(report: PartListReport) -> None:
    render.line(
        f"{render.count(report.videos, 'video')}, {render.size(report.video_bytes)} in "
        f"{render.count(report.parts, 'part')} of {render.size(report.smallest)} to {render.size(report.largest)}"
        f"{'; nothing was written' if report.dry_run else f': {report.path}'}"
    )
    if not report.dry_run:
        part = commands.tvr("extract-frames", report.path, shard=f"1/{report.parts}", workspace=Path("parts") / "1")
        log.logger.info("next, of each part: %s", part)


def show_estimate(found: ExtractEstimate, as_json: bool) -> None:
    def human() -> None:
        videos = render.count(found.videos, "video")
        render.line(f"{videos}: {found.todo} to read, {found.kept} kept, {found.failed} failed before")
        if found.todo and found.size_bytes is not None and found.seconds is not None:
            render.line(
                f"about {found.frames} frames, {render.size(found.size_bytes)}, {render.duration(found.seconds)} "
                f"(by the headers of all, and {found.tried} of them read)"
            )
        for video in found.first:
            render.line(f"  {video}")
        if found.todo > len(found.first):
            render.line(f"  … and {found.todo - len(found.first)} more")

    render.result(found, as_json, human)
