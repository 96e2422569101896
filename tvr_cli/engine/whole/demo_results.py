"""What `tvr demo` says about a method beyond the usual metrics: recall by kind of caption, intervals, time spans.

Everything is read from what `evaluate` keeps of a run (the rank of every query) and from the ground truth of the toy
corpus. Pure functions but for `kept_ranks` and `spans`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from tvr_cli import schema
from tvr_cli.data.demo_world.corpus import Truth
from tvr_cli.data.demo_world.grammar import KINDS
from tvr_cli.engine import scorers
from tvr_cli.engine.evaluation.gallery import gallery_of
from tvr_cli.engine.evaluation.judge import read_ranks
from tvr_cli.engine.searching.hits import time_span
from tvr_cli.errors import DataError
from tvr_cli.files import read_json
from tvr_cli.methods.base import Method
from tvr_cli.metrics import Floats, Ranks
from tvr_cli.results.base import key
from tvr_cli.results.metrics import Rate
from tvr_cli.runs import RunDir
from tvr_cli.significance import wilson
from tvr_cli.stores.features.store import FeatureStore

_TILE = 32  # captions whose frame weights are asked for at a time
HIT = 0.5  # temporal IoU from which a span counts as found


@dataclass(frozen=True, kw_only=True)
class Recalls:
    """Text to video: R@1/5/10, and R@1 by kind of caption."""

    r1: Rate = field(metadata=key("R@1"))
    r5: Rate = field(metadata=key("R@5"))
    r10: Rate = field(metadata=key("R@10"))
    by_kind: Mapping[str, Rate]


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Means over queries: shares in percent, IoU as a fraction, seconds. r1: IoU of HIT or more.

    centred_*: the same of a window of that length in the middle of the video, which anybody could return.
    """

    r1: float = field(metadata=key("R@1"))
    centred_r1: float = field(metadata=key("centred_R@1"))
    mean_iou: float
    centred_mean_iou: float
    inside: float
    centred_inside: float
    seconds: float


@dataclass(frozen=True)
class Spans:
    """How well the returned span of each query fits its event, in its own video. All [T].

    iou: temporal IoU with the span of both named events. inside: whether its middle lies in one of the two. length:
    seconds. centred_*: the same of a window of that length in the middle of the video, which anybody could return.
    """

    iou: Floats
    inside: Floats
    length: Floats
    centred_iou: Floats
    centred_inside: Floats

    def summary(self) -> Moments:
        """Return means over queries."""
        return Moments(
            r1=100 * float((self.iou >= HIT).mean()),
            centred_r1=100 * float((self.centred_iou >= HIT).mean()),
            mean_iou=float(self.iou.mean()),
            centred_mean_iou=float(self.centred_iou.mean()),
            inside=100 * float(self.inside.mean()),
            centred_inside=100 * float(self.centred_inside.mean()),
            seconds=float(self.length.mean()),
        )


def kept_ranks(run: RunDir, split: str) -> tuple[Ranks, list[str]]:
    """Return the text-to-video ranks that `evaluate` kept, and the video of each query."""
    path, fix = run.results / f"{split}.ids.json", "evaluate the run again"
    found = read_json(path, fix=fix)
    ranks, _ = read_ranks(run.results / f"{split}.ranks.safetensors")
    schema.check(found, schema.known({"videos": schema.items(schema.text)}), repr(str(path)), fix)
    if len(found["videos"]) <= int(ranks.video.max(initial=-1)):
        raise DataError(f"{str(path)!r} has fewer videos than the ranks beside it; {fix}")
    return ranks, [found["videos"][i] for i in ranks.video]


def recalls(ranks: Ranks, kinds: Sequence[str]) -> Recalls:
    """Return R@1/5/10, and R@1 by kind of caption. kinds: of each query."""
    first = ranks.hit(1)
    labels = np.array(kinds)
    by_kind: dict[str, Rate] = {kind: rate(first[labels == kind]) for kind in KINDS if (labels == kind).any()}
    return Recalls(r1=rate(first), r5=rate(ranks.hit(5)), r10=rate(ranks.hit(10)), by_kind=by_kind)


def rate(hits: Floats) -> Rate:
    """Return the mean of [N] hits (probabilities where ranks are tied) in percent, with Wilson's 95 % interval."""
    percent = 100 * float(hits.mean())
    low, high = wilson(percent, len(hits))
    return Rate(percent, min(low, percent), max(high, percent))  # rounding at 0 and 100


@torch.no_grad()
def spans(method: Method, store: FeatureStore, split: str, truth: Mapping[str, Truth]) -> Spans:
    """Ask where in its own video each caption of the split is, as `query` would, and compare with the events."""
    gallery = gallery_of(store, split)
    captions = store.captions.take(gallery.captions.tolist())
    place = {file_id: row for row, file_id in enumerate(store.clips.files_of(gallery.clips))}
    rows = torch.tensor([place[c.file_id] for c in captions])
    text = scorers.encode_texts(method, store.text(gallery.captions))
    video = store.video(gallery.clips, patches=method.reads_patches)
    encoded = scorers.encode_videos(method, video)
    measured = []
    for start in range(0, len(captions), _TILE):
        part = slice(start, start + _TILE)
        weights = method.explain(text.rows(part), encoded.rows(rows[part])).diagonal().T.cpu()  # [tile, F]
        for w, row in zip(weights, rows[part].tolist(), strict=True):
            clip, n = store.clips[int(gallery.clips[row])], int(video.n_frames[row])
            found = time_span(w[:n], video.ts[row, :n], *clip.span)
            middle, half = sum(clip.span) / 2, (found[1] - found[0]) / 2
            centred = middle - half, middle + half
            shown = truth[clip.file_id]
            measured.append((*_fit(found, shown), found[1] - found[0], *_fit(centred, shown)))
    return Spans(*np.array(measured, dtype=np.float64).T)


def _fit(found: tuple[float, float], shown: Truth) -> tuple[float, bool]:
    middle = sum(found) / 2
    return overlap(found, shown.span), any(start <= middle < end for start, end in shown.events)


def overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the temporal IoU of two spans in seconds."""
    both = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return both / (a[1] - a[0] + b[1] - b[0] - both)
