"""The referee: from a score matrix, whoever made it, to a result that a reviewer can trust. numpy only, no torch.

A score file is safetensors or npz with `scores` [T, V] (larger = more similar) and `video_of_caption` [T] (the column
of each caption's video); `bank` [Q, V] (training captions against the same videos) is needed only for QB-Norm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tvr_cli import clip4clip, commands, metrics, significance
from tvr_cli.engine.evaluation.evaluate_result import (
    Completeness,
    DualSoftmax,
    EvaluateReport,
    Fair,
    Intervals,
    Judged,
    OldCounting,
    QbNorm,
    ScoresReport,
)
from tvr_cli.errors import ConfigError, DataError, did_you_mean, reason
from tvr_cli.files import sha256_file
from tvr_cli.metrics import Floats, Ints, Ranks, Scores, V2TProtocol
from tvr_cli.version import __version__

Post = Literal["dsl", "qbnorm"]
POSTS: dict[str, str] = {
    "dsl": "dual softmax: uses all test queries at once and assumes one video a query",
    "qbnorm": "QB-Norm: query bank of training captions only",
}
TIE_RULE = "expected rank over all orders of tied items"
DSL_SCALE = 100.0  # CLIP's logit scale, as CAMoE (arXiv 2109.04290) uses it
QBNORM_BETA = 20.0  # QB-Norm (arXiv 2112.12777), section 4


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """v2t: protocol of video-to-text. counting: `fair`, or `clip4clip` for the old code's. seed: of the bootstrap."""

    v2t: V2TProtocol = "max"
    counting: Literal["fair", "clip4clip"] = "fair"
    post: tuple[Post, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class ScoreFile:
    """A score matrix as read: scores [T, V], video_of_caption [T], bank [Q, V] or None, sha256 of the file."""

    scores: Scores
    video_of_caption: Ints
    bank: Scores | None
    sha256: str


def read_scores(path: Path) -> ScoreFile:
    """Read a score file. Raises DataError that says which array is missing or malformed."""
    if not path.is_file():
        raise DataError(f"expected a score file (safetensors or npz) at {str(path)!r}, found none")
    arrays = _arrays(path)
    for name in ("scores", "video_of_caption"):
        if name not in arrays:
            raise DataError(
                f"{str(path)!r} has no array {name!r} (it has {', '.join(sorted(arrays)) or 'none'}); expected "
                "`scores` [T, V] and `video_of_caption` [T]"
            )
    video = arrays["video_of_caption"]
    if video.ndim != 1 or not np.issubdtype(video.dtype, np.integer):
        raise DataError(f"{str(path)!r}: video_of_caption must be [T] whole numbers, found {video.dtype} {video.shape}")
    scores = arrays["scores"]
    if not np.issubdtype(scores.dtype, np.floating):
        raise DataError(f"{str(path)!r}: scores must be floating-point numbers, found {scores.dtype}")
    metrics.checked(scores, video)
    bank = arrays.get("bank")
    if bank is not None and (bank.ndim != 2 or bank.shape[1] != scores.shape[1]):
        raise DataError(f"{str(path)!r}: bank must be [Q, {scores.shape[1]}], found {bank.shape}")
    return ScoreFile(scores, video.astype(np.int64), bank, sha256_file(path))


def judge(
    scores: Scores, video_of_caption: Ints, options: JudgeOptions, *, bank: Scores | None = None
) -> tuple[Judged, tuple[Ranks, Ranks] | None]:
    """Return the metrics part of a result, and the ranks of both directions (None under another counting).

    Post-processed scores come as separate rows under `post`, never as the headline. Raises DataError for NaN, or when
    QB-Norm has no bank, ConfigError for what the old counting cannot do.
    """
    scores = metrics.checked(scores, video_of_caption)
    if options.counting == "clip4clip":
        return _judge_as_clip4clip(scores, video_of_caption, options), None
    forward = metrics.text_to_video(scores, video_of_caption)
    backward = metrics.video_to_text(scores, video_of_caption, options.v2t)
    result = judge_ranks(forward, backward, options)
    if options.post:
        rows = tuple(_post(name, scores, video_of_caption, options, bank) for name in options.post)
        result = dataclasses.replace(result, post=rows)
    return result, (forward, backward)


def judge_ranks(forward: Ranks, backward: Ranks, options: JudgeOptions) -> Fair:
    """Return the metrics part of a result from ranks that were counted before (streamed)."""
    intervals = Intervals(
        level=significance.LEVEL,
        unit="video",
        seed=options.seed,
        t2v=significance.intervals(forward, seed=options.seed),
        v2t=significance.intervals(backward, seed=options.seed),
    )
    found = metrics.summarise(forward, backward)
    return Fair(tie_rule=TIE_RULE, v2t_protocol=options.v2t, **found, intervals=intervals)


def judge_file(
    path: Path, options: JudgeOptions, *, allow_missing: bool = False
) -> tuple[ScoresReport, tuple[Ranks, Ranks] | None]:
    """Referee a score file: the whole result that `tvr evaluate --scores` prints.

    Raises DataError when some videos look missing (`zero_columns`), unless that is allowed; the count is in the result.
    """
    file = read_scores(path)
    videos, filled = file.scores.shape[1], zero_columns(file.scores)
    if 0 < filled < videos and not allow_missing:
        raise DataError(
            f"{str(path)!r}: {filled} of {videos} videos have one score for every caption, as a missing video has that "
            "was filled with zeros. It is never found and never in the way; complete the scores, or say "
            "--allow-missing: the count is then in every output"
        )
    judged, ranks = judge(file.scores, file.video_of_caption, options, bank=file.bank)
    report = ScoresReport(
        tvr=__version__,
        method=path.name,
        captions=len(file.scores),
        videos=videos,
        gallery=Completeness(expected=videos, scored=videos, zero_filled=filled),
        precision=str(file.scores.dtype),
        scores_sha256=file.sha256,
        v2t_protocol=options.v2t,
        judged=judged,
    )
    return report, ranks


def zero_columns(scores: Scores) -> int:
    """Count the videos whose scores are all equal: what a missing video that was filled with zeros looks like."""
    return int((scores.max(0) == scores.min(0)).sum()) if len(scores) > 1 else 0


def parse_posts(names: Sequence[str]) -> tuple[Post, ...]:
    """Read `--post dsl,qbnorm`. Raises ConfigError with the nearest name."""
    wanted = [part for name in names for part in name.split(",") if part and part != "none"]
    for name in wanted:
        if name not in POSTS:
            raise ConfigError(
                f"unknown post-processing {name!r}{did_you_mean(name, POSTS) or '; there are dsl, qbnorm'}"
            )
    return tuple(wanted)  # type: ignore[arg-type]


def dual_softmax(scores: Scores) -> tuple[Floats, Floats]:
    """Return scores [T, V] for text-to-video and for video-to-text, each weighted by a softmax over its queries."""
    scaled = DSL_SCALE * scores.astype(np.float64)
    return scores * _softmax(scaled, axis=0), scores * _softmax(scaled, axis=1)


def qbnorm(scores: Scores, bank: Scores) -> Floats:
    """Return scores [T, V] of QB-Norm's dynamic inverted softmax with a bank [Q, V] of training captions.

    A query whose best video is also the best of some bank query is normalised by the bank; the others stay as they are
    (their order does not change, so they are mapped monotonically).
    """
    scaled = QBNORM_BETA * bank.astype(np.float64)
    top = scaled.max(0)
    log_sum = top + np.log(np.exp(scaled - top).sum(0))  # [V]
    popular = np.zeros(scores.shape[1], dtype=bool)
    popular[bank.argmax(1)] = True
    plain = QBNORM_BETA * scores.astype(np.float64)
    return np.where(popular[scores.argmax(1)][:, None], plain - log_sum, plain)


def rank_tensors(ranks: tuple[Ranks, Ranks]) -> dict[str, np.ndarray]:
    """Return the arrays of a ranks file: `t2v.better`, `t2v.tied`, … and `v2t.*`, one row a query."""
    return {
        f"{side}.{name}": np.ascontiguousarray(getattr(r, name))
        for side, r in zip(("t2v", "v2t"), ranks, strict=True)
        for name in ("better", "tied", "positives", "video", "gain")
    } | {"v2t.averaged": np.array([ranks[1].averaged])}


def read_ranks(path: Path) -> tuple[Ranks, Ranks]:
    """Read a ranks file. Raises DataError when it is missing or malformed."""
    arrays = _arrays(path) if path.is_file() else {}
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


def protocol_card(report: EvaluateReport | ScoresReport) -> list[str]:
    """Return the lines of a citable block of text that says how a result came about."""
    judged, gallery = report.judged, report.gallery
    about = report.subject if isinstance(report, EvaluateReport) else report
    subject = report.subject if isinstance(report, EvaluateReport) else None  # not known of a score file
    hashes = subject.data.annotations if subject else {}
    rows = [
        ("data set", (subject and subject.data.name) or "not named"),
        ("variant", subject and subject.data.variant),
        ("split", about.split or "not named"),
        ("queries", f"{about.captions} captions, {about.videos} videos"),
        ("gallery", f"{gallery.scored}/{gallery.expected} videos, {gallery.zero_filled} zero-filled"),
        ("annotations", "; ".join(f"{k} sha256 {v}" for k, v in hashes.items()) or None),
        ("t2v", "every caption is a query"),
        ("v2t protocol", judged.v2t_protocol),
        ("tie rule", judged.tie_rule if isinstance(judged, Fair) else "clip4clip (float equality)"),
        ("intervals", "95 %, bootstrap over videos" if isinstance(judged, Fair) else None),
        ("selected on", subject and subject.selected_on),
        ("method", f"{about.method} ({about.fidelity})"),
        ("backbone", subject and subject.backbone),
        ("seed", subject and subject.seed),
        ("code", f"tvr {about.tvr}, commit {(subject and subject.commit) or 'unknown'}"),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows if value is not None]


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
        t2v, v2t = dual_softmax(scores)
        forward, backward = metrics.text_to_video(t2v, video), metrics.video_to_text(v2t, video, options.v2t)
        return DualSoftmax(note=POSTS[name], **metrics.summarise(forward, backward))
    if bank is None:
        raise DataError(
            "QB-Norm needs a query bank of training captions: an array `bank` [Q, V] in the score file, or captions of "
            "the split train in the feature store"
        )
    found = metrics.summary(metrics.text_to_video(qbnorm(scores, bank), video))
    return QbNorm(note=POSTS[name], bank=len(bank), t2v=found)


def _softmax(x: Floats, *, axis: int) -> Floats:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        from safetensors.numpy import load

        return dict(load(path.read_bytes()))
    except Exception as e:
        # Two readers and their zip and header errors: whatever they raise, the file is not a score file.
        if str(e) in ("'BF16'", "'F8_E4M3'", "'F8_E5M2'"):
            raise DataError(f"{str(path)!r} holds numbers of type {e}, which NumPy lacks; save them as float32") from e
        what = "npz" if path.suffix == ".npz" else "safetensors"
        raise DataError(
            f"{str(path)!r} is not a readable {what} file ({reason(e)[:80]}); write one with "
            "np.savez('scores.npz', scores=…, video_of_caption=…)"
        ) from e
