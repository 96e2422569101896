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
    """A pool of processes: of the cluster at `address`, else one started here, which ends with the run.

    processors, gpus: that the one started here is to have; None = what Ray finds.
    """

    def __init__(self, address: str | None = None, *, processors: int | None = None, gpus: int | None = None):
        self._address, self._own = address, {"num_cpus": processors, "num_gpus": gpus}

    def __call__(self, job: Job, parts: Sequence[int], cpus: float, gpus: float | None) -> list[PartRow]:
        """Run a job for each part. cpus, gpus: that one takes; gpus None: one where the cluster has any.

        Raises EnvironmentProblem without Ray or the cluster, and where no node of it has what a job takes.
        """
        with contextlib.redirect_stdout(sys.stderr):  # Ray says there who died; stdout is for results
            return self._run(job, parts, cpus, gpus)

    def _run(self, job: Job, parts: Sequence[int], cpus: float, gpus: float | None) -> list[PartRow]:
        ray = _started(self._address, self._own)
        try:
            if gpus is None:
                gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0))
            room = _require_room(ray, cpus, gpus)
            import ray.data as data

            data.DataContext.get_current().enable_progress_bars = False
            asked = data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
            if gpus:  # one process a GPU, which stays: a task's would end with its part
                pool = data.ActorPoolStrategy(min_size=1, max_size=min(room, len(parts)))
                given: dict[str, Any] = {"fn_constructor_args": (job,), "num_cpus": cpus, "num_gpus": gpus}
                rows = asked.map(_Runner, compute=pool, **given).take_all()
            else:
                rows = asked.map(_Runner(job), num_cpus=cpus).take_all()
            return sorted((PartRow(**row) for row in rows), key=lambda row: row.part)
        finally:
            ray.shutdown()


class _Runner:
    """Runs a job for a row that names a part."""

    def __init__(self, job: Job):
        self._job = job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return dataclasses.asdict(self._job(row["part"]))


def _require_room(ray: Any, cpus: float, gpus: float) -> int:
    """Return how many jobs the cluster holds at a time. Raises EnvironmentProblem for none: Ray would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(
        int(min(node.get("CPU", 0.0) // cpus, node.get("GPU", 0.0) // gpus if gpus else float("inf"))) for node in nodes
    )
    if not room:
        found = " and ".join(f"{max((n.get(k, 0.0) for n in nodes), default=0.0):g} {k}s" for k in ("CPU", "GPU"))
        raise EnvironmentProblem(
            f"a part takes {cpus:g} CPUs and {gpus:g} GPUs, and no node of the cluster has both (at most {found}); ask "
            "for fewer --workers, or another --device"
        )
    return room


def _require_somebody(address: str | None) -> None:
    """Raise EnvironmentProblem where nobody listens at `host:port`: Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except OSError as e:
        raise EnvironmentProblem(f"no cluster of Ray answers at {address!r}: {e.strerror or e}") from e


def _started(address: str | None, has: dict[str, int | None]) -> Any:
    """Join the cluster, or start one; a busy machine may need a second try for that."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing leaves the machine
    try:
        import ray
        import ray.data  # what a bare `pip install ray` lacks
    except ImportError as e:
        raise EnvironmentProblem(
            f"--engine ray needs Ray, which is not installed here ({e}); run: python -m pip install 'tvr-cli[ray]'"
        ) from e
    _require_somebody(address)
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _STORE_BYTES, **has}
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
