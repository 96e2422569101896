"""Answering text queries from an index: candidates, the method's own score of them, and where in the video.

Methods score pairs. Where it is cheap enough every clip is scored, else what a cheaper stage leaves (`way.py`); of
its places half are for the best clips of different files, so that one long film crowds out nobody. `exhaustive`
scores every clip. A clip's moment stands where the clip stands; a file has several, which do not overlap, or only its
best (`hits.py`). On films by time a clip may have several moments, of which each has the clip's score. What is shown is
verified first; of clips with equal scores the one with the smaller id stands first, so that an answer does not depend
on the order in which clips came into the index.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tvr_cli.engine.searching import confidence, curves
from tvr_cli.engine.searching.curves import Window
from tvr_cli.engine.searching.hits import Moment, SearchOptions, answer, best_clips, moment_of, of_files, stages
from tvr_cli.engine.searching.way import Way
from tvr_cli.methods.base import Method
from tvr_cli.results.found import Hit
from tvr_cli.stores.index.seam import SearchIndex
from tvr_cli.stores.index.shortlist import chosen
from tvr_cli.stores.index.store import ENCODING_ROWS, IndexedClip
from tvr_cli.types import Encoding

_SENTENCES = 1024  # answered together
Refine = Callable[[int, IndexedClip], Sequence[Moment]]
_SCORES = 2**24  # numbers of sentences x clips held at a time: 64 MB


@torch.no_grad()
def search(
    method: Method, index: SearchIndex, text: Encoding, options: SearchOptions, refine: Refine | None = None
) -> list[list[Hit]]:
    """Answer each encoded caption with up to k moments, best first. Raises DataError where a hit is damaged on disk.

    refine: finds the moments of a caption, by its number, in a clip, better than the method's weights do; none where it
    cannot.
    """
    among = None if options.only is None else index.rows(options.only)
    clips = len(index) if among is None else len(among)
    if not clips:
        return [[] for _ in range(len(text))]
    way = stages(index.measured, len(index), options)
    lines = confidence.of_index(index.measured)
    answers: list[list[Hit]] = []
    clip = functools.cache(index.clip)  # many sentences are answered with the same clips
    for some in _portions(text, max(1, min(_SENTENCES, _SCORES // len(index)))):
        every = way.shortlist >= clips
        find = _score_all if every else _score_some
        known = lines is None or (every and among is None)
        usual = None if known else usual_scores(method, index, some)
        for i, found in enumerate(find(method, index, some, way, options.k, among)):
            better = None if refine is None else functools.partial(refine, len(answers))
            hits = _answer(method, index, clip, some.rows(slice(i, i + 1)), found, options, better)
            answers.append(confidence.of_windows(lines, hits, found.scores, None if usual is None else usual[i]))
    return answers


@torch.no_grad()
def usual_scores(method: Method, index: SearchIndex, text: Encoding) -> np.ndarray:
    """Return what sentences score on average [T], by some clips from all over the index."""
    video = index.encoding(index.rows()[:: confidence.apart_by(len(index))])
    return np.asarray(np.nanmean(method.score(text, video).cpu().numpy(), 1))


@dataclass(frozen=True)
class _Scored:
    """Clips and the method's scores of them for one caption. kept: their encodings, where they were read for it."""

    rows: Tensor
    scores: np.ndarray
    kept: Encoding | None = None


def _portions(text: Encoding, size: int) -> Iterator[Encoding]:
    for start in range(0, len(text), size):
        yield text.rows(slice(start, start + size))


def _score_all(
    method: Method, index: SearchIndex, text: Encoding, way: Way, k: int, among: Tensor | None
) -> Iterator[_Scored]:
    kept = None
    if len(index if among is None else among) <= ENCODING_ROWS:
        rows = index.rows() if among is None else among
        kept = index.encoding(rows)
        scores = method.score(text, kept).cpu().numpy()
    else:
        rows, scores = _over_blocks(index, None, lambda video: method.score(text, video), among)
    for one in scores:
        yield _Scored(rows, one, kept)


def _score_some(
    method: Method, index: SearchIndex, text: Encoding, way: Way, k: int, among: Tensor | None
) -> Iterator[_Scored]:
    """Score for each caption the clips that the stages before leave for it."""
    for i, rows in enumerate(candidates(method, index, text, way, k, among)):
        one = text.rows(slice(i, i + 1))
        if len(rows) <= ENCODING_ROWS:
            kept = index.encoding(rows)
            yield _Scored(rows, method.score(one, kept)[0].cpu().numpy(), kept)
        else:
            yield _Scored(rows, score_of(method, index, one, rows))


