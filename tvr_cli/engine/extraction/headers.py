"""Headers of many files, read in processes of their own: a bad file can neither hang nor take down the run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tvr_cli.stores.decoding.header import Header, read_header
from tvr_cli.stores.decoding.pool import DecodePool, Unread, default_workers

# A header is read in milliseconds; a file that takes as long as this is not one.
_TIMEOUT_S = 20.0
# Fewer files than this are not worth a process more.
_FILES_A_WORKER = 50


def read(paths: Sequence[Path], *, until: float | None = None) -> dict[Path, Header]:
    """Return the headers of those files that are videos.

    until: time.monotonic() at which to stop, whatever is left.
    """
    if not paths:
        return {}
    found = {}
    workers = max(1, min(default_workers(), len(paths) // _FILES_A_WORKER))
    pool: DecodePool[Path, Header] = DecodePool(read_header, workers=workers, timeout_s=_TIMEOUT_S)
    with pool:
        for name, result in pool.run(((str(i), path) for i, path in enumerate(paths)), until=until):
            if not isinstance(result, Unread):
                found[paths[int(name)]] = result
    return found


def within(paths: Sequence[Path], seconds: float) -> dict[Path, Header]:
    """Return the headers that can be read in so many seconds."""
    return read(paths, until=time.monotonic() + seconds)


def moving(paths: Sequence[Path]) -> set[Path]:
    """Return the files that have a video stream of two frames or more."""
    return {path for path, header in read(paths).items() if header.moves}
