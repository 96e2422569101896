"""The referee: from a score matrix, whoever made it, to a result that a reviewer can trust. numpy only, no torch.

Score files are read by `score_file`, post-processing is in `post`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tvr_cli import clip4clip, commands, metrics, relevance, significance
from tvr_cli.engine.evaluation.evaluate_result import (
    Completeness,
    DualSoftmax,
    Fair,
    Hubness,
    Intervals,
    Judged,
    OldCounting,
    QbNorm,
    Relevance,
    ScoresReport,
)
from tvr_cli.engine.evaluation.post import DSL_SCALE, POSTS, QBNORM_BETA, Post, dual_softmax, qbnorm, scale_of
from tvr_cli.engine.evaluation.score_file import Ids, constant_columns, read_arrays, read_scores
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.metrics import Floats, Ints, Ranks, Scores, V2TProtocol
from tvr_cli.relevance import Qrels
from tvr_cli.version import __version__

TIE_RULE = "expected rank over all orders of tied items"
CHANCE_LEVEL = 0.01  # one-sided: R@1 that guessing reaches more often than this is not told apart from guessing


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """v2t: protocol of video-to-text. counting: `fair`, or `clip4clip` for the old code's. seed: of the bootstrap.

    scale: what a cosine of one is in the scores, None = as the file or the method says. qrels: relevance judgements.
    """

    v2t: V2TProtocol = "max"
    counting: Literal["fair", "clip4clip"] = "fair"
    post: tuple[Post, ...] = ()
    seed: int = 0
    scale: float | None = None
    qrels: Qrels | None = None


def judge(
    scores: Scores, video_of_caption: Ints, options: JudgeOptions, *, bank: Scores | None = None, ids: Ids | None = None
) -> tuple[Judged, tuple[Ranks, Ranks] | None]:
    """Return the metrics part of a result, and the ranks of both directions (None under another counting).

    Post-processed scores come as separate rows under `post`, never as the headline. ids: needed for qrels; without,
    rows and columns are called by their numbers. Raises DataError for NaN and infinity, when QB-Norm has no bank or
    nothing says the scale, ConfigError for what the old counting cannot do.
    """
    scores = metrics.checked(scores, video_of_caption)
    if options.counting == "clip4clip":
        return _judge_as_clip4clip(scores, video_of_caption, options), None
    forward = metrics.text_to_video(scores, video_of_caption)
    backward = metrics.video_to_text(scores, video_of_caption, options.v2t)
    result = judge_ranks(forward, backward, options, scores.shape[1], metrics.first_places(scores))
    if same := _identical(scores):
        result = dataclasses.replace(result, doubts=(*(result.doubts or ()), same))
    if options.qrels is not None:
        result = dataclasses.replace(result, qrels=_by_relevance(scores, options.qrels, ids))
    if options.post:
        rows = tuple(_post(name, scores, video_of_caption, options, bank) for name in options.post)
        result = dataclasses.replace(result, post=rows)
    return result, (forward, backward)


def judge_ranks(forward: Ranks, backward: Ranks, options: JudgeOptions, videos: int, first_places: Floats) -> Fair:
    """Return the metrics part of a result from ranks that were counted before (streamed).

    videos: candidates of text-to-video. first_places: [V] how often each of them stands first, ties shared.
    """
    intervals = Intervals(
        level=significance.LEVEL,
        unit="video",
        seed=options.seed,
        t2v=significance.intervals(forward, seed=options.seed),
        v2t=significance.intervals(backward, seed=options.seed),
    )
    found = metrics.summarise(forward, backward)
    doubts = [_chance("text to video", found["t2v"]["R@1"], len(forward), videos)]
    if options.v2t == "max":
        doubts.append(_chance("video to text", found["v2t"]["R@1"], len(backward), len(backward)))
    return Fair(
        tie_rule=TIE_RULE,
        v2t_protocol=options.v2t,
        **found,
        intervals=intervals,
        hubness=_hubness(first_places),
        queries={"t2v": len(forward), "v2t": len(np.unique(backward.video))},
        doubts=tuple(doubt for doubt in doubts if doubt) or None,
    )


def judge_file(
    path: Path, options: JudgeOptions, *, allow_missing: bool = False, ids: Ids | None = None
) -> tuple[ScoresReport, tuple[Ranks, Ranks] | None]:
    """Referee a score file: the whole result that `tvr evaluate --scores` prints.

    ids: of the data set that the file is about (`--data`). Raises DataError when videos look missing
    (`constant_columns`), unless that is allowed; the count is in the result.
    """
    file = read_scores(path, ids)
    videos, constant = file.scores.shape[1], constant_columns(file.scores)
    if constant and not allow_missing:
        raise DataError(
            f"{str(path)!r}: {len(constant)} of {videos} videos have one score for every caption (first: column "
            f"{constant[0]}), as a missing video has that was filled with zeros. It is never found and never in the "
            "way; complete the scores, or say --allow-missing: the count is then in every output"
        )
    options = dataclasses.replace(options, scale=options.scale or file.scale)
    judged, ranks = judge(file.scores, file.video_of_caption, options, bank=file.bank, ids=file.ids)
    report = ScoresReport(
        tvr=__version__,
        method=path.name,
        captions=len(file.scores),
        videos=videos,
        identity=file.identity,
        data=file.ids.corpus if file.ids else None,
        gallery=Completeness(expected=videos, scored=videos, zero_filled=len(constant)),
        precision=str(file.scores.dtype),
        scores_sha256=file.sha256,
        v2t_protocol=options.v2t,
        judged=judged,
    )
    return report, ranks


def rank_tensors(ranks: tuple[Ranks, Ranks]) -> dict[str, np.ndarray]:
    """Return the arrays of a ranks file: `t2v.better`, `t2v.tied`, … and `v2t.*`, one row a query."""
    return {
        f"{side}.{name}": np.ascontiguousarray(getattr(r, name))
        for side, r in zip(("t2v", "v2t"), ranks, strict=True)
        for name in ("better", "tied", "positives", "video", "gain")
    } | {"v2t.averaged": np.array([ranks[1].averaged])}


def read_ranks(path: Path) -> tuple[Ranks, Ranks]:
    """Read a ranks file. Raises DataError when it is missing or malformed."""
    arrays = read_arrays(path) if path.is_file() else {}
    try:
        forward, backward = (_ranks_of(arrays, side) for side in ("t2v", "v2t"))
    except KeyError:
        raise DataError(
            f"expected per-query ranks at {str(path)!r}, found none; run: {commands.tvr('evaluate')}"
        ) from None
    return forward, dataclasses.replace(backward, averaged=bool(arrays["v2t.averaged"][0]))


def _ranks_of(arrays: Mapping[str, Any], side: str) -> Ranks:
    better, tied, positives, video, gain = (
        arrays[f"{side}.{name}"] for name in ("better", "tied", "positives", "video", "gain")
    )
    return Ranks(better, tied, positives, video, gain)


def _judge_as_clip4clip(scores: Scores, video_of_caption: Ints, options: JudgeOptions) -> OldCounting:
    """Return the old code's numbers under their label; ties are counted fairly, to show what inflates them."""
    if options.v2t != "max" or options.post:
        asked = f"--v2t-protocol {options.v2t}" if options.v2t != "max" else f"--post {','.join(options.post)}"
        raise ConfigError(f"--metrics clip4clip knows the v2t protocol max alone and no --post; leave out {asked}")
    forward = metrics.text_to_video(scores, video_of_caption)
    backward = metrics.video_to_text(scores, video_of_caption)
    ties = {"t2v": int((forward.tied > 0).sum()), "v2t": int((backward.tied > 0).sum())}
    return OldCounting(**clip4clip.evaluate(scores, video_of_caption), ties=ties)