def score_of(method: Method, index: SearchIndex, one: Encoding, rows: Tensor) -> np.ndarray:
    """Return the method's scores [N] of one sentence and some clips."""
    parts = [method.score(one, index.encoding(part))[0].cpu() for part in rows.split(ENCODING_ROWS)]
    return np.asarray(torch.cat(parts).numpy())


def candidates(
    method: Method, index: SearchIndex, text: Encoding, way: Way, k: int, among: Tensor | None = None
) -> Iterator[Tensor]:
    """Yield the rows [N] that the method is to score, ascending, for each caption; among: of these, None = of all."""
    width = way.shortlist
    if way.first == "rough" and method.rough_needs:
        rows, rough = _over_blocks(index, method.rough_needs, lambda video: method.rough(text, video), among)
        files = index.files(rows).numpy()
        for one in rough:
            yield rows[torch.from_numpy(chosen(one, files, width, of_files(width, k)))].sort().values
        return
    between = max(way.prefilter, width) if method.rough_needs else width
    near = index.candidates(method.coarse(text).cpu(), between, of_files(between, k), among)
    for i, rows in enumerate(near):
        if between > width:
            rows = rows.sort().values
            parts = (index.encoding(part, method.rough_needs) for part in rows.split(ENCODING_ROWS))
            one = text.rows(slice(i, i + 1))
            rough = torch.cat([method.rough(one, part)[0].cpu() for part in parts]).numpy()
            rows = rows[torch.from_numpy(chosen(rough, index.files(rows).numpy(), width, of_files(width, k)))]
        yield rows.sort().values


def _over_blocks(
    index: SearchIndex, names: Sequence[str] | None, score: Callable[[Encoding], Tensor], among: Tensor | None
) -> tuple[Tensor, np.ndarray]:
    """Return the rows [V] of all clips, or of those `among` them, and scores [T, V] of them, block by block."""
    blocks = (
        index.blocks(names)
        if among is None
        else ((rows, index.encoding(rows, names)) for rows in among.split(ENCODING_ROWS))
    )
    found = [(rows, score(video).cpu()) for rows, video in blocks]
    return torch.cat([rows for rows, _ in found]), torch.cat([scores for _, scores in found], 1).numpy()


def _answer(
    method: Method,
    index: SearchIndex,
    clip_of: Callable[[int], IndexedClip],
    text: Encoding,
    scored: _Scored,
    options: SearchOptions,
    better: Callable[[IndexedClip], Sequence[Moment]] | None,
) -> list[Hit]:
    rows, scores, kept = scored.rows, scored.scores, scored.kept

    def moments(some: Sequence[tuple[int, IndexedClip]]) -> list[Sequence[Moment]]:
        known = {} if better is None else {p: there for p, clip in some if (there := better(clip))}
        others = [(position, clip) for position, clip in some if position not in known]
        found: dict[int, Sequence[Moment]] = {**known, **weighed(others)}
        return [found[position] for position, _ in some]

    def weighed(some: Sequence[tuple[int, IndexedClip]]) -> dict[int, list[Moment]]:
        if not some:
            return {}
        at = torch.tensor([position for position, _ in some])
        # A shortlist is read once; of a search through every clip only the hits are read again.
        video = kept.rows(at) if kept is not None else index.encoding(rows[at])
        weights = method.explain(text, video)[0].float().cpu().numpy()  # [hits, F]
        return {
            position: [moment_of(weight[: len(clip.ts)], np.array(clip.ts), clip.start, clip.end)]
            for (position, clip), weight in zip(some, weights, strict=True)
        }

    seen: dict[str, int] = {}
    best = best_clips(index.files(rows), curves.noting(clip_of, seen), rows, scores, options)
    hits = answer(best, scores, moments, options)
    if not options.curves:
        return hits
    return curves.drawn(hits, scores, seen, lambda row: windows(method, index, text, clip_of, row))


def windows(
    method: Method, index: SearchIndex, text: Encoding, clip_of: Callable[[int], IndexedClip], row: int
) -> list[Window]:
    """Return all clips of the file that a row is of, with the scores and weights of one encoded caption."""
    every = index.rows()
    rows = every[index.files(every) == index.files(torch.tensor([row]))]
    video = index.encoding(rows)
    scores, weights = method.score(text, video)[0].tolist(), method.explain(text, video)[0].float().cpu().numpy()
    clips = [clip_of(int(one)) for one in rows]
    return [Window(c, s, w[: len(c.ts)]) for c, s, w in zip(clips, scores, weights, strict=True)]
