"""Running parts on a cluster of Ray: the one file that imports it (the extra `[ray]`). Only numbers of parts go in,
and small rows come out; frames and tensors never pass its object store.

Ray tries a part again whose worker died, without end; `parts.attempted` ends that. What a part cannot do is a row of
its own, so one part takes none of the others with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

from tvr_cli.engine.whole.parts import Job, PartRow
from tvr_cli.errors import EnvironmentProblem
from tvr_cli.log import logger

_REACH_S = 10.0
_STORE_BYTES = 100 * 2**20  # of objects: rows of numbers take none of it


class RayPool:
    """A pool of processes: of the cluster at `address`, else one started here, which ends with the run."""

    def __init__(self, address: str | None = None, *, processors: int | None = None):
        self._address, self._processors = address, processors

    def __call__(self, job: Job, parts: Sequence[int], cpus: float, gpus: float) -> list[PartRow]:
        """Run a job for each part. cpus, gpus: that one takes. Raises EnvironmentProblem without Ray or the cluster."""
        with contextlib.redirect_stdout(sys.stderr):  # Ray says there who died; stdout is for results
            return self._run(job, parts, cpus, gpus)

    def _run(self, job: Job, parts: Sequence[int], cpus: float, gpus: float) -> list[PartRow]:
        ray = _started(self._address, self._processors)
        try:
            import ray.data as data

            data.DataContext.get_current().enable_progress_bars = False
            asked = data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
            resources: dict[str, Any] = {"num_cpus": cpus, **({"num_gpus": gpus} if gpus else {})}
            rows = asked.map(lambda row: dataclasses.asdict(job(row["part"])), **resources).take_all()
            return sorted((PartRow(**row) for row in rows), key=lambda row: row.part)
        finally:
            ray.shutdown()


def _require_somebody(address: str | None) -> None:
    """Raise EnvironmentProblem where nobody listens at `host:port`: Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except OSError as e:
        raise EnvironmentProblem(f"no cluster of Ray answers at {address!r}: {e.strerror or e}") from e


def _started(address: str | None, processors: int | None) -> Any:
    """Join the cluster, or start one; a busy machine may need a second try for that."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing leaves the machine
    try:
        import ray
    except ImportError as e:
        raise EnvironmentProblem(
            f"--engine ray needs Ray, which is not installed here ({e}); run: python -m pip install 'tvr-cli[ray]'"
        ) from e
    _require_somebody(address)
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _STORE_BYTES, "num_cpus": processors}
    options = {"address": address} if address is not None else own
    for left in (1, 0):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
            return ray
        except Exception as e:  # whatever a cluster says when it does not come
            ray.shutdown()
            if address is not None or not left:
                where = f"no cluster of Ray answers at {address!r}" if address else "Ray does not start here"
                raise EnvironmentProblem(f"{where}: {str(e).splitlines()[0] if str(e) else type(e).__name__}") from e
            logger.info("Ray did not start (%s); trying once more", type(e).__name__)
    raise AssertionError("the loop above returns or raises")
