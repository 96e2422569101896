"""Finding out what sentences score that are not there, in an index before it counts (`confidence.py` says what for).

As what else an index finds out about itself this may take a tenth of the time that building took; where that is not
enough for all sentences, fewer are asked, from all over the bank.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import torch

from tvr_cli.engine.scorers import Scorer
from tvr_cli.engine.searching import bank as banks
from tvr_cli.engine.searching import confidence, texts
from tvr_cli.engine.searching.bank import Bank, EncodeSentences
from tvr_cli.engine.searching.confidence import Confidence, Tops
from tvr_cli.engine.searching.hits import SearchOptions, stages
from tvr_cli.engine.searching.ranking import cosines_of
from tvr_cli.engine.searching.search import candidates, score_of, usual_scores
from tvr_cli.engine.searching.way import Way
from tvr_cli.errors import TvrError
from tvr_cli.methods.base import Method
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.index.store import ENCODING_ROWS, Index
from tvr_cli.stores.index.timeline import IndexedFilms
from tvr_cli.types import Encoding

_MOMENTS = 2048  # scored at a time
_TOGETHER = 64  # sentences scored at a time: some methods hold a vector a pair


def found(
    scorer: Scorer,
    store: FeatureStore,
    encode: EncodeSentences | None,
    bank: Bank,
    index: Index,
    way: Way,
    *,
    seconds: float,
) -> Confidence:
    """Find out what sentences score in an index that are not there. The method is on the CPU. seconds: as `measure`."""
    if encode is None:
        return confidence.cannot("there was no encoder of sentences when the index was made")
    strange = banks.strange(store.backbone_name)
    try:
        if index.films and texts.by_frames_alone(scorer):
            vectors = (texts.bank_vectors(scorer, store, encode, one) for one in (bank, strange))
            return of_films(index.films, *vectors, seconds=seconds)
        known, unknown = (texts.encoded_bank(scorer, store, encode, one) for one in (bank, strange))
        return of_windows(scorer.method, index, known, unknown, way, seconds=seconds)
    except TvrError as e:
        return confidence.cannot(f"no sentence could be encoded when the index was made ({e})")


def of_films(films: Sequence[IndexedFilms], bank: np.ndarray, strange: np.ndarray, *, seconds: float) -> Confidence:
    """Return the lines of an index whose moments are ranked. bank, strange: unit vectors [n, D] of sentences."""
    total = sum(int(part.live.sum()) for part in films)
    began = time.process_time()
    first = next(_scored(films, np.concatenate([bank, strange])), None)
    cost = (time.process_time() - began) / (1 if first is None else first.shape[1]) * total
    bank, strange = (x[confidence.some_of(len(x), cost, seconds)] for x in (bank, strange))
    tops = Tops(len(bank), len(strange), confidence.near_of(bank))
    for cosines in _scored(films, np.concatenate([bank, strange])):
        tops.add(cosines, against=True)
    return tops.lines()


def _scored(films: Sequence[IndexedFilms], sentences: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the cosines [T, m] of sentences with all moments, some at a time."""
    for part in films:
        file = part.array("file")
        for one in np.unique(file[part.live]).tolist():
            first, last = np.searchsorted(file, [one, one + 1])
            for start in range(first, last, _MOMENTS):
                yield cosines_of(part, np.arange(start, min(start + _MOMENTS, last)), sentences)


@torch.no_grad()
def of_windows(
    method: Method, index: Index, bank: Encoding, strange: Encoding, way: Way, *, seconds: float
) -> Confidence:
    """Return the lines of an index whose windows a method ranks. bank, strange: encoded sentences.

    way: how the index is searched, which is how sentences are asked here, too.
    """
    if not len(index):
        return confidence.cannot("the index is empty")
    way = stages({"way": asdict(way)}, len(index), SearchOptions())
    every = way.shortlist >= len(index)
    ask = _ask_every if every else _ask_some
    some = slice(0, len(bank), max(1, len(bank) // 8))
    began = time.process_time()
    ask(method, index, bank.rows(some), strange.rows(slice(0, 1)), way)
    cost = (time.process_time() - began) / (len(range(*some.indices(len(bank)))) + 1) * (len(bank) + len(strange))
    bank, strange = (x.rows(torch.from_numpy(confidence.some_of(len(x), cost, seconds))) for x in (bank, strange))
    return ask(method, index, bank, strange, way)


def _ask_every(method: Method, index: Index, bank: Encoding, strange: Encoding, way: Way) -> Confidence:
    tops, sentences = Tops(len(bank), len(strange)), Encoding.cat([bank, strange])
    for _, video in index.blocks():
        parts = [method.score(some, video).cpu() for some in _portions(sentences)]
        tops.add(torch.cat(parts).numpy())
    return tops.lines()


def _portions(text: Encoding) -> Iterator[Encoding]:
    for start in range(0, len(text), _TOGETHER):
        yield text.rows(slice(start, start + _TOGETHER))


def _ask_some(method: Method, index: Index, bank: Encoding, strange: Encoding, way: Way) -> Confidence:
    """Ask sentences as they are asked. Which of the bank may be true of a clip, its coarse vector says."""
    near = method.coarse(bank).float().cpu()
    least = np.full(index.head.rows, np.inf)
    for rows, video in index.blocks():
        least[rows.numpy()] = confidence.least_true((near @ method.coarse(video).float().T).numpy())
    best, k = np.empty(len(bank)), SearchOptions().k
    for i, rows in enumerate(candidates(method, index, bank, way, k)):
        scores = score_of(method, index, bank.rows(slice(i, i + 1)), rows)
        coarse = [method.coarse(index.encoding(part)).float() for part in rows.split(ENCODING_ROWS)]
        absent = (torch.cat(coarse) @ near[i]).numpy() < least[rows.numpy()]
        best[i] = scores[absent].max(initial=-np.inf)
    mean = usual_scores(method, index, strange)
    top = [
        score_of(method, index, strange.rows(slice(i, i + 1)), rows).max()
        for i, rows in enumerate(candidates(method, index, strange, way, k))
    ]
    return confidence.lines(best, np.array(top) - mean, mean, len(index))
