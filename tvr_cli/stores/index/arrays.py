"""An index as arrays of numpy: what a query needs of it that does not import torch (`seam.py` has the ordinary one)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from tvr_cli.stores.index.head import Head
from tvr_cli.stores.index.opened import OpenedIndex
from tvr_cli.stores.mapped import BFLOAT16

Arrays = dict[str, np.ndarray]
_SCAN_ROWS = 1024  # vectors that are widened to float32 at a time: they stay in the cache


class ArrayIndex(OpenedIndex):
    """An index to be read. Rows are as in `SearchIndex`; what is read here is not verified, but for `clip`."""

    @staticmethod
    def holds(head: Head) -> bool:
        """Whether arrays can hold an index: numpy has no bfloat16, and a table is read by its own index."""
        return (
            head.table is None
            and all(kept.dtype != BFLOAT16 for kept in head.encoding.values())
            and all(part.dtype != BFLOAT16 for segment in head.segments for part in segment.parts)
        )

    def rows(self, only: Collection[str] | None = None) -> np.ndarray:
        """Return the rows [len] of all clips that can be found, ascending; only: of the files with these ids."""
        return self.rows_of(only)

    def blocks(self, names: Sequence[str]) -> Iterator[tuple[np.ndarray, Arrays]]:
        """Yield all clips that can be found, some rows [n] at a time, with tensors of their encodings, as the method
        made them.
        """
        self.require_whole()
        for segment, first in zip(self._segments, self._starts, strict=False):
            step = segment.rows_a_block([self._part_of(name) for name in names])
            for start in range(0, segment.clips, step):
                rows = np.arange(first + start, first + min(start + step, segment.clips))
                live = None if self.deleted is None else ~self.deleted[rows]
                if live is None or live.all():
                    yield rows, self._read(names, lambda p, s=segment, a=start, n=step: s.array(p)[a : a + n])  # type: ignore[misc]
                elif live.any():
                    local = rows[live] - first
                    yield rows[live], self._read(names, lambda p, s=segment, at=local: s.array(p)[at])  # type: ignore[misc]

    def encoding(self, rows: np.ndarray, names: Sequence[str]) -> Arrays:
        """Return tensors of the encodings of some clips, in the order of `rows` [N], as the method made them."""
        self.require_whole()
        return self._read(names, lambda part: self._gather(rows, part))

    def products(self, query: np.ndarray) -> np.ndarray:
        """Return the products [Q, rows] float32 of unit vectors [Q, D] with each clip's nearest coarse vector, -inf for
        deleted clips.
        """
        self.require_whole()
        scores = np.full((len(query), self.head.rows), -np.inf, np.float32)
        for segment, first in zip(self._segments, self._starts, strict=False):
            coarse = segment.array("coarse")
            step = max(1, _SCAN_ROWS // coarse.shape[1])
            for start in range(0, segment.clips, step):
                block = coarse[start : start + step].astype(np.float32)
                near = (block.reshape(-1, block.shape[-1]) @ query.T).reshape(*block.shape[:2], -1).max(1)
                scores[:, first + start : first + start + len(block)] = near.T
        if self.deleted is not None:
            scores[:, self.deleted] = -np.inf
        return scores

    def _read(self, names: Sequence[str], read: Callable[[str], np.ndarray]) -> Arrays:
        found = {}
        for name in names:
            kept = self.head.encoding[name]
            array = read("coarse")[:, 0] if kept.in_coarse else read(f"t.{name}")
            found[name] = array.astype(np.float32, copy=False) if kept.dtype == "float32" else array
        return found

    def _gather(self, rows: np.ndarray, name: str) -> np.ndarray:
        """Read rows of a part, in the order of `rows`, in its stored type."""
        if len(self._segments) == 1:
            return self._segments[0].array(name)[rows]
        of = np.searchsorted(self._starts, rows, "right") - 1
        first = self._segments[0].array(name)
        found = np.empty((len(rows), *first.shape[1:]), first.dtype)
        for number, segment in enumerate(self._segments):
            there = of == number
            found[there] = segment.array(name)[rows[there] - self._starts[number]]
        return found
