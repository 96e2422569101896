"""A table of LanceDB, on a disk or in a bucket: rows by stable ids, and the nearest of their vectors.

The one file that imports lancedb and pyarrow (the extra `[lance]`). What rows mean is known in `lance_index.py`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from tvr_cli.errors import DataError, EnvironmentProblem
from tvr_cli.log import logger

# Rows are asked for by their ids, which a compaction changes unless this is said when the table is made.
_STABLE = {"new_table_enable_stable_row_ids": "true"}
_KEPT = timedelta(hours=1)  # old versions, for who reads one
_TRIES, _PAUSE_S = 8, 0.2  # of a compaction that another writer was faster than
_ITERATIONS, _SAMPLE = 8, 64  # of k-means: what it finds is scored again, and building is most of the time
# A bit a dimension orders clips roughly: of the 200 nearest of 200 000 it finds 0.71. Of so many times as many the
# whole vectors are looked at, for 12 ms: twice as many 0.95, four times 1.00.
_REFINED = 4
TYPES = {  # of a tensor's numbers -> of a table's
    "float16": "float16", "float32": "float32", "float64": "float64", "int32": "int32", "int64": "int64",
    "uint8": "uint8", "bool": "uint8", "bfloat16": "int16",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """A column. dtype: of its numbers, `text` or `bytes`. width: numbers a row, 0 = one alone; bytes a row, 0 = any."""

    name: str
    dtype: str
    width: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a table is. uri: the folder or bucket that holds it."""

    uri: str
    name: str

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri

    @property
    def folder(self) -> Path:
        """Where its files lie, of a local one."""
        return Path(self.uri) / f"{self.name}.lance"

    def __str__(self) -> str:
        return f"{self.uri.rstrip('/')}/{self.name}.lance"