def _post(name: Post, scores: Scores, video: Ints, options: JudgeOptions, bank: Scores | None) -> DualSoftmax | QbNorm:
    if name == "dsl":
        scale = scale_of(options.scale, scores)
        t2v, v2t = dual_softmax(scores, scale)
        forward, backward = metrics.text_to_video(t2v, video), metrics.video_to_text(v2t, video, options.v2t)
        found = metrics.summarise(forward, backward)
        return DualSoftmax(note=POSTS[name], scale=scale, temperature=DSL_SCALE / scale, **found)
    if bank is None:
        raise DataError(
            "QB-Norm needs a query bank of training captions: an array `bank` [Q, V] in the score file, or captions of "
            "the split train in the feature store"
        )
    scale = scale_of(options.scale, scores, bank)
    recalls = metrics.summary(metrics.text_to_video(qbnorm(scores, bank, scale), video))
    return QbNorm(note=POSTS[name], scale=scale, temperature=QBNORM_BETA / scale, bank=len(bank), t2v=recalls)


def _by_relevance(scores: Scores, qrels: Qrels, ids: Ids | None) -> Relevance:
    if ids is None:
        ids = Ids(tuple(map(str, range(len(scores)))), tuple(map(str, range(scores.shape[1]))))
    grades = relevance.grades_of(qrels, ids.captions, ids.videos)
    (t2v, queries), (v2t, answers) = relevance.judged(scores, grades), relevance.judged(scores.T, grades.T)
    return Relevance(sha256=qrels.sha256, t2v=t2v, v2t=v2t, queries={"t2v": queries, "v2t": answers})


def _hubness(first_places: Floats) -> Hubness:
    top = math.ceil(len(first_places) / 100)
    share = 100.0 * float(np.sort(first_places)[-top:].sum() / first_places.sum())
    return Hubness(videos=top, share=share)


def _chance(name: str, recall: float, queries: int, candidates: int) -> str | None:
    """Say where R@1 [%] is not above guessing: an exact binomial test, where so many queries could pass it at all."""
    rate = 1.0 / candidates
    if queries * math.log(rate) > math.log(CHANCE_LEVEL):
        return None
    if significance.binomial_tail(math.floor(recall * queries / 100.0 + 1e-9), queries, rate) < CHANCE_LEVEL:
        return None
    return (
        f"{name}: this is chance level (expected R@1 {100 * rate:.2g}, MdR {(candidates + 1) // 2}). Usual causes: "
        "rows or columns out of step with video_of_caption, distances in place of similarities (turn their sign), "
        "weights that were not loaded"
    )


def _identical(scores: Scores) -> str | None:
    """Say how many videos have the scores of another one, all of them, and which come first; constant ones are not."""
    if len(scores) < 2:
        return None
    # Columns that agree in three rows are few, so that only those are compared whole.
    _, group, sizes = np.unique(scores[[0, len(scores) // 2, -1]], axis=1, return_inverse=True, return_counts=True)
    first: dict[bytes, int] = {}
    again = []
    for i in np.flatnonzero(sizes[group.reshape(-1)] > 1).tolist():
        column = scores[:, i]
        if column.max() > column.min() and (one := first.setdefault(column.tobytes(), i)) != i:
            again.append((one, i))
    if not again:
        return None
    return (
        f"{len(again)} videos have the very scores of another one (first: columns {again[0][0]} and {again[0][1]}): "
        "one file under two names, or features written twice?"
    )
