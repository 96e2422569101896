"""Features of some seconds of a file of the library, from what is stored of it: nothing is decoded or encoded."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tvr_cli.engine.searching.hits import Moment
from tvr_cli.engine.searching.library import LibraryFile
from tvr_cli.engine.searching.question import Stretch
from tvr_cli.errors import DataError
from tvr_cli.stores.features.store import FeatureStore

_ROUNDING_S = 0.1  # how far a moment may reach beyond its file: seconds are shown to a tenth


def moment_of(stretch: Stretch, file: LibraryFile) -> Moment:
    """Return the seconds that are meant. Raises DataError where they are not in the file."""
    if stretch.start is None or stretch.end is None:
        return Moment(0.0, file.seconds, 0.0)
    if stretch.start >= file.seconds or stretch.end > file.seconds + _ROUNDING_S:
        raise DataError(
            f"expected a moment of {file.id!r}, of which the library has {file.seconds:.1f} s, found "
            f"{stretch.start:g}-{stretch.end:g}"
        )
    return Moment(stretch.start, min(stretch.end, file.seconds), stretch.start)


def of_clips(store: FeatureStore, file: LibraryFile, moment: Moment, *, whole: bool) -> np.ndarray:
    """Return the mean direction [D] of what a store has of a moment, as long as its vectors are on average.

    whole: of the clips' own vectors, instead of those of the frames inside it; where no frame is, of the nearest one.
    Raises DataError where the store has nothing of the file.
    """
    numbers = [number for number, file_id in enumerate(store.clips.file_ids) if file_id == file.id]
    rows = torch.isin(store.clips.file, torch.tensor(numbers, dtype=torch.int64)).nonzero()[:, 0].tolist()
    seen = [row for row, clip in zip(rows, store.clips.take(rows), strict=True) if _meets(clip.span, moment)]
    if not seen:
        raise DataError(f"the features have nothing of {file.id!r} between {moment.start:g} and {moment.end:g} s")
    video = store.video(torch.tensor(seen, dtype=torch.int64))
    if whole:
        assert video.pooled is not None, "whoever asks knows what the store provides"
        return _mean(video.pooled)
    real = video.mask()
    frames, ts = video.frames[real], video.ts[real]
    inside = (ts >= moment.start) & (ts < moment.end)
    if not inside.any():
        inside = torch.zeros_like(inside)
        inside[(ts - (moment.start + moment.end) / 2).abs().argmin()] = True
    return _mean(frames[inside])


def _meets(span: tuple[float, float], moment: Moment) -> bool:
    return span[0] < moment.end and moment.start < span[1]


def _mean(vectors: Tensor) -> np.ndarray:
    """Return the mean of the directions of vectors [n, D], as long as these are on average."""
    lengths = vectors.float().norm(dim=-1)
    return (torch.nn.functional.normalize(vectors.float(), dim=-1).mean(0) * lengths.mean()).numpy()
