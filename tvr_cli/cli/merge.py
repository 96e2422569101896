"""`tvr merge`: many parts, each a workspace of its own, as one workspace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import commands, log
from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, DryRun, Json, Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.whole.merge import MergeReport


def merge(
    parts: Annotated[list[Path], typer.Argument(metavar="PART…", help="Workspaces that each hold a part.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Join parts that were read and encoded by themselves; files are linked where the disk can, else copied.

    Example: tvr merge parts/1 parts/2 -o out
    """
    from tvr_cli.engine.whole import merge as engine

    report = engine.merge(parts, workspace, dry_run=dry_run)
    render.result(report, as_json, lambda: _show(report))
    _finish(report, workspace)


def _show(report: MergeReport) -> None:
    would = "would be " if report.dry_run else ""
    if (found := report.frames) is not None:
        twice = f", {render.count(found.doubled, 'clip')} taken once of several" if found.doubled else ""
        render.line(
            f"frames: {render.count(found.clips, 'clip')} of {render.count(found.videos, 'video')}, "
            f"{render.size(found.size_bytes)} in {render.count(found.shards, 'shard')}, {found.new} of them "
            f"{would}new{twice}"
        )
        if found.failed:
            render.line(f"failed: {render.count(found.failed, 'video')} could not be read, see failures.jsonl")
    for store in report.features:
        render.line(
            f"features of {store.backbone}: {render.size(store.size_bytes)} in {render.count(store.shards, 'shard')}, "
            f"{store.new} of them {would}new: {store.folder}"
        )
    render.line(f"{render.count(report.parts, 'part')} in {render.duration(report.seconds)}: {report.workspace}")


def _finish(report: MergeReport, workspace: Workspace) -> None:
    """Say what to do next. Exits with 5 when a part is missing: what was there is merged all the same."""
    from tvr_cli.errors import PartialFailure

    if report.features and not report.dry_run:
        backbone = report.features[0].backbone
        then = commands.tvr("precompute-features", backbone=backbone, workspace=workspace)
        log.logger.info("next: %s  (encodes the captions, and what no part has)", then)
    for part in report.missing:
        log.logger.warning("missing: part %s: %s; run: %s", part.part, part.reason, part.fix)
    if report.missing:
        raise typer.Exit(PartialFailure.exit_code)
