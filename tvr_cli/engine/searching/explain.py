"""Why a file answers a sentence: which of its seconds count, and what each word does to that.

What a word contributes is what is lost without it: the score of the sentence less that of the sentence without the
word, everything else as it is. A word may take away (a negative contribution), and words are not independent, so the
contributions do not add up to the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from tvr_cli.engine.scorers import Scorer
from tvr_cli.engine.searching import curves, moments
from tvr_cli.engine.searching.curves import Window
from tvr_cli.engine.searching.hits import Moment, SearchOptions, moment_of
from tvr_cli.engine.searching.library import LibraryFile
from tvr_cli.engine.searching.ranking import Ranking
from tvr_cli.errors import DataError
from tvr_cli.results.explained import ClipShare, ExplainReport, WordShare
from tvr_cli.stores.index.store import Index
from tvr_cli.stores.index.timeline import IndexedFilms
from tvr_cli.types import Encoding

_SLACK_S = 0.05  # that a moment may reach beyond the seconds that were asked about


def without_a_word(sentence: str) -> list[str]:
    """Return the sentence without its first word, without its second, and so on."""
    words = sentence.split()
    return [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]


def by_clips(
    scorer: Scorer, index: Index, text: Encoding, sentence: str, file: LibraryFile, asked: Moment
) -> ExplainReport:
    """Explain by a method that scores clips. text: the sentence, and `without_a_word`, encoded.

    Raises DataError where the index has nothing of the file between the seconds asked about.
    """
    of_file = ((row, one) for row, one in index.listing() if one.file_id == file.id)
    rows = [row for row, one in of_file if one.start < asked.end and asked.start < one.end]
    if not rows:
        raise _nothing(file, asked)
    video = index.encoding(torch.tensor(rows))
    with torch.no_grad():
        scores = scorer.method.score(text, video).float().cpu().numpy()  # [1 + words, clips]
        weights = scorer.method.explain(text, video).float().cpu().numpy()  # [1 + words, clips, F]
    clips = [index.clip(row) for row in rows]
    low, _ = curves.reach(scores)
    each = [
        [Window(c, float(s), w[: len(c.ts)]) for c, s, w in zip(clips, *of, strict=True)]
        for of in zip(scores, weights, strict=True)
    ]
    drawn = [curves.merged(windows, low) for windows in each]
    best = int(np.nan_to_num(scores[0], nan=-np.inf).argmax())
    window = each[0][best]
    moment = moment_of(window.weights, np.array(window.clip.ts), window.clip.start, window.clip.end)
    return _report(
        scorer, sentence, file, asked, moment, float(scores[0, best]), low, drawn[0][0],
        np.stack([values for _, values in drawn]), scores[0, best] - scores[1:, best],
        [ClipShare(w.clip.start, w.clip.end, w.score, w.clip.ts, w.weights.tolist()) for w in each[0]],
    )  # fmt: skip


def by_frames(
    scorer: Scorer, films: Sequence[IndexedFilms], unit: np.ndarray, sentence: str, file: LibraryFile, asked: Moment,
    ranking: Ranking, head: str | None = None,
) -> ExplainReport:  # fmt: skip
    """Explain where single frames score. unit: [1 + words, D] unit vectors of the sentence and `without_a_word`. head:
    the run of the head that ranks.

    Raises DataError as `by_clips` does.
    """
    parts = [(part, int(n)) for part in films for n in np.flatnonzero(part.live) if _is_first_of(part, int(n), file.id)]
    if not parts:
        raise _nothing(file, asked)
    found = [[moments.frame_scores(part, n, query, ranking) for part, n in parts] for query in unit]
    ts = np.concatenate([at for at, _ in found[0]])
    values = np.stack([np.concatenate([v for _, v in of]) for of in found])
    options = SearchOptions(k=1_000, per_file=0, only=frozenset([file.id]))
    inside = [
        hit
        for hit in moments.search(films, unit[:1], options, ranking)[0]
        if hit.start >= asked.start - _SLACK_S and hit.end <= asked.end + _SLACK_S
    ]
    seen = (ts >= asked.start) & (ts <= asked.end)
    if not inside and not seen.any():
        raise _nothing(file, asked)
    if inside:
        moment, score = Moment(inside[0].start, inside[0].end, inside[0].peak), inside[0].score
    else:  # the seconds are part of one moment: they are asked about as they are
        peak = int(np.where(seen, values[0], -np.inf).argmax())
        moment, score = Moment(asked.start, asked.end, float(ts[peak])), float(values[0][seen].mean())
    of_moment = (ts >= moment.start - _SLACK_S) & (ts < max(moment.end, moment.start + _SLACK_S))
    shares = (values[0] - values[1:])[:, of_moment].mean(1) if of_moment.any() else np.zeros(len(values) - 1)
    low, _ = curves.reach(values[0])
    return replace(_report(scorer, sentence, file, asked, moment, score, low, ts, values, shares, []), head=head)


def _is_first_of(part: IndexedFilms, number: int, file_id: str) -> bool:
    files = part.array("file")
    return (number == 0 or files[number] != files[number - 1]) and part.segment.file_ids[int(files[number])] == file_id


def _report(
    scorer: Scorer, sentence: str, file: LibraryFile, asked: Moment, moment: Moment, score: float, low: float,
    ts: np.ndarray, values: np.ndarray, contributions: np.ndarray, clips: Sequence[ClipShare],
) -> ExplainReport:  # fmt: skip
    inside = (ts >= asked.start) & (ts <= asked.end)
    if inside.any():
        ts, values = ts[inside], values[:, inside]
    values = np.where(np.isfinite(values), values, low)
    kept = curves.highest(values[0])
    ts, values = ts[kept], values[:, kept]
    words = [
        WordShare(word, float(share), (values[0] - without).tolist())
        for word, share, without in zip(sentence.split(), contributions, values[1:], strict=True)
    ]
    high = max(score, float(values[0].max(initial=low)))
    return ExplainReport(
        sentence, file.id, file.path, scorer.name, scorer.run.name if scorer.run else None, file.seconds, score,
        moment.start, moment.end, moment.peak, low, high, ts.tolist(), values[0].tolist(), words, clips,
    )  # fmt: skip


def _nothing(file: LibraryFile, asked: Moment) -> DataError:
    return DataError(f"the index has nothing of {file.id!r} between {asked.start:g} and {asked.end:g} s")
