"""What an index keeps of films by time: the moments that there may be in each, and what the bank says of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from tvr_cli.engine.searching import cells, ranking
from tvr_cli.stores.features.films import FilmFeatures
from tvr_cli.stores.features.store import FeatureStore
from tvr_cli.stores.frames.records import ClipRecord
from tvr_cli.stores.frames.store import joined
from tvr_cli.stores.index.timeline import FilmBlock
from tvr_cli.types import timeline_key

# A soft edge is as far apart as this share of the median distance of two frames of the library taken at random, which
# each encoder has its own of. On films of the toy world that is 0.42, whether they are cut, stretched or one take.
_SHARE = 0.6
_PAIRS = 4096
_MEASURED_FILMS = 200  # that the pairs are taken from


@dataclass(frozen=True)
class Edges:
    """Where moments end: `edge` is the least distance of a soft one, None where nothing could be measured."""

    edge: float | None
    against: str | None  # which sentences moments are compared with, None = none could be encoded


def measured_edge(store: FeatureStore) -> float | None:
    """Return the least distance of a soft edge in a library; None where it shows nothing that differs."""
    of_file = list(_files(store).values())
    some = of_file[:: max(1, len(of_file) // _MEASURED_FILMS)]
    draw, each = np.random.default_rng(0), max(2, 2 * _PAIRS // max(1, len(some)))
    seen = [track.unit[draw.integers(0, len(track.unit), each)] for track in _tracks(store, some)]
    if not seen:
        return None
    unit = draw.permutation(np.concatenate(seen))
    half = len(unit) // 2
    edge = _SHARE * float(np.median(1 - (unit[:half] * unit[half : 2 * half]).sum(1)))
    return edge if edge > 1e-6 else None


def blocks(
    store: FeatureStore, clips: Iterable[int] | None, edge: float | None, bank: np.ndarray | None
) -> Iterator[FilmBlock]:
    """Yield the films of some clips (rows; None = all). bank: [n, D] unit vectors of its sentences."""
    wanted = None if clips is None else {store.clips[row].file_id for row in clips}
    for (file_id, path), records in _files(store).items():
        if wanted is not None and file_id not in wanted:
            continue
        for track in _tracks(store, [records]):
            soft = cells.distances(track) > (np.inf if edge is None else edge)
            found = cells.candidates(track, soft)
            parts = [(length, *ranking.null_of(unit, bank)) for unit, length in cells.means(track, found)]
            length, null, mild = (np.concatenate(part) for part in zip(*parts, strict=True))
            yield FilmBlock(file_id, path, track.unit, track.ts, track.until, track.seen, found, length, null, mild)


def tracks(store: FeatureStore) -> Iterator[tuple[str, cells.Track]]:
    """Yield the films of a store with the ids of their files; where it has none, of each clip the frames it has."""
    if store.has_films:
        for (file_id, _), records in _files(store).items():
            yield from ((file_id, track) for track in _tracks(store, [records]))
        return
    for row, clip in enumerate(store.clips):
        video = store.video(torch.tensor([row]))
        n = int(video.n_frames[0])
        frames, ts = video.frames[0, :n].numpy(), video.ts[0, :n].numpy()
        if n and (track := cells.track(frames, ts, np.zeros(n), [clip.span])) is not None:
            yield clip.file_id, track


def _files(store: FeatureStore) -> Mapping[tuple[str, str], list[ClipRecord]]:
    found: dict[tuple[str, str], list[ClipRecord]] = {}
    for clip in store.clips:
        found.setdefault((clip.file_id, clip.path), []).append(clip)
    return found


def _tracks(store: FeatureStore, files: Iterable[list[ClipRecord]]) -> Iterator[cells.Track]:
    """Yield the tracks of each file, none of one whose films the store lacks."""
    looks = _looks(store)
    for records in files:
        for spans, film in _films(store, records):
            found = cells.track(film.frames.numpy(), film.ts.numpy(), film.change.numpy(), spans, looks=looks)
            if found is not None:
                yield found


def _looks(store: FeatureStore) -> float | None:
    """Return how often a second the files of a store were looked at; None where every look is kept."""
    plan = store.identity["frames"]
    return None if plan.get("alike") is None else float(plan.get("detail") or plan["fps"])


def _films(store: FeatureStore, records: list[ClipRecord]) -> Iterator[tuple[list[tuple[float, float]], FilmFeatures]]:
    """Yield the films of one file with the seconds of it that they are of: one of all windows, or one a line of a
    manifest that names a part of it.
    """
    spans = joined(clip.span for clip in records)
    if (film := store.films.get(timeline_key(records[0].source_sha256, spans))) is not None:
        yield spans, film
        return
    for clip in records:
        if (film := store.films.get(timeline_key(clip.source_sha256, [clip.span]))) is not None:
            yield [clip.span], film
