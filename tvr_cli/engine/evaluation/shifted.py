"""Does the score of a pair depend on who else is scored? Two matrices of the same code say. numpy only.

A score of a caption and a video is a function of these two. Code that pools each candidate video with its own
caption, in place of the query, scores something else, and shows it: shift the captions by one, or leave out videos, and
the score of a pair changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvr_cli.engine.evaluation.score_file import read_scores
from tvr_cli.errors import DataError
from tvr_cli.metrics import Floats, Scores
from tvr_cli.results.base import Result

_ROUNDING = 0.02  # of the scores' standard deviation: half precision of logits stays below
_PAIRS = 0.001  # so few pairs may change more: top-k choices and masks tip over


@dataclass(frozen=True, kw_only=True)
class ShiftReport(Result):
    """Two score matrices, pair by pair.

    how: what was found to be done to the second one. pairs: set beside each other. changed: how many of them have
    another score. largest: the largest change, and median: that in the middle, in standard deviations of the scores.
    """

    schema = "audit"
    how: str
    pairs: int
    changed: int
    largest: float
    median: float
    depends: bool
    verdict: str


def audit_shifted(scores: Path, shifted: Path) -> ShiftReport:
    """Compare a score file with one of the same code: captions shifted by one, or only the first of them or of videos.

    Raises DataError for what is no score file, for a second matrix that is larger, and for the same one again.
    """
    a, b = read_scores(scores).scores, read_scores(shifted).scores
    if len(b) > len(a) or b.shape[1] > a.shape[1]:
        raise DataError(
            f"--scores-shifted: expected at most the captions and videos of --scores {a.shape}, found {b.shape}; give "
            "the larger matrix as --scores"
        )
    spread = float(a.std())
    if spread == 0.0:
        raise DataError(f"--scores: every score of {str(scores)!r} is the same, so nothing can depend on anything")
    if a.shape == b.shape and bool((np.abs(a.astype(np.float64) - b) <= _ROUNDING * spread).all()):
        raise DataError(
            "--scores-shifted: expected captions that were shifted by one, or fewer captions or videos; found the "
            "matrix of --scores once more, which shows nothing"
        )
    how, change = min(_candidates(a, b, spread), key=lambda found: float(np.median(found[1])))
    changed = int((change > _ROUNDING).sum())
    depends = changed > _PAIRS * change.size
    largest, median = float(change.max()), float(np.median(change))
    return ShiftReport(
        how=how,
        pairs=change.size,
        changed=changed,
        largest=largest,
        median=median,
        depends=depends,
        verdict=_verdict(how, change.size, changed, largest, depends),
    )


def _candidates(a: Scores, b: Scores, spread: float) -> list[tuple[str, Floats]]:
    """Return every way in which the second matrix may have been made, and the change of each pair under it."""
    videos = b.shape[1]
    fewer = "" if a.shape == b.shape else f"with the first {len(b)} captions and {videos} videos"
    ways = {fewer: a[: len(b), :videos]} if fewer else {}
    if len(a) == len(b) and len(a) > 1:
        for step, name in ((-1, "up"), (1, "down")):
            ways[f"{fewer and fewer + ', '}captions shifted {name} by one"] = np.roll(a, step, 0)[:, :videos]
    return [(how, np.abs(one.astype(np.float64) - b) / spread) for how, one in ways.items()]


def _verdict(how: str, pairs: int, changed: int, largest: float, depends: bool) -> str:
    if not depends:
        return (
            f"{how}: {pairs - changed} of {pairs} pairs keep their score, so a pair's score does not depend on the "
            "other captions and videos here"
        )
    return (
        f"{how}: {changed} of {pairs} pairs have another score, by up to {largest:.2g} standard deviations, so a "
        "pair's score depends on what else is scored. Known causes: a candidate video pooled with its own caption in "
        "place of the query (docs/evaluation.md), padding to the longest of a batch, noise that is not seeded by "
        "the pair; such scores are not comparable with a retrieval setting"
    )
