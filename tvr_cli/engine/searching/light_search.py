"""`search.py` in numpy, for methods whose score is a few matrix products (`methods/_light.py`).

The same stages, the same order, the same spans; two stages at most, because these methods have no rough score.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tvr_cli.engine.searching import confidence, curves
from tvr_cli.engine.searching.curves import Window
from tvr_cli.engine.searching.hits import Moment, SearchOptions, answer, best_clips, moment_of, of_files, stages
from tvr_cli.methods._light import LightMethod
from tvr_cli.results.found import Hit
from tvr_cli.stores.index.arrays import ArrayIndex
from tvr_cli.stores.index.segment import ENCODING_ROWS, IndexedClip
from tvr_cli.stores.index.shortlist import chosen

_SCORES = 2**24  # numbers of sentences x clips held at a time: 64 MB
_SENTENCES = 128  # answered together: text-guided pooling holds one number a frame slot of a block for each


def search(method: LightMethod, index: ArrayIndex, text: np.ndarray, options: SearchOptions) -> list[list[Hit]]:
    """Answer sentences, by their pooled features [T, D], with up to k moments each, best first.

    Raises DataError where a hit is damaged on disk.
    """
    among = index.rows(options.only)
    if not len(among):
        return [[] for _ in text]
    way = stages(index.measured, len(index), options)
    lines = confidence.of_index(index.measured)
    size = max(1, min(_SENTENCES, _SCORES // index.head.rows))
    clip = functools.cache(index.clip)  # many sentences are answered with the same clips
    answers: list[list[Hit]] = []
    with np.errstate(all="ignore"):  # a vector without length scores as no number, which comes last
        for start in range(0, len(text), size):
            some = text[start : start + size]
            every = way.shortlist >= len(among)
            usual = None if lines is None or (every and options.only is None) else _usual_scores(method, index, some)
            if every:
                found = _score_all(method, index, some, None if options.only is None else among)
            else:
                found = _score_some(method, index, some, way.shortlist, options.k, among)
            for i, (rows, scores) in enumerate(found):
                hits = _answer(method, index, clip, some[i : i + 1], rows, scores, options)
                answers.append(confidence.of_windows(lines, hits, scores, None if usual is None else usual[i]))
    return answers


def _usual_scores(method: LightMethod, index: ArrayIndex, text: np.ndarray) -> np.ndarray:
    """Return what sentences score on average [T], by some clips from all over the index."""
    rows = index.rows()[:: confidence.apart_by(len(index))]
    return np.asarray(np.nanmean(method.score(text, index.encoding(rows, method.scores_with)), 1))


def _score_all(
    method: LightMethod, index: ArrayIndex, text: np.ndarray, among: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each sentence the rows [V] of all clips, or of those `among` them, and their scores [V]."""
    names = method.scores_with
    blocks = index.blocks(names) if among is None else ((rows, index.encoding(rows, names)) for rows in _parts(among))
    found = [(rows, method.score(text, video)) for rows, video in blocks]
    rows = np.concatenate([rows for rows, _ in found])
    yield from ((rows, scores) for scores in np.concatenate([scores for _, scores in found], 1))


def _score_some(
    method: LightMethod, index: ArrayIndex, text: np.ndarray, width: int, k: int, live: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each sentence the rows of the `width` clips whose coarse vectors are nearest, and their scores.

    live: the rows that may be found.
    """
    names = method.scores_with
    for one, near in zip(text, index.products(method.coarse(text)), strict=True):
        rows = np.sort(live[chosen(near[live], index.file_numbers[live], width, of_files(width, k))])
        yield rows, np.concatenate([method.score(one[None], index.encoding(part, names))[0] for part in _parts(rows)])


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + ENCODING_ROWS] for start in range(0, len(rows), ENCODING_ROWS))


def _answer(
    method: LightMethod,
    index: ArrayIndex,
    clip_of: Callable[[int], IndexedClip],
    text: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
    options: SearchOptions,
) -> list[Hit]:
    def moments(some: Sequence[tuple[int, IndexedClip]]) -> list[list[Moment]]:
        video = index.encoding(rows[[position for position, _ in some]], method.explains_with)
        weights = method.explain(text, video)
        return [
            [moment_of(weight[: len(clip.ts)], np.array(clip.ts), clip.start, clip.end)]
            for (_, clip), weight in zip(some, weights, strict=True)
        ]

    seen: dict[str, int] = {}
    best = best_clips(index.file_numbers[rows], curves.noting(clip_of, seen), rows, scores, options)
    hits = answer(best, scores, moments, options)
    if not options.curves:
        return hits
    return curves.drawn(hits, scores, seen, lambda row: _windows(method, index, text, clip_of, row))


def _windows(
    method: LightMethod, index: ArrayIndex, text: np.ndarray, clip_of: Callable[[int], IndexedClip], row: int
) -> list[Window]:
    """Return all clips of the file that a row is of, with the scores and weights of one sentence."""
    every = index.rows()
    rows = every[index.file_numbers[every] == index.file_numbers[row]]
    scores = method.score(text, index.encoding(rows, method.scores_with))[0].tolist()
    weights = method.explain(text, index.encoding(rows, method.explains_with))
    clips = [clip_of(int(one)) for one in rows]
    return [Window(c, s, w[: len(c.ts)]) for c, s, w in zip(clips, scores, weights, strict=True)]
