"""`tvr evaluate`: the result of a run, or of a method without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Backbone, Device, Json, MemoryBudget, Workspace


def evaluate(
    run: Annotated[str | None, typer.Argument(help="Run by name or path; default: the newest run.")] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="A method without training: mean, text_guided.")
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "test",
    backbone: Backbone = None,
    device: Device = "auto",
    memory_budget: MemoryBudget = "512MB",
    noise_seeds: Annotated[
        int,
        typer.Option("--noise-seeds", min=1, help="Draws of a method that samples when it scores; mean ± deviation."),
    ] = 1,
    save_scores: Annotated[Path | None, typer.Option("--save-scores", help="Also write the score matrix here.")] = None,
    as_json: Json = False,
) -> None:
    """Score every caption against every video of a split and report recall and rank in both directions.

    Example: tvr evaluate --method text_guided --split test
    """
    from tvr_cli.engine import evaluate as engine
    from tvr_cli.engine.score import parse_bytes
    from tvr_cli.errors import ConfigError

    if run is not None and method is not None:
        raise ConfigError(f"name a run ({run!r}) or --method {method}, not both")
    scorer, store = engine.load(workspace, run=run, method=method, backbone=backbone)
    options = engine.EvaluateOptions(
        split=split,
        memory_budget=parse_bytes(memory_budget),
        device=device,
        noise_seeds=noise_seeds,
        save_scores=save_scores,
    )
    result = engine.evaluate(scorer, store, workspace, options)
    render.result(result, as_json, lambda: show(result))


def show(result: dict[str, Any]) -> None:
    """Print a result for people: what was scored, then one row a direction."""
    gallery = result["gallery"]
    render.line(
        f"{result['method']} ({result['fidelity']}) on {result['backbone']}, split {result['split']}: "
        f"{result['captions']} captions, {gallery['scored']}/{gallery['expected']} videos"
    )
    columns = ("", "R@1", "R@5", "R@10", "MdR", "MnR")
    labels = {"t2v": "text to video", "v2t": f"video to text ({result['v2t_protocol']})"}
    deviation = result.get("deviation")
    rows = []
    for side, label in labels.items():
        values = [result[side][c] for c in columns[1:]]
        if deviation:
            rows.append(
                [label, *[f"{v:.1f} ± {deviation[side][c]:.1f}" for v, c in zip(values, columns[1:], strict=True)]]
            )
        else:
            rows.append([label, *values])
    render.table(None, columns, rows)
    ties = result["ties"]
    render.line(
        f"rsum {result['rsum']:.1f}; tied queries: {ties['t2v']} t2v, {ties['v2t']} v2t (counted by expected rank)"
    )
