"""Two channels of an answer: the picture, and what is said and written. They are fused by reciprocal rank. No torch.

A moment at rank r of a channel, 1 = first, gets 1 / (60 + r) from it, and nothing from a channel that has not found it
(Cormack et al., SIGIR 2009). What overlaps in one file is the same moment; it keeps the picture's seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tvr_cli import log
from tvr_cli.engine.searching import speech
from tvr_cli.engine.searching.hits import Answering, Moment, SearchOptions
from tvr_cli.engine.searching.query import looked_for
from tvr_cli.errors import DataError
from tvr_cli.results.found import Answer, Hit, QueryReport
from tvr_cli.stores.speech.store import Said
from tvr_cli.workspace import Workspace

DEPTH = 50  # hits that a channel gives to be fused, at least
_K = 60


def answer(
    workspace: Workspace,
    sentences: Sequence[str],
    options: SearchOptions,
    picture: Callable[[SearchOptions], QueryReport] | None,
    *,
    named: bool = True,
) -> QueryReport:
    """Answer sentences by what is said, and by the picture where that is asked too.

    picture: asks it; None = what is said alone, whose scores are −bm25. Where nothing is known to be said the picture's
    answer is the answer, with its own scores, and who named the channel is told. Raises DataError where there never
    were frames, and where what is said is asked alone and nothing of it is known.
    """
    store = speech.up_to_date(workspace)
    if not store.counts.passages:
        if named or picture is None:
            _without_words(workspace, alone=picture is None)
        if picture is not None:
            return picture(options)
    depth = max(options.k, DEPTH)
    # More of a file than are shown, for what both channels find counts for more; yet of k files at least.
    of_file = max(options.per_file, depth // options.k) if options.per_file else 0
    deep = replace(options, k=depth, per_file=of_file, min_confidence=None)
    seen = picture(deep).results if picture is not None else [Answer.of(text, (), None) for text in sentences]
    there: dict[str, bool] = {}
    answers = []
    for text, shown in zip(sentences, seen, strict=True):
        said = speech.find(store, text, depth, of_file, options.only)
        hits = [_heard(one) for one in said] if picture is None else fused(shown.hits, said)
        answers.append(Answer.of(text, looked_for(_bounded(hits, options), there), options.min_confidence))
    return QueryReport(answers)


def _bounded(hits: Sequence[Hit], options: SearchOptions) -> list[Hit]:
    """Return what an answer has place for: k moments, so many of a file, none of which overlap."""
    found = Answering(options)
    of: dict[tuple[str, float, float], Hit] = {}
    for hit in hits:
        found.take(hit.score, hit.video_id, hit.path, Moment(hit.start, hit.end, hit.peak))
        of.setdefault((hit.video_id, hit.start, hit.end), hit)
    shown = [(hit, of[hit.video_id, hit.start, hit.end]) for hit in found.hits()]
    return [
        replace(hit, confidence=known.confidence, channel=known.channel, said=known.said, curve=known.curve)
        for hit, known in shown
    ]


def fused(picture: Sequence[Hit], said: Sequence[Said]) -> list[Hit]:
    """Return the moments of both channels, best first; of equal ones the picture's stands first."""
    shares = [1.0 / (_K + rank) for rank in range(1, max(len(picture), len(said)) + 1)]
    found: list[Hit] = []
    taken: set[int] = set()
    for share, hit in zip(shares, picture, strict=False):
        both = [i for i, one in enumerate(said) if one.file_id == hit.video_id and _overlaps(hit, one)]
        taken.update(both)
        if both:
            best = said[both[0]]
            hit = replace(hit, score=share + shares[both[0]], channel="both", said=best.text)
        else:
            hit = replace(hit, score=share)
        found.append(hit)
    alone = [(i, one) for i, one in enumerate(said) if i not in taken]
    found += [replace(_heard(one), score=shares[i]) for i, one in alone]
    return sorted(found, key=lambda hit: -hit.score)


def _heard(one: Said) -> Hit:
    return Hit(0, -one.bm25, one.file_id, one.path, one.start, one.end, one.start, channel="speech", said=one.text)


def _overlaps(hit: Hit, one: Said) -> bool:
    return hit.start < one.end and one.start < hit.end


def _without_words(workspace: Workspace, *, alone: bool) -> None:
    """Say that nothing is known to be said. Raises DataError where nothing else was asked."""
    found = (
        f"nothing is known to be said in the videos of {str(workspace)!r}: no subtitle file with words lies beside one "
        "(film.srt or film.en.vtt beside film.mp4), and none has a text stream"
    )
    if alone:
        raise DataError(f"{found}; put subtitles beside the videos, or search the picture (--channel picture)")
    log.logger.info("%s; the picture alone answers", found)
