"""What search asks of an index, so that another engine can stand behind the scan."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor

from tvr_cli.stores.index.segment import IndexedClip
from tvr_cli.stores.index.writer import IndexBlock
from tvr_cli.types import Encoding

_I = TypeVar("_I", bound="SearchIndex")


class SearchIndex(Protocol):
    """Clips that can be scanned, scored, shown, added and deleted; five calls, and what they are about.

    A row is a number of a clip that stays as long as the index is open. identity: what the index was made from.
    measured: what was found out when it was built. len(): the clips that can be found.
    """

    @property
    def identity(self) -> Mapping[str, Any]: ...
    @property
    def measured(self) -> Mapping[str, Any]: ...
    def __len__(self) -> int: ...

    def candidates(self, query: Tensor, n: int, of_files: int = 1, among: Tensor | None = None) -> Tensor:
        """Return rows [Q, n] of the clips nearest to unit vectors `query` [Q, D], best first; if n covers them, all.

        of_files: different files that they are of, where there are so many: one film must not crowd out the others.
        among: the rows that may be found, ascending, None = all.
        What is read here is not verified: damage can lose a clip, not invent one.
        """

    def rows(self, only: Collection[str] | None = None) -> Tensor:
        """Return the rows [len] of all clips that can be found, ascending; only: of the files with these ids."""

    def blocks(self, names: Sequence[str] | None = None) -> Iterator[tuple[Tensor, Encoding]]:
        """Yield all clips that can be found, some rows [n] at a time, with what the method keeps of them.

        names: only these tensors, as they are kept: mapped, perhaps in half precision; None = all, as the method made
        them. Not verified.
        """

    def encoding(self, rows: Tensor, names: Sequence[str] | None = None) -> Encoding:
        """Return what the method keeps of some clips, in the order of `rows` [N]; names as in `blocks`.

        Not verified.
        """

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
