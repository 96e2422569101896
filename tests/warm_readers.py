"""Processes that read videos, for tests that start dozens of them: forked from one that has imported what they need.

A spawned one takes 0.3 s of a processor to import it, in a test that reads for 0.05 s. What depends on how a process
starts is tested with those that tvr spawns (`tests/unit/test_decode_pool.py`).
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tvr_cli.stores.decoding import pool

IMPORTED = ["tvr_cli.stores.decoding.pool", "tvr_cli.stores.decoding.sample", "tvr_cli.stores.decoding.pyav", "av"]


@contextmanager
def warm() -> Iterator[None]:
    """Let pools that are made in the block fork their processes."""
    multiprocessing.set_forkserver_preload(IMPORTED)
    context = multiprocessing.get_context("forkserver")

    def process(*, target: Any, args: tuple[Any, ...], daemon: bool) -> Any:
        forkserver.ensure_running()
        # A worker ends with its parent, which here is the process that forks; and that one ends with us.
        parent = forkserver._forkserver._forkserver_pid
        return context.Process(
            target=target, args=tuple(parent if x == os.getpid() else x for x in args), daemon=daemon
        )

    made = SimpleNamespace(Pipe=context.Pipe, Process=process)
    with mock.patch.object(pool, "multiprocessing", SimpleNamespace(get_context=lambda _: made)):
        yield
