"""Stored JPEG frames to batches of pixels in worker processes, ahead of the training step. No torch here.

Workers are spawned, open the frame store themselves and write pixels into shared memory; only ids travel. With no
workers the same work is done in this process. What a batch holds depends on ids and seeds alone, never on timing.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np

from tvr_cli.engine.features.augment import RandAugment
from tvr_cli.errors import DataError, EnvironmentProblem
from tvr_cli.plans import FramePlan
from tvr_cli.stores.frames.picture import see
from tvr_cli.stores.frames.store import FrameStore, decode_jpeg
from tvr_cli.types import View

DEPTH = 2  # batches that are decoded while a step runs


@dataclass(frozen=True)
class Pixels:
    """Pixels of V clips. frames: [V, F, S, S, 3] uint8, zero where missing. n_frames: [V]. ts: [V, F] seconds."""

    frames: np.ndarray
    n_frames: np.ndarray
    ts: np.ndarray


@dataclass(frozen=True)
class ClipReader:
    """Reads single clips. slots: F. view: what is seen of a frame. augment: the clip's frames change with its seed."""

    store: FrameStore
    slots: int
    view: View
    augment: RandAugment | None = None

    def read(self, clip: str, seed: int | None, out: np.ndarray) -> np.ndarray:
        """Write a clip's frames into `out` [F, S, S, 3] and return their times in seconds [n]; seed None: as stored."""
        (found,) = self.store.read([clip])
        images = [seen(data, self.store.plan, self.view) for data in found.jpegs[: self.slots]]
        if self.augment is not None and seed is not None:
            images = _augmented(images, self.augment, seed)
        for place, image in zip(out, images, strict=False):
            place[:] = image
        return np.asarray(found.ts[: len(images)], dtype=np.float64)


class FrameLoader:
    """Loads batches of clips in order, `DEPTH` of them ahead. Close it, or use it as a context."""

    def __init__(self, root: Path, *, slots: int, view: View, augment: RandAugment | None = None, workers: int = 0):
        self.slots, self.size = slots, view.size
        self._reader = ClipReader(FrameStore.open(root), slots, view, augment)
        self._pool: ProcessPoolExecutor | None = None
        if workers > 0:
            self._pool = ProcessPoolExecutor(
                workers, get_context("spawn"), initializer=_start, initargs=(root, slots, view, augment)
            )

    def load(self, clips: Sequence[str], seeds: Sequence[int] | None = None) -> Pixels:
        """Load one batch now."""
        return next(self.stream([(clips, seeds)]))

    def stream(self, batches: Iterable[tuple[Sequence[str], Sequence[int] | None]]) -> Iterator[Pixels]:
        """Yield the pixels of each (clips, seeds) in order.

        Raises DataError for a damaged shard, an unknown clip or frames smaller than S, EnvironmentProblem when a
        worker dies.
        """
        if self._pool is None:
            for clips, seeds in batches:
                yield self._here(clips, seeds)
            return
        waiting: deque[_Job] = deque()
        try:
            for clips, seeds in batches:
                waiting.append(_Job(self._pool, clips, seeds, self.slots, self.size))
                if len(waiting) > DEPTH:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as e:
            raise EnvironmentProblem(
                "a process that decodes frames ended unexpectedly (out of memory?); try --workers 0 or a smaller batch"
            ) from e
        finally:
            for job in waiting:
                job.cancel()

    def close(self) -> None:
        """Stop the workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> FrameLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _here(self, clips: Sequence[str], seeds: Sequence[int] | None) -> Pixels:
        frames = np.zeros((len(clips), self.slots, self.size, self.size, 3), np.uint8)
        times = [
            self._reader.read(clip, None if seeds is None else seeds[i], frames[i]) for i, clip in enumerate(clips)
        ]
        return _pixels(frames, times)


class _Job:
    """One batch on its way: shared memory that the workers fill, a future for each clip."""

    def __init__(
        self, pool: ProcessPoolExecutor, clips: Sequence[str], seeds: Sequence[int] | None, slots: int, size: int
    ):
        self._shape = (len(clips), slots, size, size, 3)
        self._memory = SharedMemory(create=True, size=int(np.prod(self._shape)))
        self._futures: list[Future[np.ndarray]] = [
            pool.submit(_read, self._memory.name, self._shape, row, clip, None if seeds is None else seeds[row])
            for row, clip in enumerate(clips)
        ]

    def result(self) -> Pixels:
        try:
            times = [future.result() for future in self._futures]
            frames = np.ndarray(self._shape, np.uint8, self._memory.buf).copy()
        finally:
            self.cancel()
        return _pixels(frames, times)

    def cancel(self) -> None:
        for future in self._futures:
            future.cancel()
        self._memory.close()
        self._memory.unlink()


_worker: list[ClipReader] = []


def _start(root: Path, slots: int, view: View, augment: RandAugment | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _worker[:] = [ClipReader(FrameStore.open(root), slots, view, augment)]


def _read(memory: str, shape: tuple[int, ...], row: int, clip: str, seed: int | None) -> np.ndarray:
    shared = SharedMemory(memory)
    try:
        out = np.ndarray(shape, np.uint8, shared.buf)
        out[row] = 0
        times = _worker[0].read(clip, seed, out[row])
        del out  # the memory cannot be closed while an array looks at it
        return times
    finally:
        shared.close()


def _pixels(frames: np.ndarray, times: Sequence[np.ndarray]) -> Pixels:
    ts = np.zeros(frames.shape[:2], np.float64)
    for row, t in enumerate(times):
        ts[row, : len(t)] = t
    return Pixels(frames, np.array([len(t) for t in times], dtype=np.int64), ts)


def _augmented(images: Sequence[np.ndarray], augment: RandAugment, seed: int) -> list[np.ndarray]:
    from PIL import Image

    return [np.asarray(image) for image in augment([Image.fromarray(i) for i in images], seed)]


def seen(data: bytes, plan: FramePlan, view: View) -> np.ndarray:
    """Return what an encoder sees of a stored frame: [S, S, 3] uint8; a square of that size stays as it is.

    Pictures that are stored whole have different sizes; squares of a plan that does not, one size, which is at least S.
    Raises DataError for others.
    """
    picture = decode_jpeg(data)
    height, width = picture.shape[:2]
    if plan.fit != "whole" and (height != width or height < view.size):
        raise DataError(f"expected square frames of at least {view.size} px, found {width} x {height}")
    return see(picture, view)
