"""What in a library looks like a file of it, or like a moment: look-alikes, and near-duplicates among them.

Files are compared by what is seen in them on average, moments as a query by a moment does. A look-alike is a
near-duplicate where its cosine is 0.85 or more and the pictures are the same: for half of the frames or more the
nearest one of the other differs by 4 of 255 levels of grey at most, on average over 16 x 16 cells. On films of the toy
world that were encoded again, at another rate, size and quality, that difference is 1.5 to 1.8; between two films it is
12 and more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tvr_cli.engine.searching import library, typed
from tvr_cli.engine.searching.hits import SearchOptions
from tvr_cli.engine.searching.library import LibraryFile
from tvr_cli.engine.searching.question import Part, Question
from tvr_cli.engine.searching.session import Session
from tvr_cli.engine.searching.stretch import moment_of
from tvr_cli.results.alike import Alike, SimilarReport
from tvr_cli.results.found import Hit
from tvr_cli.stores.decoding.alike import grey
from tvr_cli.stores.frames.store import FrameStore, decode_jpeg
from tvr_cli.stores.frames.windows import on_screen

NEAR = 0.85  # cosine
SAME = 4.0  # of 255 levels of grey, on average
_FRAMES = 16  # of what is asked about, that are compared


def similar(session: Session, name: str, *, k: int = 10) -> SimilarReport:
    """Return what looks like `PATH`, or like the moment `PATH@START-END`, best first.

    Raises ConfigError and DataError for what is no file or moment of the library, and as `Session.answer`.
    """
    what, workspace = typed.stretch(name), session.workspace
    files = library.files_of(workspace)
    file = library.named(files, what.video)
    moment = moment_of(what, file)
    if what.start is None:
        hits = _files_like(session, file, files, k)
    else:
        (hits,) = session.answer([Question((Part(what),))], SearchOptions(k=k))
    frames = workspace.frames() if workspace.has_frames else None
    asked = None if frames is None else _greys(frames, file.id, moment.start, moment.end, _FRAMES)
    found = [_judged(hit, frames, asked) for hit in hits]
    return SimilarReport(file.id, file.path, moment.start, moment.end, what.start is None, found)


def _files_like(session: Session, file: LibraryFile, files: Sequence[LibraryFile], k: int) -> list[Hit]:
    ids, unit = session.directions_of_files()
    of = {other.id: other for other in files}
    scores = unit @ unit[ids.index(file.id)]
    others = [i for i in np.argsort(-scores, kind="stable").tolist() if ids[i] != file.id and ids[i] in of][:k]
    return [
        Hit(rank, float(scores[i]), ids[i], of[ids[i]].path, 0.0, of[ids[i]].seconds, 0.0)
        for rank, i in enumerate(others, 1)
    ]


def _judged(hit: Hit, frames: FrameStore | None, asked: np.ndarray | None) -> Alike:
    difference = None
    if hit.score >= NEAR and frames is not None and asked is not None and len(asked):
        theirs = _greys(frames, hit.video_id, hit.start, hit.end)
        if len(theirs):
            nearest = [float(np.abs(theirs - one).mean(1).min()) for one in asked]
            difference = float(np.median(nearest))
    duplicate = False if hit.score < NEAR else None if difference is None else difference <= SAME
    return Alike(hit.rank, hit.score, hit.video_id, hit.path, hit.start, hit.end, difference, duplicate)


def _greys(frames: FrameStore, file_id: str, start: float, end: float, most: int | None = None) -> np.ndarray:
    """Return the cells [n, 256] of a file's stored frames between two seconds, of `most` of them at most, evenly."""
    jpegs = list(_pictures(frames, file_id, start, end))
    if most is not None and len(jpegs) > most:
        jpegs = [jpegs[i] for i in np.linspace(0, len(jpegs) - 1, most).astype(int)]
    return np.stack([grey(decode_jpeg(data)) for data in jpegs]) if jpegs else np.zeros((0, 256), np.float32)


def _pictures(frames: FrameStore, file_id: str, start: float, end: float) -> Iterator[bytes]:
    films = [film for film in frames.films() if any(clip.record.file_id == file_id for clip in film.clips)]
    for film in films:
        timeline = frames.timeline(film)
        yield from timeline.jpegs[on_screen(timeline.ts, start, end)]
    if films:
        return
    clips = [r for r in frames.records if r.file_id == file_id and r.span[0] < end and start < r.span[1]]
    for clip in frames.read([record.id for record in clips]):
        yield from (data for data, at in zip(clip.jpegs, clip.ts.tolist(), strict=True) if start <= at < end)
