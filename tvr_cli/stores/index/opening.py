"""Which kind of index stands somewhere, and opening it: of files (`store.py`) or of a table (`lance_index.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from tvr_cli.errors import ConfigError
from tvr_cli.stores.index import place
from tvr_cli.stores.index.head import Head
from tvr_cli.stores.index.lance_index import MEMORY, LanceIndex, drop_replaced, table_of, write_lance
from tvr_cli.stores.index.store import Index, write_index
from tvr_cli.stores.index.timeline import FilmBlock

Write = Callable[..., Index]


@dataclass(frozen=True, slots=True)
class Kind:
    """How an index is kept. uri: of a table, what holds it; None = the workspace. memory: see `head.Table`."""

    name: Literal["file", "lance"] = "file"
    uri: str | None = None
    memory: int = MEMORY

    @property
    def has_films(self) -> bool:
        """Whether frames by time are kept."""
        return self.name == "file"

    def writer(self, films: Iterable[FilmBlock], queries: Callable[[], Tensor | None]) -> Write:
        """Return what writes such an index. films: of files by time. queries: that cells of a table are tuned with."""
        if self.name == "file":
            return partial(_write_files, films=films)
        return partial(write_lance, uri=self.uri, memory=self.memory, queries=queries)


def _write_files(folder: Path, *asked: Any, **named: Any) -> Index:
    """Write an index of files, as `write_index` does, and remove the table of the one that it replaces."""
    before = table_of(folder)
    done = write_index(folder, *asked, **named)
    if before is not None:
        drop_replaced(folder, before)
    return done


def parse_kind(text: str, memory: int | None) -> Kind:
    """Read `--store`: file, lance or lance:URI. Raises ConfigError."""
    name, colon, uri = text.partition(":")
    if name == "file" and not colon:
        return Kind()
    if name != "lance" or (colon and not uri):
        raise ConfigError(f"--store: expected file, lance or lance:URI such as lance:s3://bucket/path, found {text!r}")
    return Kind("lance", uri or None, MEMORY if memory is None else memory)


def kind_of(head: Head | None) -> Kind:
    """Return how an index is kept that has this head; of none: of files."""
    if head is None or head.table is None:
        return Kind()
    return Kind("lance", head.table.uri, head.table.memory)


def open_index(folder: Path) -> Index:
    """Open the index that counts. Raises as `Index.open` does, and EnvironmentProblem where a table is not given."""
    found = place.standing(folder)
    if found is not None and found.head is not None and found.head.table is not None:
        return LanceIndex.open(folder)
    return Index.open(folder)
