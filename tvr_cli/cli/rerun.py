"""`tvr rerun`: repeat a run and say whether it gives the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, OWN_METHOD, Device, DryRun, Json, Offline, Threads, Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.training.train_result import RerunReport


def rerun(
    run: Annotated[str, typer.Argument(help="Run by name or path.")],
    name: Annotated[str | None, typer.Option("--run", help="Name of the new run; default: NAME-again.")] = None,
    method: Annotated[str | None, typer.Option("--method", help=OWN_METHOD.capitalize())] = None,
    device: Device = "auto",
    threads: Threads = None,
    offline: Offline = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train again exactly as a run was trained and compare the weights to the bit.

    Example: tvr rerun glccl
    """
    from tvr_cli.cli.train import show_preview
    from tvr_cli.engine.training import rerun as engine
    from tvr_cli.engine.training.train import TrainOptions
    from tvr_cli.engine.training.train_result import RerunReport

    options = TrainOptions(run=name, device=device, threads=threads, offline=offline)
    result = engine.rerun(run, workspace, options, method, dry_run=dry_run)
    human = (lambda: _show(result)) if isinstance(result, RerunReport) else lambda: show_preview(result.train)
    render.result(result, as_json, human)


def _show(result: RerunReport) -> None:
    """Print whether both runs agree, and what differs around them."""
    if result.identical:
        render.line(f"{result.train.run!r} has the same weights as {result.of!r}, to the bit")
    else:
        render.line(f"{result.train.run!r} has other weights than {result.of!r}")
        rows = [
            [what, best["step"], *[best["metrics"].get(side, {}).get("R@1") for side in ("t2v", "v2t")]]
            for what, best in (("before", result.before), ("after", result.after))
        ]
        render.table(None, ("", "best step", "t2v R@1", "v2t R@1"), rows)
    for path, (before, now) in result.environment.items():
        render.line(f"{path} was {before}, is {now}")
