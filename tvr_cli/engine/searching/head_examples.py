"""What a moment head is trained on: spans of films, and the sentences that are said of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tvr_cli import commands, log
from tvr_cli.engine.searching import films, ranking
from tvr_cli.engine.searching.cells import Track
from tvr_cli.errors import DataError
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.workspace import Workspace

DRAWS = 4  # of each span
_BLOCK = 256  # spans at a time
_LEAST_S = 0.05  # of a span that was moved
_INSIDE = 0.5  # of a span that has to lie where frames are
_EXAMPLE = '{"video": "beach.mp4", "caption": "a dog runs into the sea", "start": 3.5, "end": 6}'


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence of a file, and the seconds of it that it is said of; None where a caption has none."""

    file_id: str
    text: str
    start: float | None
    end: float | None

    @property
    def timed(self) -> bool:
        return self.start is not None and self.end is not None


@dataclass(frozen=True)
class Span:
    """Seconds of a film that a sentence is said of, by its number."""

    track: Track
    start: float
    end: float
    number: int


@dataclass(frozen=True)
class Found:
    """The spans of some captions. kept: which captions they are of, by their numbers. untimed: of those left out, that
    have no times.
    """

    spans: Sequence[Span]
    kept: Sequence[int]
    videos: int
    left_out: int
    untimed: int

    @staticmethod
    def of(store: FeatureStore, captions: Sequence[Said]) -> Found:
        """Return the spans that frames of a store show."""
        timed = [(i, c) for i, c in enumerate(captions) if c.timed]
        wanted = {c.file_id for _, c in timed}
        of_file: dict[str, list[Track]] = {}
        for file_id, track in films.tracks(store) if timed else ():
            if file_id in wanted:
                of_file.setdefault(file_id, []).append(track)
        spans: list[Span] = []
        kept: list[int] = []
        for i, caption in timed:
            if (span := _span(caption, of_file.get(caption.file_id, ()), len(kept))) is not None:
                spans.append(span)
                kept.append(i)
        videos = len({captions[i].file_id for i in kept})
        return Found(spans, kept, videos, len(captions) - len(kept), len(captions) - len(timed))

    def require_some(self, workspace: Workspace) -> None:
        """Raise DataError where there is nothing to train on, say what is left out."""
        if not self.spans:
            raise DataError(
                f"expected training captions with times, found {self.left_out} of which {self.untimed} have none and "
                f"the others lie where no frames are; a line of a captions file that has times: {_EXAMPLE}, and the "
                "annotation files of Charades-STA, ActivityNet Captions, DiDeMo and QVHighlights have them, too. Give "
                f"one with: {commands.tvr('train', moments=True, captions='captions.jsonl', workspace=workspace)}"
            )
        if self.left_out:
            log.logger.info(
                "%d of %d training captions are left out: %d have no times, %d lie where no frames are",
                self.left_out, self.left_out + len(self.spans), self.untimed, self.left_out - self.untimed,
            )  # fmt: skip


@dataclass(frozen=True)
class Examples:
    """The spans of a split, and the unit vectors [n, D] of what is said of them. texts: [n]."""

    found: Found
    said: np.ndarray
    texts: Sequence[str]

    @staticmethod
    def of(store: FeatureStore, split: str) -> Examples:
        rows = store.split(split)
        captions = [Said(c.file_id, c.text, c.start, c.end) for c in store.captions.take(rows.tolist())]
        found = Found.of(store, captions)
        pooled = store.text(rows[list(found.kept)], tokens=False).pooled
        said = torch.nn.functional.normalize(pooled, dim=-1).numpy()
        return Examples(found, said, [captions[i].text for i in found.kept])

    @property
    def spans(self) -> Sequence[Span]:
        return self.found.spans

    def draws(self, step: float, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each span `DRAWS` times, its edges moved by up to half a step (seconds between two looks), and up to
        half a step earlier still: where fewer frames are kept than were looked at, one stands for what comes after it.
        """
        draw = np.random.default_rng(seed)
        for start in range(0, len(self.spans), _BLOCK):
            some = [span for span in self.spans[start : start + _BLOCK] for _ in range(DRAWS)]
            moved = draw.uniform(-step, step / 2, (len(some), 2))
            pieces = [pieces_of(s.track, s.start + a, s.end + b) for s, (a, b) in zip(some, moved, strict=True)]
            yield np.stack(pieces), np.array([span.number for span in some])


def pieces_of(track: Track, start: float, end: float) -> np.ndarray:
    """Return what a head looks at in a span of a film: [4, D], the mean of its frames and those of its thirds."""
    start = min(max(start, float(track.ts[0])), float(track.until[-1]) - _LEAST_S)
    end = min(max(end, start + _LEAST_S), float(track.until[-1]))
    first = int(np.searchsorted(track.until, start, side="right"))
    last = max(int(np.searchsorted(track.ts, end)), first + 1)
    seconds = np.minimum(track.until[first:last], end) - np.maximum(track.ts[first:last], start)
    unit = track.unit[first:last]
    at = ranking.thirds(np.array([0]), np.array([len(unit)]), seconds)[:, 0]
    return np.concatenate([(seconds @ unit / seconds.sum())[None], unit[at]])


def _span(caption: Said, tracks: Sequence[Track], number: int) -> Span | None:
    """Return the span of a caption in the film that has most of it; None where none has half."""
    assert caption.start is not None and caption.end is not None, "only captions with times are asked"
    found = [(min(caption.end, t.until[-1]) - max(caption.start, t.ts[0]), t) for t in tracks]
    inside, track = max(found, key=lambda one: one[0], default=(0.0, None))
    if track is None or inside < _INSIDE * (caption.end - caption.start):
        return None
    return Span(track, caption.start, caption.end, number)
