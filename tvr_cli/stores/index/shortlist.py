"""Which clips go on to the next stage, and in which order they are answers: arrays in, positions out. numpy alone.

A film that was cut into hundreds of windows must not crowd out every other file, so half of a shortlist's places are
for the best clip of different files, and the others for whatever scores best. Scores that are no number come last.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_SORTED_AT_FIRST = 1024


def chosen(scores: np.ndarray, files: np.ndarray, n: int, of_files: int) -> np.ndarray:
    """Return the positions, best first, of the `n` best scores, but of `of_files` different files where there are so
    many.

    scores: [V]   files: [V], equal numbers are one file.
    """
    scores = _comparable(scores)
    if n >= len(scores):
        return np.argsort(-scores, kind="stable")
    best = _largest(scores, n)
    if of_files > 1 and len(np.unique(files[best])) < of_files:
        first = best_of_files(scores, files)
        first = first[_largest(scores[first], min(of_files, len(first)))]
        others = scores.copy()
        others[first] = -np.inf
        more = n - len(first)
        best = np.concatenate([first, _largest(others, more)]) if more > 0 else first
    return best[np.argsort(-scores[best], kind="stable")]


def best_of_files(scores: np.ndarray, files: np.ndarray) -> np.ndarray:
    """Return the position of the best clip of each file, in the order of the files' numbers."""
    numbers, at = np.unique(files, return_inverse=True)
    best = np.full(len(numbers), -np.inf, scores.dtype)
    np.maximum.at(best, at, scores)
    positions = np.flatnonzero(scores == best[at])
    found = np.empty(len(numbers), np.int64)
    found[at[positions[::-1]]] = positions[::-1]  # of equal clips the first
    return found


def in_order(scores: np.ndarray) -> Iterator[int]:
    """Yield the positions of scores [V], best first, equal ones by position; no more is sorted than is asked for."""
    scores = _comparable(scores)
    rest = np.arange(len(scores))
    if len(scores) > 4 * _SORTED_AT_FIRST:
        line = np.partition(scores, len(scores) - _SORTED_AT_FIRST)[len(scores) - _SORTED_AT_FIRST]
        first, rest = np.flatnonzero(scores >= line), np.flatnonzero(scores < line)
        yield from first[np.argsort(-scores[first], kind="stable")].tolist()
    yield from rest[np.argsort(-scores[rest], kind="stable")].tolist()


def _largest(scores: np.ndarray, n: int) -> np.ndarray:
    """Return the positions of the `n` largest, in no order."""
    return np.argpartition(scores, len(scores) - n)[len(scores) - n :] if n < len(scores) else np.arange(len(scores))


def _comparable(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(scores), -np.inf, scores) if np.isnan(scores).any() else scores
