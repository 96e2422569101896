"""An index whose clips are rows of a table of LanceDB: `tvr index --store lance[:URI]`, on a disk or in a bucket.

What an index of files keeps in segments is a table here: a row a clip, with its coarse vector, the method's tensors
and a checksum (`lance_rows.py`). Rows are found by Lance's stable ids. `current` and the head lie in the workspace as
ever and name the version that counts; so a version is a generation, and what a reader has opened stays as it is.

Coarse vectors are copied into memory once and scanned as those of files are, as long as they fit; above that Lance
searches cells of them. Frames by time are not kept: moments are found in clips.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvr_cli.errors import DataError, TvrError
from tvr_cli.log import logger
from tvr_cli.stores.dtypes import NAMES, tensor_of
from tvr_cli.stores.index import place
from tvr_cli.stores.index.head import Head, Table
from tvr_cli.stores.index.lance_rows import (
    LISTED,
    LISTED_SUM,
    PACKED,
    ReadRows,
    Rows,
    columns,
    listed_sums,
    own_columns,
    parts_of,
)
from tvr_cli.stores.index.lance_table import LanceTable, Place
from tvr_cli.stores.index.opened import ENCODING_ROWS, damaged
from tvr_cli.stores.index.shortlist import chosen
from tvr_cli.stores.index.store import Index, Row
from tvr_cli.stores.index.timeline import FilmBlock, IndexedFilms
from tvr_cli.stores.index.writer import IndexBlock, IndexedClip, kept_as
from tvr_cli.types import Encoding

MEMORY = 4_000_000_000  # bytes of coarse vectors that are kept in memory, unless somebody says another number
_NAME = "tvr-index-"
_FOUND = 0.99  # of the nearest that cells have to find
_PROBES = (16, 32, 64, 128, 256)


class _Resident:
    """Columns of all rows in memory, as a segment gives them. coarse: [rows, K, D] float16, None where too large."""

    def __init__(self, index: LanceIndex, file: np.ndarray, coarse: Tensor | None):
        self.clips, self.files = len(file), index.head.table.files if index.head.table else 0
        self._index, self._file, self._coarse = index, file, coarse
        self.parts: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Tensor:
        assert name == "coarse" and self._coarse is not None, "nothing else is kept in memory"
        return self._coarse

    def array(self, name: str) -> np.ndarray:
        return self._file if name == "clip.file" else self[name].numpy()

    @property
    def file_ids(self) -> list[str]:
        return self._index.file_names


class LanceIndex(Index):
    """An index of a table. Its rows are numbers from 0 in the order in which clips came, as of the version opened."""

    def __init__(self, folder: Path, generation: Path, head: Head, table: LanceTable):
        super().__init__(folder, generation, head)
        assert head.table is not None, "the caller asked"
        self.about, self.table = head.table, table
        table.require_columns(columns(self.about.parts))
        numbers = [(found["row"], found["_rowid"], found["file"]) for found in table.scan(("row", "file"))]
        row, ids, file = (np.concatenate(x) for x in zip(*numbers, strict=True)) if numbers else [np.zeros(0, int)] * 3
        if len(row) != self.about.rows:
            raise self._damaged(f"its table has {len(row)} rows, and its head says {self.about.rows}")
        order = np.argsort(row, kind="stable")
        self._numbers, self._ids, self._file = row[order], ids[order], file[order].astype(np.int32)
        self._by_id = np.argsort(self._ids, kind="stable")
        self._seen: tuple[dict[int, int], ReadRows | None] = {}, None
        coarse = None if self.about.is_searched_by_cells else self._coarse()
        self._segments = [_Resident(self, self._file, coarse)]  # type: ignore[list-item]
        self._starts, self._ends, self._live = [0, len(row)], torch.tensor([len(row)]), len(row)

    @classmethod
    def open(cls, folder: Path) -> LanceIndex:
        """Open the version that counts. Raises as `Index.open`, and EnvironmentProblem where the table is not given."""
        while True:
            generation, head = place.current(folder)
            assert head.table is not None, "the caller asked"
            try:
                table = LanceTable.open(_place(folder, head.table), head.table.version)
                return cls(folder, generation, head, table)
            except DataError as e:
                if place.current(folder)[0] == generation:
                    raise damaged(folder, str(e)) if "rebuild it" not in str(e) else e from e

    # --------------------------------------------------------------------------------------------------------- reading

    @property
    def file_numbers(self) -> np.ndarray:
        return self._file

    @property
    def films(self) -> list[IndexedFilms]:
        return []

    @cached_property
    def file_names(self) -> list[str]:
        """The id of each file by its number; of files without a clip any more the empty text."""
        names = [""] * self.about.files
        for found in self.table.scan(("file", "file_id")):
            for number, name in zip(found["file"].tolist(), found["file_id"], strict=True):
                names[number] = name
        return names

    def require_whole(self) -> None:
        """Nothing can be cut short: a version of a table is read, or refused."""

    def rows_of(self, only: Collection[str] | None) -> np.ndarray:
        if only is None:
            return np.arange(len(self))
        wanted = np.array([name in only for name in self.file_names], bool)
        return np.flatnonzero(wanted[self._file]) if len(wanted) else np.zeros(0, np.int64)

    def encoding(self, rows: Tensor, names: Sequence[str] | None = None) -> Encoding:
        if names is not None:
            return self._read(rows, names)
        found = self._take(rows)
        self._seen = {row: i for i, row in enumerate(rows.tolist())}, found  # some of these are shown next
        return self._encoding(torch.from_numpy(found["key"]), names, lambda part: self._tensor(part, found))

    def blocks(self, names: Sequence[str] | None = None) -> Iterator[tuple[Tensor, Encoding]]:
        for rows in torch.arange(len(self)).split(ENCODING_ROWS) if len(self) else ():
            yield rows, self._read(rows, names)

    def clip(self, row: int) -> IndexedClip:
        at, seen = self._seen
        if seen is None or row not in at:
            at, seen = {row: 0}, self._take(torch.tensor([row]))
        if not seen.is_whole(at[row]):
            name = seen.texts(at[row])[0]
            raise self._damaged(f"the row of {name!r} in {str(self.table.at)!r} is not what was written")
        return seen.clip(at[row])

    def verify_rows(self) -> None:
        """Raise DataError unless every row, and what lists read of it, is what was written; reads all of it."""
        for _ in self.listing():
            pass
        for rows in torch.arange(len(self)).split(ENCODING_ROWS) if len(self) else ():
            self.encoding(rows)
            for row in rows.tolist():
                self.clip(row)

    def listing(self) -> Iterator[tuple[int, Row]]:
        for found in self.table.scan(("row", *LISTED, LISTED_SUM)):
            if found[LISTED_SUM] != listed_sums(found):
                raise self._damaged(f"rows of {str(self.table.at)!r} are not what was written")
            at = np.searchsorted(self._numbers, found["row"]).tolist()
            columns = [found[n] if isinstance(found[n], list) else found[n].tolist() for n in LISTED]
            for row, (id_, file_id, path, start, end, key, n) in zip(at, zip(*columns, strict=True), strict=True):
                yield row, Row(id_, file_id, path, start, end, key, n)

    def null_sentences(self) -> list[str] | None:
        return list(self.about.null) or None

    def parts(self) -> Iterator[tuple[str, Any]]:
        """Yield the table as one part, which can be verified."""
        yield str(self.table.at), _Verified(self)

    def count_files(self) -> int:
        return len(np.unique(self._file))

    def size_bytes(self) -> int:
        return self.table.size_bytes()

    @property
    def worn(self) -> bool:
        return False  # compaction keeps it fresh

    # -------------------------------------------------------------------------------------------------------- changing

    def append(
        self,
        blocks: Iterable[IndexBlock],
        *,
        identity: Mapping[str, Any],
        asked: Mapping[str, str | None],
        films: Iterable[FilmBlock] = (),
        measure: Callable[[Index], Mapping[str, Any]] | None = None,
    ) -> LanceIndex:
        """Add clips in one commit of the table, and return the index that has them. Raises as `Index.append`."""
        named = {name: value for name, value in asked.items() if value}
        head = dataclasses.replace(self.head, identity=dict(identity), asked=named)
        names = {self._key_of(number, name): number for number, name in enumerate(self.file_names)}
        maker = Rows(head, self.about.parts, names, int(self._numbers[-1]) + 1 if len(self) else 0)
        generation = place.prepare(self.folder, Head(head.identity, head.asked))
        coming = iter(blocks)
        first = next(coming, None)
        table = self.table
        if first is not None:
            made = map(maker.made, chain([first], coming))
            table = self.table.add(self.about.version, columns(self.about.parts), made)
            table.settle()
            table = LanceTable.open(table.at)
        about = dataclasses.replace(
            self.about, version=table.version, rows=len(self) + maker.count, files=max(self.about.files, maker.files)
        )
        return _committed(self.folder, generation, dataclasses.replace(head, table=about), table, measure)

    def delete(self, ids: Collection[str]) -> LanceIndex:
        """Take clips out in one commit of the table, and return the index without them."""
        generation = place.prepare(self.folder, Head(self.head.identity, self.head.asked))
        table = self.table.delete(self.about.version, sorted(ids))
        about = dataclasses.replace(self.about, version=table.version, rows=len(table))
        return _committed(self.folder, generation, dataclasses.replace(self.head, table=about), table, None)

    def tuned(self, queries: Tensor, n: int) -> tuple[int, float]:
        """Return how many cells a search has to look at, and what share of the nearest n it then finds.

        queries: [Q, D] unit vectors, for which the nearest are found exactly too. The index must have cells.
        """
        asked = queries.float().numpy()
        exact = [set(self.table.nearest(q, n, probes=1, exact=True).tolist()) for q in asked]
        found = 0.0
        for probes in _PROBES:
            seen = (set(self.table.nearest(query, n, probes=probes).tolist()) for query in asked)
            found = sum(len(a & b) for a, b in zip(seen, exact, strict=True)) / max(1, sum(map(len, exact)))
            if found >= _FOUND:
                break
        return probes, found

    # --------------------------------------------------------------------------------------------------------- private

    def _file_count(self) -> int:
        return self.about.files

    def _scan(self, query: Tensor, n: int) -> Tensor:
        if not self.about.is_searched_by_cells:
            return super()._scan(query, n)
        return torch.stack([self._near(one, n) for one in query])

    def _near(self, query: Tensor, n: int) -> Tensor:
        """Return the rows [n] nearest to one vector by cells; where these hold fewer, any others follow."""
        ids = self.table.nearest(query.numpy(), n, probes=self.about.probes or 1)
        rows = torch.from_numpy(self._by_id[np.searchsorted(self._ids, ids, sorter=self._by_id)])
        if len(rows) == n:
            return rows
        others = torch.ones(len(self), dtype=torch.bool)
        others[rows] = False
        return torch.cat([rows, others.nonzero()[: n - len(rows), 0]])

    def _apart(self, query: Tensor, n: int, of_files: int, rows: Tensor) -> Tensor:
        if not self.about.is_searched_by_cells:
            return super()._apart(query, n, of_files, rows)
        if len(rows) == len(self):
            rows = self._near(query[0], min(len(self), max(8 * n, 1000)))
        near = [self._vectors(part) @ query[0] for part in rows.split(ENCODING_ROWS)]
        return rows[torch.from_numpy(chosen(torch.cat(near).numpy(), self._file[rows.numpy()], n, of_files))]

    def _vectors(self, rows: Tensor) -> Tensor:
        found = self.table.take(self._ids[rows.numpy()], ["coarse"])
        return torch.from_numpy(found["coarse"])

    def _read(self, rows: Tensor, names: Sequence[str] | None) -> Encoding:
        wanted = {self._part_of(name) for name in self.head.encoding if names is None or name in names}
        found = self._take(rows, wanted)
        return self._encoding(torch.from_numpy(found["key"]), names, lambda part: self._tensor(part, found))

    def _take(self, rows: Tensor, parts: Collection[str] | None = None) -> ReadRows:
        """Read what is packed, and of the other parts those of these names, None = all."""
        own = [name for name in own_columns(self.about.parts) if parts is None or name in parts]
        held = {"coarse"} if "coarse" in own and not self.about.is_searched_by_cells else set[str]()
        found = self.table.take(self._ids[rows.numpy()], [PACKED, *(name for name in own if name not in held)])
        if held:
            found["coarse"] = self._segments[0]["coarse"].index_select(0, rows).flatten(1).float().numpy()
        try:
            return ReadRows(found, self.about.parts)
        except ValueError as e:
            raise self._damaged(f"a row of {str(self.table.at)!r} is not what was written: {e}") from None

    def _tensor(self, part: str, found: ReadRows) -> Tensor:
        dtype, shape = self.about.parts[part]
        x = found[part] if part != "coarse" else found[part].astype(np.float16)
        return tensor_of(x if dtype != "bool" else x.astype(bool), dtype).view(len(x), *shape)

    def _coarse(self) -> Tensor:
        """Read the coarse vectors of all rows, in their order: [rows, K, D] float16."""
        _, shape = self.about.parts["coarse"]
        coarse = torch.empty(len(self._numbers), *shape, dtype=torch.float16)
        for found in self.table.scan(("row", "coarse")):
            at = torch.from_numpy(np.searchsorted(self._numbers, found["row"]))
            coarse[at] = torch.from_numpy(found["coarse"].astype(np.float16)).view(-1, *shape)
        return coarse

    def _key_of(self, number: int, name: str) -> str:
        return name or f"\0{number}"  # a number whose file is gone is not given again


class _Verified:
    """All rows of a table, for `tvr doctor`."""

    def __init__(self, index: LanceIndex):
        self._index = index

    def verify_all(self) -> None:
        """Raise DataError unless every row is what was written."""
        self._index.verify_rows()


def write_lance(
    folder: Path,
    identity: Mapping[str, Any],
    blocks: Iterable[IndexBlock],
    *,
    uri: str | None = None,
    memory: int = MEMORY,
    asked: Mapping[str, str | None] | None = None,
    stored: str = "float32",
    measured: Mapping[str, Any] | None = None,
    measure: Callable[[Index], Mapping[str, Any]] | None = None,
    null_sentences: Sequence[str] = (),
    queries: Callable[[], Tensor | None] = lambda: None,
) -> Index:
    """Write an index into a table, and let it count; the old one stands until then. Otherwise as `write_index`.

    uri: the folder or bucket that holds the table, None = the workspace. memory: bytes that coarse vectors may take;
    where they would take more, cells of them are built. queries: gives unit vectors of sentences that cells are tuned
    with. Raises DataError without a clip, DoesNotFit, EnvironmentProblem where the table cannot be written.
    """
    named = {name: value for name, value in (asked or {}).items() if value}
    head = Head(dict(identity), named, stored, measured=dict(measured or {}))
    generation = place.prepare(folder, head)
    coming = iter(blocks)
    first = next(coming, None)
    if first is None:
        raise DataError(f"there is no clip to index in {str(folder.parent)!r}; a table needs one")
    head = dataclasses.replace(head, encoding=kept_as(first, stored))
    parts = {name: (NAMES[x.dtype], tuple(x.shape[1:])) for name, x in parts_of(first, head).items()}
    before = table_of(folder)
    about = Table(uri, _name(uri, generation), 0, 0, 0, parts, memory, None, tuple(null_sentences))
    maker = Rows(head, parts, {}, 0)
    at = _place(folder, about)
    table = LanceTable.create(at, columns(about.parts), map(maker.made, chain([first], coming)))
    many = maker.count * prod(parts["coarse"][1]) * 2 > memory
    if many and parts["coarse"][1][0] > 1:
        logger.info("clips have several coarse vectors, which cells cannot hold: they are kept in memory all the same")
    cells = many and parts["coarse"][1][0] == 1
    if cells:
        table.build(max(1, round(sqrt(maker.count))))
        table = LanceTable.open(at)
    about = dataclasses.replace(
        about, version=table.version, rows=maker.count, files=maker.files, probes=_PROBES[1] if cells else None
    )
    head = dataclasses.replace(head, table=about)
    if cells and (asking := queries()) is not None:
        probes, found = LanceIndex(folder, generation, head, table).tuned(asking, 200)
        logger.info("of the 200 nearest clips %.1f %% are found in %d cells", 100 * found, probes)
        head = dataclasses.replace(head, table=dataclasses.replace(about, probes=probes))
    done = _committed(folder, generation, head, table, measure)
    if before is not None or uri is None:
        drop_replaced(folder, before or about, at.name)
    return done


def drop_replaced(folder: Path, before: Table, keep: str = "") -> None:
    """Remove the table of an index that was replaced, and in a workspace whatever else is left of tables, but one.

    What refuses is said and no error: the new index counts already.
    """
    at = _place(folder, before)
    try:
        if before.uri is None:
            LanceTable.drop(at, lambda name: name.startswith(_NAME) and name != keep)
        else:  # where others may have theirs
            LanceTable.drop(at, lambda name: name == before.name and name != keep)
    except TvrError as e:
        logger.warning("warning: the table %s is over, and could not be removed (%s)", at, e)


def table_of(folder: Path) -> Table | None:
    """Return the table of the index that counts, None where there is none or it is one of files."""
    found = place.standing(folder)
    return None if found is None or found.head is None else found.head.table


def _name(uri: str | None, generation: Path) -> str:
    """Return what a new table is called: where other workspaces have theirs too, as none of these is."""
    apart = "" if uri is None else f"{secrets.token_hex(8)}-"
    return f"{_NAME}{apart}{generation.name}"


def _committed(
    folder: Path, generation: Path, head: Head, table: LanceTable, measure: Callable[[Index], Mapping[str, Any]] | None
) -> LanceIndex:
    index = LanceIndex(folder, generation, head, table)
    if measure is not None:
        head = dataclasses.replace(head, measured={**head.measured, **measure(index)})
    place.commit(folder, generation, head)
    return LanceIndex(folder, generation, head, table)


def _place(folder: Path, about: Table) -> Place:
    return Place(about.uri or str(folder.parent), about.name)
