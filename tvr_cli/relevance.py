"""Judging by relevance: several right answers a query, graded. numpy only.

`metrics` knows one right video a caption. Here a file says which items answer a query, and how well (TREC's qrels). A
tie is never decided by position either: every number is the expectation over all orders of tied items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvr_cli.errors import DataError
from tvr_cli.files import sha256_file
from tvr_cli.metrics import NDCG_CUTOFF, Floats, Scores

CUTOFFS = (1, 5, 10)
_FORM = "expected lines of QUERY 0 ITEM GRADE, or QUERY ITEM GRADE, such as `q7 0 video12 1`"


@dataclass(frozen=True)
class Qrels:
    """What answers what: query id -> item id -> grade (0 = looked at and wrong). sha256: of the file."""

    grades: Mapping[str, Mapping[str, float]]
    sha256: str


def read_qrels(path: Path) -> Qrels:
    """Read a qrels file. Raises DataError that names the line."""
    if not path.is_file():
        raise DataError(f"expected a file of relevance judgements at {str(path)!r}, found none")
    grades: dict[str, dict[str, float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        parts = line.split("\t") if "\t" in line else line.split()
        if not parts:
            continue
        try:
            query, item, grade = parts if len(parts) == 3 else (parts[0], parts[2], parts[3])
            value = float(grade)
        except (ValueError, IndexError):
            raise DataError(f"{path}:{number}: {_FORM}; found {line[:60]!r}") from None
        if len(parts) > 4 or not 0 <= value < np.inf:
            raise DataError(f"{path}:{number}: {_FORM}, the grade 0 or more; found {line[:60]!r}")
        if item in grades.setdefault(query, {}):
            raise DataError(f"{path}:{number}: the item {item!r} of the query {query!r} stands here a second time")
        grades[query][item] = value
    return Qrels(grades, sha256_file(path))


def grades_of(qrels: Qrels, captions: Sequence[str], videos: Sequence[str]) -> Floats:
    """Return [T, V] grades; a pair that nobody judged has none. Raises DataError for ids that are not there."""
    row = {name: i for i, name in enumerate(captions)}
    column = {name: i for i, name in enumerate(videos)}
    unknown = [q for q in qrels.grades if q not in row]
    lost = [v for items in qrels.grades.values() for v in items if v not in column]
    for what, found, known in (("caption", unknown, captions), ("video", lost, videos)):
        if found:
            raise DataError(
                f"--qrels names {len(found)} {what} ids that were not scored (first: {found[0]!r}); scored were "
                f"{len(known)}, such as {known[0]!r}"
            )
    grades = np.zeros((len(captions), len(videos)))
    for query, items in qrels.grades.items():
        for item, grade in items.items():
            grades[row[query], column[item]] = grade
    return grades


def judged(scores: Scores, grades: Floats) -> tuple[dict[str, float], int]:
    """Return recall@k, nDCG@10 and mAP in percent, and how many queries they average: those with a right answer.

    scores, grades: [N, M]. recall@k: the share of a query's right items (grade above 0) among the first k. nDCG: the
    gain of an item is its grade. An item that scores -inf was not found: it has no place at all. A file without any
    right answer gives nothing to average: 0 queries, no numbers.
    """
    rows = np.flatnonzero((grades > 0).any(1))
    found = [_query(scores[n], grades[n]) for n in rows]
    if not found:
        return {}, 0
    return {name: 100.0 * float(np.mean([one[name] for one in found])) for name in found[0]}, len(rows)


def _query(scores: Floats, grades: Floats) -> dict[str, float]:
    order = np.argsort(-scores, kind="stable")
    placed = scores[order][np.isfinite(scores[order])]
    last = np.append(placed[1:] != placed[:-1], True)[: len(placed)]
    ends = np.flatnonzero(last) + 1  # of every run of equal scores
    right = grades[order] > 0
    total, done, above, precision = int(right.sum()), 0, 0, 0.0
    expected = np.zeros((2, len(order)))  # at each place: the expected share of a right item, the expected gain
    for end in ends.tolist():
        size, hits = end - done, int(right[done:end].sum())
        expected[0, done:end] = hits / size
        expected[1, done:end] = grades[order[done:end]].mean()
        if hits:
            # At place j of the run stands a right one with chance hits / size, and of the others some before it.
            j = np.arange(size)
            others = j * (hits - 1) / (size - 1) if size > 1 else j
            precision += float((hits / size * (above + 1 + others) / (done + j + 1)).sum())
        above, done = above + hits, end
    discount = 1.0 / np.log2(np.arange(min(NDCG_CUTOFF, len(order))) + 2.0)
    best = np.sort(grades)[::-1][: len(discount)]
    recalls = {f"recall@{k}": float(expected[0, :k].sum()) / total for k in CUTOFFS}
    gain = float(expected[1, : len(discount)] @ discount) / float(best @ discount)
    return {**recalls, f"nDCG@{NDCG_CUTOFF}": gain, "mAP": precision / total}
