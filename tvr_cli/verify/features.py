"""`tvr verify features`: features that somebody else computed, the official captions, and the published result.

Letters: T captions, V videos, F frames, D features.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tvr_cli import data
from tvr_cli.backbones import registry
from tvr_cli.backbones.base import Backbone
from tvr_cli.data.annotation_files import video_stem
from tvr_cli.engine.device import pick_device
from tvr_cli.engine.evaluation import ground
from tvr_cli.engine.evaluation import judge as referee
from tvr_cli.engine.evaluation.evaluate_result import Fair
from tvr_cli.engine.features import foreign
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.files import sha256_file
from tvr_cli.types import Manifest
from tvr_cli.verify import scores
from tvr_cli.verify.outcome import NOT_PINNED, Outcome, VerifyReport, report
from tvr_cli.verify.scores import Measured, ScoreRow

_SNAPSHOT = re.compile(r"/datasets--[^/]+/snapshots/([0-9a-f]{40})/")


def verify(
    features: Sequence[Path],
    spec: str,
    backbone: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    offline: bool = False,
    who: str | None = None,
    known: Sequence[ScoreRow] | None = None,
) -> VerifyReport:
    """Judge somebody's features of frames by the test captions of a data set, beside every published row.

    features: files and folders as `foreign.py` reads them. spec: `NAME:ROOT[:VARIANT]`, of which only annotation files
    are read. revision: which one of their source the features are of; None = what the hub's cache says, where they lie
    in it. The text side is that of `backbone`; the method is `mean`. Nothing is a PASS where no revision is known.
    Raises ConfigError where no row is by that method, DataError for features of other videos, another size, or files
    that are none.
    """
    manifest = data.load(spec)
    rows = [row for row in scores.of(manifest.name, backbone, known) if row.method == "mean"]
    if not rows:
        raise ConfigError(f"what is published of {backbone!r} on {manifest.name} is not by the mean of frames")
    frames = foreign.read(features)
    captions = [c for c in manifest.captions if c.split == "test"]
    videos = sorted({c.video for c in captions})
    pooled, counts = _pooled(frames, videos, manifest)
    loaded = registry.load(backbone, offline=offline, device=pick_device(device))
    if pooled.shape[1] != loaded.dim:
        raise DataError(
            f"the features have {pooled.shape[1]} numbers and {backbone} gives {loaded.dim}: another encoder's"
        )
    text = _sentences(loaded, [c.text for c in captions])
    place = {video: i for i, video in enumerate(videos)}
    column = np.array([place[c.video] for c in captions])
    matrix = text @ pooled.T  # [T, V]
    judged, _ = referee.judge(matrix, column, referee.JudgeOptions())
    assert isinstance(judged, Fair), "as was asked"
    measured = Measured(
        dataset=manifest.name,
        variant=manifest.variant,
        captions=len(captions),
        videos=len(videos),
        backbone=backbone,
        frames=counts[0] if len(set(counts)) == 1 else None,
        method="mean",
        **Measured.numbers(judged),  # type: ignore[arg-type]
    )
    moved = {step: _first(np.roll(matrix, step, 0), column) for step in (-1, 1)}
    cause = scores.likely_cause(measured.recalls, len(captions), len(videos), moved)
    read = foreign.files_of(features)
    revision = revision or _of_cache(read)
    outcomes = [_of_revision(scores.against(row, measured, cause), revision) for row in rows]
    identity = ground.identity_of([c.id for c in captions], videos)
    hashes = {path.name: sha256_file(path) for path in (*read, *manifest.annotations)}
    return report(
        ["features", spec, backbone],
        outcomes,
        protocol={
            "data set": manifest.name,
            "variant": manifest.variant or "default",
            "queries": f"{len(captions)} captions, {len(videos)} videos",
            "frames": f"{min(counts)} to {max(counts)} a video",
            "backbone": backbone,
            "revision": revision or NOT_PINNED,
            "method": "mean",
        },
        hashes={**hashes, "caption ids": identity.captions, "gallery": identity.videos},
        device=loaded.device,
        who=who,
    )


def _of_cache(read: Sequence[Path]) -> str | None:
    """Return the commit that files of the hub's cache are all of: `datasets--…/snapshots/COMMIT/…`, else None."""
    found = {match[1] if (match := _SNAPSHOT.search(path.absolute().as_posix())) else None for path in read}
    return found.pop() if len(found) == 1 else None


def _of_revision(outcome: Outcome, revision: str | None) -> Outcome:
    """Say which revision was read. A PASS without one is none: whose features they are would be anybody's guess."""
    if revision is not None:
        return replace(outcome, detail=f"{outcome.detail}; features of the revision {revision}")
    told = (
        f"{outcome.detail}; revision not pinned: no commit of these features is known here; say which they are of with "
        "--revision, or take them from the hub's cache"
    )
    return replace(outcome, detail=told, status="NOT COMPARABLE" if outcome.status == "PASS" else outcome.status)


def _pooled(frames: dict[str, np.ndarray], videos: Sequence[str], manifest: Manifest) -> tuple[np.ndarray, list[int]]:
    """Return the unit mean of unit frames [V, D] of each video, and how many frames each has."""
    by_stem = {video_stem(name): x for name, x in frames.items()}
    lost = [video for video in videos if video_stem(video) not in by_stem]
    if lost:
        raise DataError(
            f"{len(lost)} of {len(videos)} test videos of {manifest.name} ({manifest.variant or 'default'}) have no "
            f"features (first: {lost[0]!r}; the files hold {len(frames)}, first: {next(iter(frames))!r}): features of "
            "another split, or captions of another one"
        )
    chosen = [by_stem[video_stem(video)] for video in videos]
    return np.stack([_unit(_unit(x).mean(0)) for x in chosen]), [len(x) for x in chosen]


def _unit(x: np.ndarray) -> np.ndarray:
    length: np.ndarray = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.maximum(length, np.finfo(np.float32).tiny)


@torch.no_grad()
def _sentences(backbone: Backbone, texts: Sequence[str]) -> np.ndarray:
    """Return unit vectors [T, D], at the encoder's whole context."""
    parts = []
    for i in range(0, len(texts), 128):
        ids, _ = backbone.tokenize(texts[i : i + 128], backbone.context_length)
        parts.append(backbone.encode_text(ids.to(backbone.device))[0].float().cpu().numpy())
    return _unit(np.concatenate(parts))


def _first(matrix: np.ndarray, column: np.ndarray) -> float:
    judged, _ = referee.judge(matrix, column, referee.JudgeOptions())
    return judged.t2v["R@1"]
