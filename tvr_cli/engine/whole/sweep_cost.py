"""What a sweep would take: bytes and seconds of what is known beforehand, and a sentence for what is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tvr_cli.backbones import registry
from tvr_cli.engine.device import pick_device
from tvr_cli.engine.extraction import estimate as extract_estimate
from tvr_cli.engine.extraction import extract
from tvr_cli.engine.features import cost
from tvr_cli.engine.whole.sweep_features import feature_options, frame_plan, has_features
from tvr_cli.engine.whole.sweep_plan import Corpus, Table, record_of, workspace_of
from tvr_cli.engine.whole.sweep_result import Cell, PlannedWork
from tvr_cli.errors import TvrError
from tvr_cli.plans import FramePlan, default_words
from tvr_cli.results.metrics import mean
from tvr_cli.workspace import Workspace

_FEATURE_BYTES = 2  # fp16
_FRAME_BYTES = 0.36  # of a JPEG at quality 90, a pixel, about


def estimate(
    folder: Path, table: Table, cells: Sequence[Cell], *, device: str, workers: int | None
) -> tuple[list[PlannedWork], list[str]]:
    """Return the parts of what is to be done for some cells, and what is not known of them, writing nothing.

    Times of encoding are those of the towers on this machine in fp32, from their arithmetic.
    """
    steps: list[PlannedWork] = []
    unknown: list[str] = []
    for corpus in table.corpora:
        mine = [cell for cell in cells if cell.data == corpus.label]
        if not mine:
            continue
        workspace = workspace_of(folder, corpus.label)
        plan = frame_plan(workspace, corpus, table.asked.encoders)
        steps.append(_frames(corpus, workspace, plan, workers))
        for encoder in dict.fromkeys(cell.encoder for cell in mine):
            if has_features(workspace, table, corpus, encoder):
                continue
            steps.append(_features(table, corpus, encoder, plan, device))
        trained = [cell for cell in mine if cell.seed is not None]
        known = _trained_in(folder, table, corpus.label)
        judged = "evaluate" if table.search is None else "validate"
        timed = [known[cell.method] for cell in trained if cell.method in known]
        steps.append(
            PlannedWork(
                step=f"cells of {corpus.label}",
                does=f"{len(trained)} to train and {judged}, {len(mine) - len(trained)} to {judged}",
                size_bytes=None,
                seconds=sum(timed) if timed else None,
            )
        )
        rest = list(dict.fromkeys(cell.method for cell in trained if cell.method not in known))
        if rest:
            unknown.append(
                f"the time of training {', '.join(rest)} on {corpus.label}, which the first cell of each will show"
            )
    if any(cell.seed is not None for cell in cells):
        unknown.append("the bytes of checkpoints")
    unknown += [f"{step.step}: {step.does}" for step in steps if step.step.startswith("features") and not step.seconds]
    return steps, unknown


def _trained_in(folder: Path, table: Table, data: str) -> dict[str, float]:
    """Return method -> mean seconds of its trainings on a data set that are done, whatever encoder and seed."""
    found: dict[str, list[float]] = {}
    for cell in table.cells:
        record = record_of(folder, cell) if cell.data == data else None
        if record is not None and record.train_seconds is not None:
            found.setdefault(cell.method, []).append(record.train_seconds)
    return {method: mean(seconds) for method, seconds in found.items()}


def _frames(corpus: Corpus, workspace: Workspace, plan: FramePlan, workers: int | None) -> PlannedWork:
    found = extract_estimate.estimate(corpus.manifest, workspace, plan, extract.ExtractOptions(workers=workers))
    slots = plan.slots or 0
    size = (
        int(found.todo * slots * plan.size * plan.size * _FRAME_BYTES) if found.size_bytes is None else found.size_bytes
    )
    return PlannedWork(
        step=f"frames of {corpus.label}",
        does=f"{found.todo} videos to read, {found.kept} kept",
        size_bytes=size,
        seconds=found.seconds if found.todo else 0.0,
    )


def _features(table: Table, corpus: Corpus, encoder: str, plan: FramePlan, device: str) -> PlannedWork:
    step = f"features of {encoder} on {corpus.label}"
    about = registry.resolve(encoder)
    wanted = feature_options(table, corpus, encoder)
    words = wanted.max_words or default_words(about.context_length)
    clips, texts = len(corpus.manifest.clips), len({caption.text for caption in corpus.manifest.captions})
    slots = plan.slots or 0
    a_frame = 1 + about.patches if wanted.patches else 1
    size = _FEATURE_BYTES * about.dim * (clips * slots * a_frame + texts * (words + 1))
    weights = "" if about.weights is not None else f"; its weights are not here yet ({about.source})"
    does = f"{clips} videos, {texts} captions{weights}"
    try:
        frame_flops, caption_flops = registry.skeleton(about).cost(words)
    except TvrError as e:  # its library is not installed: the bytes are known all the same
        return PlannedWork(step=step, does=f"{does}; no time without its library ({e})", size_bytes=size, seconds=None)
    speed = cost.tower_speed(pick_device(device), torch.float32)
    seconds = (clips * slots * frame_flops + texts * caption_flops) / speed
    return PlannedWork(step=step, does=does, size_bytes=size, seconds=seconds)
