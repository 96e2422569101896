"""`tvr migrate`: a workspace of an older version in the formats of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, DryRun, Json, Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.whole.migrate import MigrateReport


def migrate(workspace: Workspace = DEFAULT_WORKSPACE, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Bring a workspace of tvr 0.1.0 to the formats of this version; nothing is decoded or computed again.

    Example: tvr migrate -o out
    """
    from tvr_cli.engine.whole import migrate as engine

    report = engine.migrate(workspace, dry_run=dry_run)
    render.result(report, as_json, lambda: _show(report))


def _show(report: MigrateReport) -> None:
    if not any(store.changed for store in report.stores):
        render.line(f"nothing to do: {report.workspace} has the formats of this version")
    for store in report.stores:
        if store.changed:
            what = "would become" if report.dry_run else "is now"
            render.line(
                f"{store.path}: format {store.found} {what} format {store.format} "
                f"({render.count(store.clips, 'clip')} in {render.count(store.shards, 'shard')}, "
                f"{render.size(store.size_bytes)} written)"
            )
