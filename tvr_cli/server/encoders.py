"""How many videos are encoded at a time: each takes a processor, and search is to go on beside them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from tvr_cli.errors import EnvironmentProblem

AT_ONCE = max(2, (os.cpu_count() or 2) // 2)
WAIT_S = 15.0  # for a place: who turns to the next moment leaves the last one's only a little later


class Encoders:
    """So many places; threads may share them."""

    def __init__(self, at_once: int = AT_ONCE, wait_s: float = WAIT_S):
        self.at_once, self.wait_s = at_once, wait_s
        self._free = threading.BoundedSemaphore(at_once)

    def take(self) -> None:
        """Take a place, which `give_back` frees. Raises EnvironmentProblem where none gets free in time."""
        if not self._free.acquire(timeout=self.wait_s):
            raise EnvironmentProblem(
                f"{self.at_once} videos are cut or transcoded already, and none of them ended within "
                f"{self.wait_s:g} seconds; try again when one has"
            )

    def give_back(self) -> None:
        self._free.release()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Have a place in the block. Raises as `take`."""
        self.take()
        try:
            yield
        finally:
            self.give_back()
