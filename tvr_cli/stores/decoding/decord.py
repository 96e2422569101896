"""Frames through decord (0.6, or decord2 under the same import name).

decord counts frames that an edit list hides, and misplaces the leading frames of open GOPs, without saying so. Such
streams are refused by looking at the packets first; the others give the same frames as decoding everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvr_cli.errors import DecodeError, EnvironmentProblem
from tvr_cli.stores.decoding.look import stretched
from tvr_cli.stores.decoding.pyav import PyavDecoder
from tvr_cli.stores.decoding.types import Beat, Decoder, Place
from tvr_cli.types import Look

_BATCH = 8


class DecordDecoder:
    """See `tvr_cli.stores.decoding.types.Decoder`."""

    name = "decord"

    def __init__(self, path: Path, beat: Beat, look: Look = "coded"):
        self._path, self._beat, self._look, self.problem = path, beat, look, ""
        guard = PyavDecoder(path, beat, look)
        try:
            self.container, self.timeline = guard.container, guard.timeline
            why = guard.unfit_for_decord()
        finally:
            guard.close()
        if why:
            raise DecodeError(f"decord gives wrong frames for {why}; use --decoder auto")
        self._reader = _open(path)
        if len(self._reader) != len(self.timeline):
            raise DecodeError(
                f"decord counts {len(self._reader)} frames where the container has {len(self.timeline)}; "
                "use --decoder auto"
            )

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for first in range(0, len(indices), _BATCH):
            batch = [int(i) for i in indices[first : first + _BATCH]]
            self._beat(Place("decoded", float(self.timeline.ts[batch[0]]), self.timeline.end))
            try:
                pixels = self._reader.get_batch(batch).asnumpy()
            except Exception as e:  # decord raises its own and RuntimeError; the caller decides by what is missing
                self.problem = self.problem or _reason(e)
                continue
            aspect = self.container.aspect if self._look == "shown" else None
            yield from zip(batch, (stretched(picture, aspect) for picture in pixels), strict=True)

    def sequential(self) -> Decoder:
        return PyavDecoder(self._path, self._beat, self._look).sequential()

    def close(self) -> None:
        self._reader = None


def _open(path: Path) -> Any:
    try:
        import decord
    except ImportError as e:
        raise EnvironmentProblem("--decoder decord needs decord; run: pip install decord, or use --decoder auto") from e
    decord.logging.set_level(decord.logging.QUIET)
    try:
        # fault_tol: by default decord replaces frames that it cannot decode by their neighbours.
        return decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=1, fault_tol=1)
    except Exception as e:  # DECORDError or RuntimeError
        raise DecodeError(f"decord cannot open it: {_reason(e)}; use --decoder auto") from e


def _reason(e: Exception) -> str:
    return str(e).strip().splitlines()[0][:160]
