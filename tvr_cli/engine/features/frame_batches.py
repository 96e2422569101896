"""Frames from the store to batches of pixels, one batch ahead of the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tvr_cli.engine.features.frame_loader import seen
from tvr_cli.plans import FramePlan
from tvr_cli.stores.frames.store import ClipFrames, ClipRecord, FrameStore
from tvr_cli.types import View

_A = TypeVar("_A")
_B = TypeVar("_B")


@dataclass(frozen=True)
class FrameBatch:
    """Pixels of V clips. pixels: [V, F, 3, S, S] uint8, zero where missing. real: [V, F] bool. ts: [V, F] float64."""

    records: list[ClipRecord]
    pixels: Tensor
    real: Tensor
    ts: Tensor


def frame_batches(
    store: FrameStore, ids: Sequence[str], *, view: View, slots: int | None, clips: int
) -> Iterator[FrameBatch]:
    """Yield the clips `ids` in batches of `clips`; slots: F, or None for the longest clip of each batch.

    Decoding runs in a thread, one batch ahead. Raises DataError when a frame does not show what `view` needs.
    """
    chunks = [ids[i : i + clips] for i in range(0, len(ids), clips)]
    yield from ahead(chunks, lambda chunk: _batch(list(store.read(chunk)), store.plan, view, slots))


def ahead(items: Iterable[_A], make: Callable[[_A], _B], depth: int = 1) -> Iterator[_B]:
    """Yield `make(item)` of each item in order; up to `depth` of them are made in a thread while the caller works."""
    with ThreadPoolExecutor(1) as pool:
        pending: deque[Future[Any]] = deque()
        for item in items:
            pending.append(pool.submit(make, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _batch(clips: Sequence[ClipFrames], plan: FramePlan, view: View, slots: int | None) -> FrameBatch:
    width = slots or max(len(clip.jpegs) for clip in clips)
    pixels = torch.zeros(len(clips), width, 3, view.size, view.size, dtype=torch.uint8)
    real = torch.zeros(len(clips), width, dtype=torch.bool)
    ts = torch.zeros(len(clips), width, dtype=torch.float64)
    for row, clip in enumerate(clips):
        n = len(clip.jpegs)
        real[row, :n] = True
        ts[row, :n] = torch.from_numpy(np.asarray(clip.ts, dtype=np.float64))
        for i, data in enumerate(clip.jpegs):
            pixels[row, i] = torch.from_numpy(seen(data, plan, view).copy()).permute(2, 0, 1)
    return FrameBatch([clip.record for clip in clips], pixels, real, ts)