class LanceTable:
    """A table opened at one version: another writer changes nothing of what is read here."""

    def __init__(self, handle: Any, at: Place):
        self._handle, self.at = handle, at

    @classmethod
    def create(cls, at: Place, columns: Sequence[Column], rows: Iterable[Mapping[str, Any]]) -> LanceTable:
        """Write a table of blocks of rows, in one commit. Replaces one of that name.

        Raises EnvironmentProblem without the extra, and when disk or bucket refuse.
        """
        schema, feed = _schema(columns), _Feed(columns, rows)
        with _told(at, feed):
            db = _connected(at, _STABLE)
            return cls(db.create_table(at.name, data=feed.reader(schema), schema=schema, mode="overwrite"), at)

    @classmethod
    def open(cls, at: Place, version: int | None = None) -> LanceTable:
        """Open a table, at a version or the newest. Raises DataError where there is none, EnvironmentProblem."""
        with _told(at):
            handle = _connected(at).open_table(at.name)
            if version is not None:
                handle.checkout(version)
            return cls(handle, at)

    @property
    def version(self) -> int:
        return int(self._handle.version)

    def __len__(self) -> int:
        with _told(self.at):
            return int(self._handle.count_rows())

    def require_columns(self, columns: Sequence[Column]) -> None:
        """Raise DataError unless the table has exactly these columns."""
        found = {field.name: str(field.type) for field in self._handle.schema}
        wanted = {field.name: str(field.type) for field in _schema(columns)}
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                raise DataError(
                    f"the table {str(self.at)!r} is another than the index says: its column {name!r} is "
                    f"{found.get(name) or 'missing'}, expected {wanted.get(name) or 'none'}"
                )

    def size_bytes(self) -> int:
        with _told(self.at):
            return int(self._handle.stats()["total_bytes"])

    def scan(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield some columns of all rows, a few thousand rows at a time, with `_rowid`, in no order."""
        with _told(self.at):
            asked = self._handle.search().select([_written(n) for n in names]).with_row_id(True)
            for batch in asked.to_batches(batch_size=8192):
                yield _arrays(batch, names)

    def take(self, ids: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        """Return some columns of rows by their ids [n], in their order. Raises DataError where one is not there."""
        with _told(self.at):
            asked = self._handle.take_row_ids(ids.tolist()).select([_written(n) for n in names])
            found = _arrays(asked.with_row_id().to_arrow(), names)
        order = np.argsort(found["_rowid"], kind="stable")  # the table gives them in its own order
        at = np.searchsorted(found["_rowid"], ids, sorter=order)
        if len(at) and (at.max(initial=0) >= len(order) or (found["_rowid"][order[at]] != ids).any()):
            raise DataError(f"the table {str(self.at)!r} lacks rows that the index names")
        rows = order[at]
        return {n: x[rows] if isinstance(x, np.ndarray) else [x[i] for i in rows] for n, x in found.items()}

    def nearest(self, query: np.ndarray, n: int, *, probes: int, exact: bool = False) -> np.ndarray:
        """Return the ids [n] of the rows whose `coarse` is nearest to a unit vector [D], best first."""
        with _told(self.at):
            asked = self._handle.search(query, vector_column_name="coarse").distance_type("cosine").nprobes(probes)
            asked = asked.bypass_vector_index() if exact else asked.refine_factor(_REFINED)
            asked = asked.limit(n).select(["row", "_distance"]).with_row_id(True)
            return np.asarray(asked.to_arrow()["_rowid"].to_numpy(), np.int64)

    # -------------------------------------------------------------------------------------------------------- writing

    def add(self, version: int, columns: Sequence[Column], rows: Iterable[Mapping[str, Any]]) -> LanceTable:
        """Add blocks of rows to a version in one commit, and return the table that has them."""
        newest, feed = self._from(version), _Feed(columns, rows)
        with _told(self.at, feed):
            newest._handle.add(feed.reader(_schema(columns)))
        return newest

    def delete(self, version: int, ids: Sequence[str]) -> LanceTable:
        """Take rows out of a version by their text `id`, and return the table without them."""
        newest = self._from(version)
        with _told(self.at):
            for start in range(0, len(ids), 500):
                some = ", ".join("'" + name.replace("'", "''") + "'" for name in ids[start : start + 500])
                newest._handle.delete(f"id IN ({some})")
        return newest

    def _from(self, version: int) -> LanceTable:
        """Return the table to be written on from a version: what a writer that was killed committed after it goes."""
        newest = LanceTable.open(self.at)
        if newest.version == version:
            return newest
        counts = LanceTable.open(self.at, version)
        with _told(self.at):
            counts._handle.restore()
        return LanceTable.open(self.at)

    def build(self, partitions: int) -> None:
        """Build what finds near vectors without a scan: IVF with RaBitQ, a bit a dimension."""
        from lancedb.index import IvfRq

        how = IvfRq(distance_type="cosine", num_partitions=partitions, max_iterations=_ITERATIONS, sample_rate=_SAMPLE)
        with _told(self.at):
            self._handle.create_index("coarse", config=how, replace=True)

    def settle(self) -> None:
        """Compact, take new rows into what finds near vectors, and remove what nobody reads or a kill left behind."""
        newest = LanceTable.open(self.at)
        for left in reversed(range(_TRIES)):
            try:
                newest._handle.optimize(cleanup_older_than=_KEPT)
                break
            except (RuntimeError, OSError) as e:
                if "commit conflict" not in str(e) or not left:
                    logger.info("the table %s is not compacted now (%s)", self.at, str(e).split("\n")[0])
                    break
                time.sleep(_PAUSE_S)
                newest._handle.checkout_latest()
        if self.at.is_local:
            for path in (self.at.folder / "data").glob(".tmp*"):  # of a writer that was killed; Lance leaves them
                path.unlink(missing_ok=True)

    @staticmethod
    def drop(at: Place, is_over: Callable[[str], bool]) -> None:
        """Remove the tables that lie beside a table, and itself, as far as `is_over` says so of their names.

        Raises EnvironmentProblem without the extra, and when disk or bucket refuse.
        """
        with _told(at):
            db, names, page = _connected(at), list[str](), None
            while page is None or page.page_token:
                page = db.list_tables(page_token=None if page is None else page.page_token)
                names += page.tables
            for name in filter(is_over, names):
                db.drop_table(name)


def _connected(at: Place, options: Mapping[str, str] | None = None) -> Any:
    return _lancedb().connect(at.uri, storage_options=dict(options or {}))


def _lancedb() -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")  # else it warns of small tables on stderr
    try:
        import lancedb
    except ImportError as e:
        raise _absent(e) from e
    return lancedb


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as e:
        raise _absent(e) from e
    return pyarrow


def _absent(e: ImportError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"--store lance needs LanceDB, which is not installed here ({e}); run: python -m pip install 'tvr-cli[lance]'"
    )


class _Feed:
    """Blocks of rows on their way into a table, which would hide what goes wrong in making them."""

    def __init__(self, columns: Sequence[Column], rows: Iterable[Mapping[str, Any]]):
        self._columns, self._rows = columns, rows
        self.error: BaseException | None = None

    def reader(self, schema: Any) -> Any:
        return _pyarrow().RecordBatchReader.from_batches(schema, self._batches(schema))

    def _batches(self, schema: Any) -> Iterator[Any]:
        try:
            for block in self._rows:
                yield _batch(schema, self._columns, block)
        except BaseException as e:
            self.error = e
            raise


@contextlib.contextmanager
def _told(at: Place, feed: _Feed | None = None) -> Iterator[None]:
    """Say what table, disk or bucket refused, with the place. feed: whose own errors are raised as they are."""
    try:
        yield
    except (RuntimeError, OSError, ValueError) as e:
        if feed is not None and feed.error is not None:
            raise feed.error from None
        said = str(e).split("\n")[0][:300]
        if "not found" in said.lower() and "table" in said.lower():
            raise DataError(f"there is no table {str(at)!r}: {said}") from e
        raise EnvironmentProblem(f"the table {str(at)!r} cannot be read or written: {said}") from e


def _schema(columns: Sequence[Column]) -> Any:
    pa = _pyarrow()

    def kind(column: Column) -> Any:
        if column.dtype == "text":
            return pa.string()
        if column.dtype == "bytes":
            return pa.binary(column.width or -1)
        number = pa.from_numpy_dtype(np.dtype(TYPES[column.dtype]))
        return pa.list_(number, column.width) if column.width else number

    return pa.schema([(_written(column.name), kind(column)) for column in columns])


def _written(name: str) -> str:
    """Return what a column is called in the table, where a dot would mean a part of a column."""
    return name.replace(".", "__")


def _batch(schema: Any, columns: Sequence[Column], block: Mapping[str, Any]) -> Any:
    pa = _pyarrow()
    arrays = []
    for column, field in zip(columns, schema, strict=True):
        held = block[column.name]
        if column.dtype in ("text", "bytes"):
            arrays.append(pa.array(held, field.type))
        elif column.width:
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(held)), column.width))
        else:
            arrays.append(pa.array(np.ravel(held)))
    return pa.record_batch(arrays, schema=schema)


def _is_bytes(kind: Any) -> bool:
    types = _pyarrow().types
    return bool(types.is_binary(kind) or types.is_fixed_size_binary(kind))


def _arrays(found: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return columns as arrays [n] or [n, width], of text and bytes as lists."""
    pa = _pyarrow()
    made: dict[str, Any] = {}
    for name in (*names, "_rowid"):
        column = found.column(_written(name))
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            made[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
        elif pa.types.is_string(column.type) or _is_bytes(column.type):
            made[name] = column.to_pylist()
        else:
            made[name] = column.to_numpy(zero_copy_only=False)
    made["_rowid"] = made["_rowid"].astype(np.int64)
    return made
