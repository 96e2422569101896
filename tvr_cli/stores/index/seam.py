"""What search asks of an index, so that another engine can stand behind the scan."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from torch import Tensor

from tvr_cli.stores.index.writer import IndexBlock, IndexedClip
from tvr_cli.types import Encoding

_I = TypeVar("_I", bound="SearchIndex")


class SearchIndex(Protocol):
    """Clips that can be scanned, scored, shown, added and deleted; five calls, and what they are about.

    A row is a number of a clip that stays as long as the index is open. identity: what the index was made from.
    len(): the clips that can be found.
    """

    @property
    def identity(self) -> Mapping[str, Any]: ...
    def __len__(self) -> int: ...

    def candidates(self, query: Tensor, n: int) -> Tensor:
        """Return rows [Q, n] of the clips nearest to unit vectors `query` [Q, D], best first; if n covers them, all.

        What is read here is not verified: damage can lose a clip, not invent one.
        """

    def encoding(self, rows: Tensor) -> Encoding:
        """Return what the method keeps of some clips, in the order of `rows` [N]. Not verified."""

    def files(self, rows: Tensor) -> Tensor:
        """Return a number [N] of each row's file; rows of equal numbers are of one file. Not verified."""

    def clip(self, row: int) -> IndexedClip:
        """Return a clip, to be shown. Raises DataError unless all that is kept of it, its encoding too, is whole."""

    def append(
        self: _I, blocks: Iterable[IndexBlock], *, identity: Mapping[str, Any], asked: Mapping[str, str | None]
    ) -> _I:
        """Add clips and return the index that has them, made from `identity`; this one stays as it was opened."""

    def delete(self: _I, ids: Collection[str]) -> _I:
        """Take clips out and return the index without them; this one stays as it was opened."""
