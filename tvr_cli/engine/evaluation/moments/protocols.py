"""Which numbers each format of truth has, and whose counting each is. numpy only.

Every number is a statistic over the queries of the truth, in its order, so that an interval and a query-blind prior can
be had for each by the same code. `of` names whose counting a number repeats; `tvr` marks what is tvr's own.

- QVHighlights (`standalone_eval/eval.py` of jayleicn/moment_detr): the first 10 windows as listed; R1 is the first
  listed one against its best true one, at an overlap of at least so much; AP takes the ten by their scores; mAP is the
  mean over queries and over overlaps of .50 to .95; short, middle and long are true windows of (0, 10], (10, 30] and
  (30, 150] seconds, and the queries that have one.
- Charades-STA (`main.py` of jiyanggao/TALL): R@n, one of the first n overlaps by at least so much. Its code thins its
  own candidates out before; here they count as listed.
- ActivityNet Captions (2D-TAN): R@n, one of the first n overlaps by more than so much; mIoU of the first.
- DiDeMo and TVR-Ranking: `segments.py`, `graded.py`.
- No, one or many moments ("Generalized moment retrieval", arXiv 2605.02623, `eval/metrics.py` of its code): on queries
  that are there mR@k, mR+@k (of queries with two or more, without the first), mIoU@k and mAP; on all of them AUROC,
  Rej-F1 at 0.4 and 0.6, and G-mIoU@k, answers with a confidence of 0.4 or less counting as none.
- One's own truth asks a whole library: the same numbers, with moments of other videos overlapping nothing. There an
  answer without moments is the no, whatever its confidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tvr_cli.data.truth.question import Format, Moment, Question, Truth
from tvr_cli.engine.evaluation.moments import graded, segments
from tvr_cli.engine.evaluation.moments.answers import Answer
from tvr_cli.engine.evaluation.moments.spans import average_precisions, matched, overlaps
from tvr_cli.engine.evaluation.moments.statistics import Auroc, Mean, Median, RejectionF1, Statistic
from tvr_cli.metrics import Floats

LISTED = 10
OVERLAPS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
CUTOFFS = (1, 3, 5)
CONFIDENCES = (0.4, 0.6)
_SPAN_S = {"short": (0.0, 10.0), "middle": (10.0, 30.0), "long": (30.0, 150.0)}
_QVHIGHLIGHTS = "QVHighlights"
_GENERALIZED = "arXiv 2605.02623"
_OWN = "tvr"


@dataclass(frozen=True)
class Counted:
    """A number, its name, whose counting it is, and what it is in: percent or seconds."""

    name: str
    of: str
    statistic: Statistic
    unit: str = "percent"

    @property
    def value(self) -> float:
        """Return the number itself, NaN where no query has it."""
        size = len(next(iter(vars(self.statistic).values())))
        return float(self.statistic(np.ones((1, size)))[0])


@dataclass(frozen=True)
class _Pair:
    """A question, its answer, and how the listed moments overlap the true ones: [P, G], P of LISTED at most."""

    question: Question
    answer: Answer
    iou: Floats

    @property
    def there(self) -> bool:
        return bool(self.question.moments)

    @property
    def listed(self) -> tuple[Moment, ...]:
        return self.answer.moments[:LISTED]


def counted(truth: Truth, answers: Sequence[Answer]) -> list[Counted]:
    """Return the numbers of a format. answers: one a question, in its order, of the video that was asked alone."""
    pairs = [
        _Pair(question, answer, overlaps(answer.moments[:LISTED], question.moments))
        for question, answer in zip(truth.questions, answers, strict=True)
    ]
    return _PROTOCOLS[truth.format](pairs)


# ------------------------------------------------------------------------------------------------------- the protocols


def _jsonl(pairs: Sequence[_Pair]) -> list[Counted]:
    there = [p for p in pairs if p.there]
    found = [Counted(f"R1@{least}", _OWN, _mean(pairs, _first_at(least))) for least in (0.5, 0.7)]
    found.append(Counted("edge", _OWN, Median(_column(pairs, _edge)), "seconds"))
    found += _localized(pairs, f"{_GENERALIZED}, over a library") if there else []
    if len(there) == len(pairs):
        return found
    absent = np.array([not p.there for p in pairs])
    refused = np.array([not p.answer.moments for p in pairs])
    found += [
        Counted("refused", _OWN, _mean(pairs, lambda p: None if p.there else not p.answer.moments)),
        Counted("answered", _OWN, _mean(pairs, lambda p: bool(p.answer.moments) if p.there else None)),
        Counted("Rej-F1", f"{_GENERALIZED}, as answered", RejectionF1(absent, refused)),
        Counted("AUROC", _GENERALIZED, Auroc(absent, _existence(pairs))),
    ]
    return found + _sets(pairs, f"{_GENERALIZED}, as answered", lambda p: p.listed)


def _qvhighlights(pairs: Sequence[_Pair]) -> list[Counted]:
    there = [p for p in pairs if p.there]
    found = [Counted(f"R1@{least}", _QVHIGHLIGHTS, _mean(pairs, _first_at(least))) for least in (0.5, 0.7)]
    precision = np.stack([_precisions(p) for p in pairs])  # [N, overlaps]
    found += [
        Counted(f"mAP@{least}", _QVHIGHLIGHTS, Mean(precision[:, OVERLAPS.index(least)])) for least in (0.5, 0.75)
    ]
    found.append(Counted("mAP", _QVHIGHLIGHTS, Mean(precision.mean(1))))
    for name, (low, high) in _SPAN_S.items():
        inside = np.stack([_precisions(_within(p, low, high)) for p in pairs])
        found.append(Counted(f"mAP {name}", _QVHIGHLIGHTS, Mean(inside.mean(1))))
    if len(there) == len(pairs):
        return found
    return found + _localized(pairs, _GENERALIZED)[1:] + _rejection(pairs)


def _charades(pairs: Sequence[_Pair]) -> list[Counted]:
    return _recalls(pairs, "Charades-STA", (0.3, 0.5, 0.7), np.greater_equal)


def _activitynet(pairs: Sequence[_Pair]) -> list[Counted]:
    return _recalls(pairs, "2D-TAN", (0.1, 0.3, 0.5, 0.7), np.greater)


def _didemo(pairs: Sequence[_Pair]) -> list[Counted]:
    ranked = [
        segments.complete(p.answer.segments) if p.answer.segments else segments.ranking_of(p.answer.moments, p.question)
        for p in pairs
    ]
    answered = [bool(p.answer.segments or p.answer.moments) for p in pairs]
    ranks = np.array([segments.rank(r, p.question.segments) for r, p in zip(ranked, pairs, strict=True)])
    shares = np.array([segments.overlap(r[0], p.question.segments) for r, p in zip(ranked, pairs, strict=True)])
    held = np.array(answered)
    columns = {"Rank@1": ranks <= 1, "Rank@5": ranks <= 5, "mIoU": shares}
    return [Counted(name, "DiDeMo", Mean(np.where(held, column, 0.0))) for name, column in columns.items()]


def _tvr_ranking(pairs: Sequence[_Pair]) -> list[Counted]:
    tables = {
        least: np.array([graded.ndcg(p.answer.moments, p.question.moments, least) for p in pairs])
        for least in graded.OVERLAPS
    }
    return [
        Counted(f"NDCG@{k}, IoU>{least}", "TVR-Ranking", Mean(tables[least][:, i]))
        for i, k in enumerate(graded.CUTOFFS)
        for least in graded.OVERLAPS
    ]


_PROTOCOLS: dict[Format, Callable[[Sequence[_Pair]], list[Counted]]] = {
    "jsonl": _jsonl,
    "qvhighlights": _qvhighlights,
    "charades-sta": _charades,
    "activitynet-captions": _activitynet,
    "didemo": _didemo,
    "tvr-ranking": _tvr_ranking,
}


# ---------------------------------------------------------------------------------------------------- what they count


def _recalls(
    pairs: Sequence[_Pair], of: str, levels: Iterable[float], reaches: Callable[[Floats, float], Floats]
) -> list[Counted]:
    best = {n: np.array([p.iou[:n].max(initial=0.0) for p in pairs]) for n in (1, 5)}
    found = [
        Counted(f"R@{n}, IoU={least}", of, Mean(reaches(best[n], least).astype(np.float64)))
        for n in best
        for least in levels
    ]
    return [*found, Counted("mIoU", of, Mean(best[1]))]


def _localized(pairs: Sequence[_Pair], of: str) -> list[Counted]:
    """Numbers on the queries that are there: mAP, then mR@k, mR+@k, mIoU@k."""
    found = [Counted("mAP", of, Mean(np.stack([_precisions(p) for p in pairs]).mean(1)))]
    for k in CUTOFFS:
        hits = [[len(matched(p.iou[:k], least)) for least in OVERLAPS] if p.there else [] for p in pairs]
        parts = [
            np.mean(row) / len(p.question.moments) if p.there else None for row, p in zip(hits, pairs, strict=True)
        ]
        found.append(Counted(f"mR@{k}", of, _mean_of(parts)))
        if k > 1:
            more = [
                np.mean(np.maximum(np.array(row) - 1, 0)) / (len(p.question.moments) - 1)
                if len(p.question.moments) > 1
                else None
                for row, p in zip(hits, pairs, strict=True)
            ]
            found.append(Counted(f"mR+@{k}", of, _mean_of(more)))
    for k in CUTOFFS:
        found.append(Counted(f"mIoU@{k}", of, _mean_of([_overlap_of(p, k) for p in pairs])))
    return found


def _rejection(pairs: Sequence[_Pair]) -> list[Counted]:
    """Numbers about saying no by a confidence, as arXiv 2605.02623 has them."""
    absent, score = np.array([not p.there for p in pairs]), _existence(pairs)
    found = [Counted("AUROC", _GENERALIZED, Auroc(absent, score))]
    found += [Counted(f"Rej-F1@{c}", _GENERALIZED, RejectionF1(absent, score <= c)) for c in CONFIDENCES]
    return found + _sets(pairs, _GENERALIZED, _kept)


def _sets(pairs: Sequence[_Pair], of: str, kept: Callable[[_Pair], Sequence[Moment]]) -> list[Counted]:
    """G-mIoU@k. kept: the moments of an answer that stand, none where it says no."""
    tables = [(list(kept(p)), p.question.moments) for p in pairs]
    return [
        Counted(f"G-mIoU@{k}", of, Mean(np.array([_set_overlap(found[:k], true) for found, true in tables])))
        for k in CUTOFFS
    ]


def _kept(p: _Pair) -> Sequence[Moment]:
    if p.answer.existence <= CONFIDENCES[0]:
        return ()
    return [moment for moment in p.answer.moments if moment.end > moment.start][:LISTED]


def _set_overlap(found: Sequence[Moment], true: Sequence[Moment]) -> float:
    if not found or not true:
        return float(not found and not true)
    taken = matched(overlaps(found, true), 0.0)
    return sum(taken) / (len(found) + len(true) - len(taken))


def _first(p: _Pair) -> float:
    """Return how much the first listed moment overlaps its best true one; 0 where nothing is listed."""
    return float(p.iou[0].max(initial=0.0)) if len(p.iou) else 0.0


def _first_at(least: float) -> Callable[[_Pair], bool | None]:
    """Return what says whether the first listed moment is right; None of a query that is absent."""
    return lambda p: _first(p) >= least if p.there else None


def _edge(p: _Pair) -> float | None:
    """Return by how many seconds the edges of a right first answer (IoU of half) are off, the mean of both."""
    if not p.there or _first(p) < 0.5:
        return None
    true = p.question.moments[int(p.iou[0].argmax())]
    return (abs(p.listed[0].start - true.start) + abs(p.listed[0].end - true.end)) / 2


def _overlap_of(p: _Pair, k: int) -> float | None:
    if not p.there:
        return None
    taken = matched(p.iou[:k], 0.0)
    return float(np.mean(taken)) if taken else 0.0


def _precisions(p: _Pair) -> Floats:
    """Return the average precision at each of OVERLAPS, the ten listed moments by their scores; NaN without truth."""
    if not p.there:
        return np.full(len(OVERLAPS), np.nan)
    if p.iou.max(initial=0.0) < OVERLAPS[0]:
        return np.zeros(len(OVERLAPS))
    order = np.argsort([-moment.grade for moment in p.listed], kind="stable")
    return np.array(average_precisions(p.iou[order], OVERLAPS))


def _within(p: _Pair, low: float, high: float) -> _Pair:
    """Return a pair with its true moments of more than `low` and at most `high` seconds alone."""
    inside = [i for i, m in enumerate(p.question.moments) if low < m.end - m.start <= high]
    if len(inside) == len(p.question.moments):
        return p
    question = replace(p.question, moments=tuple(p.question.moments[i] for i in inside))
    return _Pair(question, p.answer, p.iou[:, inside])


def _existence(pairs: Sequence[_Pair]) -> Floats:
    return np.array([p.answer.existence for p in pairs])


def _mean(pairs: Sequence[_Pair], value: Callable[[_Pair], float | bool | None]) -> Mean:
    return Mean(_column(pairs, value))


def _column(pairs: Sequence[_Pair], value: Callable[[_Pair], float | bool | None]) -> Floats:
    return _mean_of([value(p) for p in pairs]).values


def _mean_of(values: Sequence[float | bool | None]) -> Mean:
    return Mean(np.array([np.nan if value is None else float(value) for value in values]))
