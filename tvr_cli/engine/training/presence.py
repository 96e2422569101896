"""Which ranks are there, and what one of them tells the others outside the step: a small store over TCP, and a beat.

The store belongs to whoever started the ranks (torchrun's agent, or the launcher in `launch.py`), else to rank 0. Each
rank says every second that it is alive, how it left, or what went wrong; whoever misses another's beat for `SILENT_S`
seconds, or sees the starter's note that its process ended, raises `RankLost` at the next moment it would wait.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from torch import distributed

from tvr_cli import files, log
from tvr_cli.errors import ConfigError, EnvironmentProblem

SILENT_S = 18.0  # without a beat, after which a rank counts as dead
ARRIVE_S = 600.0  # for all ranks to be started, on all machines
_BEAT_S = 1.0
_LOOK_S = 0.02
_ASKED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_visits = itertools.count()  # a program may train several times under one torchrun: each time under keys of its own


class RankLost(EnvironmentProblem):
    """Another rank ended, so this one cannot go on."""


@dataclass(frozen=True)
class Place:
    """Which rank a process is. rank: of world. local_rank: of local_world, those on this machine.

    host, port: of the store. hosts: whether this rank has to open it.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    host: str
    port: int
    hosts: bool = False
    attempt: int = 0


def place_in(environment: Mapping[str, str]) -> Place | None:
    """Read what `torchrun` tells its processes; None in a process that it did not start. Raises ConfigError."""
    if not all(environment.get(name) for name in _ASKED):
        return None
    named = {**{"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "TORCHELASTIC_RESTART_COUNT": "0"}, **environment}
    words = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    if bad := [f"{word}={named[word]!r}" for word in words if not named[word].isdigit()]:
        raise ConfigError(f"expected numbers in what torchrun tells a rank, found {', '.join(bad)}; unset {words[0]}")
    rank, world, local_rank, local_world, port, attempt = (int(named[word]) for word in words)
    if not (rank < world and local_rank < local_world <= world):
        raise ConfigError(
            f"expected a rank below the number of ranks, found RANK={rank} of WORLD_SIZE={world}, LOCAL_RANK="
            f"{local_rank} of LOCAL_WORLD_SIZE={local_world}; start the ranks with torchrun, or unset RANK"
        )
    agent = named.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    hosts = rank == 0 and not agent
    return Place(rank, world, local_rank, local_world, named["MASTER_ADDR"], port, hosts, attempt)


class Presence:
    """This rank among the others. Made by `arrive`."""

    def __init__(self, place: Place):
        self.place = place
        self._lost = ""  # what is wrong with the others, empty while nothing is
        self._at = f"tvr/{place.attempt}/{next(_visits)}"
        self._told = itertools.count()
        self._ended = threading.Event()
        self.store = connect(place.host, place.port, hosts=place.hosts)
        listening = connect(place.host, place.port, hosts=False)  # a connection serves one thread at a time
        self._thread = threading.Thread(target=self._beat, args=(listening,), daemon=True)
        self._thread.start()

    def require_all(self) -> None:
        """Raise RankLost when another rank has ended before its time."""
        if self._lost:
            raise RankLost(self._lost)

    def explain(self, found: Exception) -> RankLost:
        """Return who is to blame for a connection that broke: the rank whose beat stops."""
        until = time.monotonic() + SILENT_S + 5
        while not self._lost and time.monotonic() < until:
            time.sleep(_LOOK_S)
        return RankLost(self._lost or f"the ranks lost their connection: {str(found).splitlines()[0]}")

    def of_first(self, make: Callable[[], Any]) -> Any:
        """Return what rank 0 makes, a JSON value, on every rank; the others wait for it as long as it takes."""
        key = f"{self._at}/told/{next(self._told)}"
        if self.place.rank == 0:
            value = make()
            with self._speaking():
                self.store.set(key, json.dumps(value))
            return value
        return files.parse_json(self._heard(key))

    def of_all(self, value: Any) -> list[Any]:
        """Return every rank's JSON value, in the order of ranks."""
        at = f"{self._at}/told/{next(self._told)}"
        with self._speaking():
            self.store.set(f"{at}/{self.place.rank}", json.dumps(value))
        return [files.parse_json(self._heard(f"{at}/{rank}")) for rank in range(self.place.world)]

    def group_store(self) -> distributed.Store:
        """Return a store of its own for the connections of a process group."""
        return distributed.PrefixStore(f"{self._at}/group", self.store)

    def leave(self, problem: str = "") -> None:
        """Say that this rank has ended: well, or with a problem, a sentence that begins with a letter."""
        self._ended.set()
        self._thread.join(timeout=5 * _BEAT_S)
        with contextlib.suppress(RuntimeError):  # whoever held the store is gone, and so is everybody who would read it
            self.store.set(self._beat_of(self.place.rank), problem or "left")

    def _beat_of(self, rank: int) -> str:
        return f"{self._at}/beat/{rank}"

    def _heard(self, key: str) -> str:
        while True:
            with self._speaking():
                if said := _read(self.store, key):
                    return said
            self.require_all()
            time.sleep(_LOOK_S)

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as e:
            raise self.explain(e) from e

    def _beat(self, store: distributed.Store) -> None:
        """Say that this rank lives, and listen to the others, until it has ended."""
        others = [rank for rank in range(self.place.world) if rank != self.place.rank]
        began = time.monotonic()
        heard: dict[int, tuple[str, float]] = {}
        for count in itertools.count():
            try:
                store.set(self._beat_of(self.place.rank), str(count))
                for rank in others:
                    said = _read(store, _death_of(rank)) or _read(store, self._beat_of(rank))
                    if said and said != heard.get(rank, ("", 0.0))[0]:
                        heard[rank] = said, time.monotonic()
            except RuntimeError:
                self._lost = self._lost or "the process that holds the ranks together (their starter, or rank 0) ended"
                return
            self._lost = self._lost or self._missing(others, heard, began)
            if self._ended.wait(_BEAT_S):
                return

    def _missing(self, others: list[int], heard: Mapping[int, tuple[str, float]], began: float) -> str:
        """Say which of the other ranks has failed, is silent or never came; empty where none has."""
        now, world = time.monotonic(), self.place.world
        for rank in others:
            said, since = heard.get(rank, ("", began))
            if not said.isdigit() and said not in ("", "left"):
                return said
            if said.isdigit() and now - since > SILENT_S:
                return f"rank {rank} of {world} has given no sign of life for {SILENT_S:.0f} s"
            if not said and now - began > ARRIVE_S:
                return f"rank {rank} of {world} was not started within {ARRIVE_S:.0f} s"
        return ""


@contextlib.contextmanager
def arrive(place: Place) -> Iterator[Presence]:
    """Be a rank within the block; whatever ends it is told to the others."""
    presence = Presence(place)
    try:
        yield presence
    except RankLost as e:
        presence.leave(str(e))  # who was lost, as this rank knows it
        raise
    except BaseException as e:
        said = log.printable(str(e)) or type(e).__name__
        presence.leave(f"rank {place.rank} of {place.world} stopped: {said}")
        raise
    presence.leave()


def note_death(store: distributed.Store, rank: int, how: str) -> None:
    """Tell all ranks, in the starter's store, that the process of one has ended: a sentence that names the rank."""
    store.set(_death_of(rank), how)


def this_environment() -> Place | None:
    """Return the place of this process among those that torchrun started, None where it did not start it."""
    return place_in(os.environ)


def _death_of(rank: int) -> str:
    return f"tvr/death/{rank}"


def _read(store: distributed.Store, key: str) -> str:
    """Return what stands under a key, empty where there is nothing yet."""
    return str(store.get(key).decode()) if store.check([key]) else ""


def connect(host: str, port: int, *, hosts: bool) -> distributed.TCPStore:
    """Return the store of the ranks; hosts: open it here (port 0 = a free one). Raises EnvironmentProblem."""
    if not distributed.is_available():
        raise EnvironmentProblem("this build of PyTorch has no torch.distributed; train on one device (--devices 1)")
    try:
        return distributed.TCPStore(
            host, port, is_master=hosts, wait_for_workers=False, timeout=timedelta(seconds=ARRIVE_S)
        )
    except RuntimeError as e:
        raise EnvironmentProblem(
            f"cannot {'open' if hosts else 'reach'} the store of the ranks at {host}:{port}: {str(e).splitlines()[0]}; "
            "start the ranks with torchrun, or let --devices start them"
        ) from e
