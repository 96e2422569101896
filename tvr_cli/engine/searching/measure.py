"""What the stages of a search cost and what they miss, measured on an index before it counts: its way and its recall.

Costs are those of one sentence on this machine. Where not every clip can be scored, sentences are scored against all
clips (or as many as the time allows), and each stage is made as wide as it takes to find the same files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tvr_cli.engine import scorers
from tvr_cli.engine.searching.hits import of_files
from tvr_cli.engine.searching.way import LEAST, Way, unmeasured
from tvr_cli.methods.base import Method
from tvr_cli.stores.index.shortlist import best_of_files, chosen
from tvr_cli.stores.index.store import ENCODING_ROWS, Index
from tvr_cli.types import Encoding, TextFeatures

EVERY_S = 0.030  # a sentence may cost so much before not every clip is scored
ROUGH_S = 0.020  # ... and before `rough` does not see every clip
BUILD_SHARE = 0.1  # of the time that building took
BEST = 10
DEPTHS = (1, 10, 50)  # files of an answer that recall is told for
LOW = 0.98  # recall below which a command says what mends it
_WANTED = 0.995  # recall that a stage is made wide enough for
_MARGIN = 2  # a stage is so much wider than what was enough: other sentences need other clips
_FEW = 2 * BEST  # clips of a shortlist from another store, where the search for the width begins
_FEWEST_SENTENCES = 12
_FEWEST_CLIPS = 1_000
_MOST_PAIRS = 2**24  # 64 MB a stage
_TIMED_ROWS = 1024
_TIMES = 3

Sentences = Callable[[], tuple[Encoding | None, str]]


@dataclass(frozen=True)
class Recall:
    """The share of the best files of all clips that a search finds. at: files of an answer -> share.

    sentences: that it was measured with, of: what they are. clips: that were scored, a sample where the index has more.
    mends: the --shortlist with which 99 % would be found, None where they are.
    """

    at: Mapping[str, float]
    sentences: int
    of: str
    clips: int
    mends: int | None = None

    @property
    def best(self) -> float:
        """Recall of the ten best files, or of as many as there are."""
        return self.at[str(BEST)]


@dataclass(frozen=True)
class _Stages:
    """Scores [T, n] of the same sentences and clips by each stage. files: [n]. share: of the index that n clips are."""

    exact: np.ndarray
    rough: np.ndarray | None
    coarse: np.ndarray
    files: np.ndarray
    share: float

    def clips(self, width: int) -> int:
        """Return how many of these clips a stage of so many clips of the index keeps."""
        return max(1, math.ceil(width * self.share))


@torch.no_grad()
def measured(
    method: Method, index: Index, sentences: Sentences, *, seconds: float, two_stores: bool = False
) -> tuple[Way, Recall | None]:
    """Return how an index is best searched, and what that misses; None where nothing could be measured.

    sentences: gives encodings, called only where not every clip is scored. seconds: that measuring may take.
    two_stores: another encoder finds the candidates. That was asked for, so it does however cheap a score is, and its
    shortlist begins at a few clips.
    """
    clips = len(index)
    if not clips:
        return unmeasured(0), None
    one = _made_up(method)
    cost = _seconds_a_clip(index, None, lambda video: method.score(one, video))
    if not two_stores and (clips <= LEAST or clips * cost <= EVERY_S):
        return _every(clips)
    least = _FEW if two_stores else LEAST
    names = method.rough_needs
    cheap = _seconds_a_clip(index, names, lambda video: method.rough(one, video)) if names else math.inf
    first = "rough" if clips * cheap <= ROUGH_S else "coarse"
    texts, of = sentences()
    if texts is None:
        return Way(first, clips, unmeasured(clips).shortlist), None  # type: ignore[arg-type]
    stages = _stages(method, index, texts, seconds / cost)
    way = _wide_enough(stages, first, clips, least)
    if way.shortlist > clips // 2 and not two_stores:
        return _every(clips)
    at = {str(k): _recall(stages, way, k) for k in DEPTHS}
    mends = None
    if at[str(BEST)] < LOW:
        mends = _doubled(way.shortlist, clips, lambda n: _recall(stages, _with(way, n), BEST) >= 0.99)
    return way, Recall(at, len(stages.exact), of, stages.exact.shape[1], mends)


def _every(clips: int) -> tuple[Way, Recall]:
    return Way("every", clips, clips), Recall({str(k): 1.0 for k in DEPTHS}, 0, "every clip is scored", clips)


def _with(way: Way, shortlist: int) -> Way:
    return Way(way.first, way.clips, shortlist, max(way.prefilter, shortlist) if way.prefilter else 0)


def _made_up(method: Method) -> Encoding:
    """Encode a sentence of random numbers: what a score costs does not depend on them."""
    words, dim = max(1, method.sizes.words), method.sizes.dim
    tokens = torch.randn(1, words, dim, generator=torch.Generator().manual_seed(0))
    marks, n_tokens = torch.ones(1, words, dtype=torch.uint8), torch.full((1,), words)
    text = TextFeatures(torch.zeros(1, dtype=torch.int64), tokens[:, -1], tokens, n_tokens, marks)
    return scorers.encode_texts(method, text)


def _seconds_a_clip(index: Index, names: tuple[str, ...] | None, score: Callable[[Encoding], Tensor]) -> float:
    """Return what one sentence costs a clip, reading included: the best of some passes over the first clips."""
    best = math.inf
    for _ in range(_TIMES):
        seen, wall, processor = 0, time.perf_counter(), time.process_time()
        for rows, video in index.blocks(names):
            score(video)
            seen += len(rows)
            if seen >= _TIMED_ROWS:
                break
        # On a busy machine waiting is not the search's; of several threads the processor time is not what is waited.
        best = min(best, (time.perf_counter() - wall) / seen, (time.process_time() - processor) / seen)
    return best


def _stages(method: Method, index: Index, texts: Encoding, pairs: float) -> _Stages:
    """Score as many sentences and clips as fit into a number of pairs by each stage."""
    pairs = int(min(pairs, _MOST_PAIRS))
    count = min(len(texts), max(_FEWEST_SENTENCES, pairs // len(index)))
    texts = texts.rows(slice(None, None, max(1, len(texts) // count))).rows(slice(0, count))
    rows = index.rows()
    rows = rows[:: max(1, -(-len(rows) // max(_FEWEST_CLIPS, pairs // len(texts))))]
    vectors, found = method.coarse(texts).float(), []
    for part in rows.split(ENCODING_ROWS):
        video = index.encoding(part).to(scorers.device_of(method))
        coarse = vectors @ method.coarse(video).float().T
        rough = method.rough(texts, video) if method.rough_needs else coarse
        found.append((method.score(texts, video).cpu(), rough.cpu(), coarse.cpu()))
    exact, rough_scores, near = (torch.cat(parts, 1).numpy() for parts in zip(*found, strict=True))
    share = len(rows) / len(index)
    return _Stages(exact, rough_scores if method.rough_needs else None, near, index.files(rows).numpy(), share)


def _wide_enough(stages: _Stages, first: str, clips: int, least: int) -> Way:
    """Return the narrowest way, by doubling, that keeps the best files."""

    def enough(**widths: int) -> bool:
        return _recall(stages, Way(first, clips, **widths), BEST) >= _WANTED  # type: ignore[arg-type]

    if first == "rough" or stages.rough is None:
        return Way(first, clips, _doubled(least, clips, lambda n: enough(shortlist=n), _MARGIN))  # type: ignore[arg-type]
    between = _doubled(least, clips, lambda n: enough(shortlist=n), 2 * _MARGIN)
    wide = _doubled(least, between, lambda n: enough(shortlist=n, prefilter=between), _MARGIN)
    return Way("coarse", clips, wide, between)


def _doubled(least: int, most: int, enough: Callable[[int], bool], margin: int = 1) -> int:
    """Return `least`, doubled until it is enough, times the margin, but not above `most`."""
    n = least
    while n < most and not enough(n):
        n *= 2
    return min(n * margin, most)


def _recall(stages: _Stages, way: Way, k: int) -> float:
    """Return the share of each sentence's k best files that a way finds."""
    found = wanted = 0
    for i, exact in enumerate(stages.exact):
        at = _kept(stages, way, i, k)
        true, answer = _best_files(exact, stages.files, k), _best_files(exact[at], stages.files[at], k)
        found, wanted = found + len(true & answer), wanted + len(true)
    return found / max(1, wanted)


def _kept(stages: _Stages, way: Way, sentence: int, k: int) -> np.ndarray:
    """Return the positions that the stages before the method's score leave for a sentence."""
    width = max(k, stages.clips(way.shortlist))
    if way.first == "rough" and stages.rough is not None:
        return chosen(stages.rough[sentence], stages.files, width, of_files(width, k))
    between = max(width, stages.clips(way.prefilter))
    at = chosen(stages.coarse[sentence], stages.files, between, of_files(between, k))
    if stages.rough is None or between <= width:
        return at
    return at[chosen(stages.rough[sentence][at], stages.files[at], width, of_files(width, k))]


def _best_files(scores: np.ndarray, files: np.ndarray, k: int) -> set[int]:
    best = best_of_files(scores, files)
    return set(files[best[np.argsort(-scores[best], kind="stable")[:k]]].tolist())
