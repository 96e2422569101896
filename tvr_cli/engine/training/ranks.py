"""Several devices that train one model, exactly: each encodes its share of a batch, all compute the whole loss.

A rank encodes its pairs, the features of all pairs are gathered, and every rank computes the same loss of the whole
batch from the same draws; the gradients of its own features go on into its encoders. Gradients of the encoders are then
summed over ranks (their rows are disjoint, and the loss is the mean of the whole batch already); those of the method
are rank 0's, so that ranks never drift apart. No method has to know of ranks, and no number depends on how many there
are, but for rounding. Where a method can score captions apart (`Method.loss_rows`), a rank scores its own ones only,
and all gradients are summed: `shares.py`. `Ranks` is the world of one, which sends nothing; `Group` is a rank of
several.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

from tvr_cli import log
from tvr_cli.engine.training import presence
from tvr_cli.engine.training.presence import Place, Presence
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem
from tvr_cli.types import Rows

_R = TypeVar("_R", bound=Rows)
_FOREVER = timedelta(days=30)  # a rank may wait for another that writes or validates; who is lost, `presence` sees
_BUCKET = 1 << 24  # numbers that are summed at once
_MOST_PAUSE_S = 2e-3


class Ranks:
    """A world of one rank: what is gathered, summed or agreed is what this process has."""

    rank = 0
    world = 1
    local_world = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes and speaks."""
        return self.rank == 0

    def counts(self, n: int) -> list[int]:
        """Return how many of `n` items in order each rank takes: as equal as can be, the first ones more."""
        return [n // self.world + (rank < n % self.world) for rank in range(self.world)]

    def share(self, n: int) -> slice:
        """Return which of `n` items in order are this rank's; there may be none."""
        counts = self.counts(n)
        start = sum(counts[: self.rank])
        return slice(start, start + counts[self.rank])

    def own(self, pairs: int, batch_size: int) -> np.ndarray:
        """Return the rows of a step's pairs that this rank reads: its share of every batch, in order.

        Where it has none, the batch's first row: what its features look like is needed to receive those of others.
        """
        size = pairs if pairs < 2 * batch_size else batch_size
        share = self.share(size)
        rows = np.arange(share.start, max(share.stop, share.start + 1)) % size
        return np.concatenate([start + rows for start in range(0, pairs - size + 1, size)])

    def gather(self, rows: _R, counts: Sequence[int]) -> _R:
        """Return the rows of all ranks in order; counts: how many each one gives."""
        return rows

    def join(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the rows of all ranks' tensors in order; counts: how many each one gives."""
        return x

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of what all ranks give, of one shape; without a gradient."""
        return x

    def max(self, x: Tensor) -> Tensor:
        """Return the largest of what all ranks give, number by number; without a gradient."""
        return x

    def sum_gradients(self, parts: Iterable[nn.Parameter], alike: Iterable[nn.Parameter]) -> None:
        """Make the gradients of every rank those of the whole batch.

        parts: parameters of which each rank has a part of the gradient. alike: of which each has all of it.
        """

    def any(self, flag: bool) -> bool:
        """Return whether any rank says so."""
        return flag

    def of_first(self, make: Callable[[], Any]) -> Any:
        """Return a JSON value that rank 0 makes, on every rank."""
        return make()

    def open(self, device: torch.device) -> torch.device:
        """Connect the ranks, and return the device of this one. Raises EnvironmentProblem where it has none."""
        return device

    def require_same(self, config: Mapping[str, Any], state: Mapping[str, str]) -> None:
        """Raise where a rank is not about to train the same: ConfigError, or DataError for `state`, naming the rank.

        config: flat leaves, JSON values. state: what has to be equal in words -> its hash.
        """


ALONE = Ranks()


class Group(Ranks):
    """A rank of several. Made by `join`; tensors can be sent once `open` has connected it."""

    def __init__(self, others: Presence):
        place = others.place
        self.rank, self.world, self.local_world = place.rank, place.world, place.local_world
        self._local_rank, self._others = place.local_rank, others

    def open(self, device: torch.device) -> torch.device:
        if device.type == "cuda":
            if device.index is not None or self._local_rank >= torch.cuda.device_count():
                raise EnvironmentProblem(
                    f"rank {self.rank} takes the CUDA device {self._local_rank} of its machine, which has "
                    f"{torch.cuda.device_count()}; start as many ranks as there are devices, with --device cuda or auto"
                )
            device = torch.device("cuda", self._local_rank)
            torch.cuda.set_device(device)
        with self._explained():
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                store=self._others.group_store(), rank=self.rank, world_size=self.world, timeout=_FOREVER,
            )  # fmt: skip
        return device

    def close(self) -> None:
        """Disconnect the ranks."""
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def gather(self, rows: _R, counts: Sequence[int]) -> _R:
        names = [f.name for f in dataclasses.fields(rows) if getattr(rows, f.name) is not None]
        fields = {name: getattr(rows, name) for name in names}
        packed = torch.cat([_bytes_of(x) for x in fields.values()], 1)  # [own, bytes of a row]
        everyone = self.join(packed, counts)
        sizes = [_row_bytes(x) for x in fields.values()]
        columns = dict(zip(names, everyone.split(sizes, 1), strict=True))
        return dataclasses.replace(rows, **{name: _values_of(columns[name], x) for name, x in fields.items()})

    def join(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        padded = x.new_zeros(max(counts), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in counts]
        if padded.numel():
            self._wait(distributed.all_gather(parts, padded, async_op=True))
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def sum(self, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        self._reduce(total, distributed.ReduceOp.SUM)
        return total

    def max(self, x: Tensor) -> Tensor:
        most = x.detach().clone(memory_format=torch.contiguous_format)
        self._reduce(most, distributed.ReduceOp.MAX)
        return most

    def sum_gradients(self, parts: Iterable[nn.Parameter], alike: Iterable[nn.Parameter]) -> None:
        parts, alike = list(parts), list(alike)
        if not self.first:
            for p in alike:
                if p.grad is not None:
                    p.grad.zero_()
        parameters = [*parts, *alike]
        # A rank without rows has no gradient where the others have one; what none of them has, stays absent.
        there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
        self._reduce(there, distributed.ReduceOp.MAX)
        found = [p for p, has in zip(parameters, there.tolist(), strict=True) if has]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in found]
        for p, gradient in zip(found, gradients, strict=True):
            p.grad = gradient
        for bucket in _buckets(gradients):
            flat = torch.cat([g.reshape(-1) for g in bucket])
            self._reduce(flat, distributed.ReduceOp.SUM)
            for g, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                g.copy_(part.view_as(g))

    def any(self, flag: bool) -> bool:
        said = torch.tensor([flag], dtype=torch.uint8)
        self._reduce(said, distributed.ReduceOp.MAX)
        return bool(said.item())

    def of_first(self, make: Callable[[], Any]) -> Any:
        return self._others.of_first(make)

    def require_same(self, config: Mapping[str, Any], state: Mapping[str, str]) -> None:
        first, *others = self._others.of_all({"config": dict(config), "state": dict(state)})
        for rank, other in enumerate(others, 1):
            was, now = first["config"], other["config"]
            if changed := sorted(k for k in was.keys() | now.keys() if was.get(k) != now.get(k)):
                told = "; ".join(f"{k} is {now.get(k)!r}, rank 0 has {was.get(k)!r}" for k in changed)
                raise ConfigError(f"rank {rank} would train something else: {told}; start all ranks with one command")
            if changed := [k for k in first["state"] if first["state"][k] != other["state"].get(k)]:
                raise DataError(
                    f"rank {rank} does not begin as rank 0 does, in: {', '.join(changed)}. All ranks need "
                    "the same version of tvr, the same backbone and the same workspace; nothing was trained"
                )

    def _reduce(self, x: Tensor, how: Any) -> None:
        self._wait(distributed.all_reduce(x, how, async_op=True))

    def _wait(self, work: Any) -> None:
        """Wait for what all ranks do together, as long as all of them are there."""
        pause = 0.0
        with self._explained():
            while not work.is_completed():
                self._others.require_all()
                time.sleep(pause)
                pause = min(2 * pause + 1e-5, _MOST_PAUSE_S)
            work.wait()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as e:  # a connection that broke: the other end is gone
            raise self._others.explain(e) from e


@contextlib.contextmanager
def join(place: Place | None) -> Iterator[Ranks]:
    """Be the rank at `place` within the block, or a world of one. Raises RankLost where another rank ends early."""
    if place is None or place.world == 1:
        yield ALONE
        return
    quiet = contextlib.nullcontext() if place.rank == 0 else log.hushed()  # rank 0 speaks for all
    with quiet, presence.arrive(place) as others:
        group = Group(others)
        yield group
        group.close()


def hash_of(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of names, types and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _row_bytes(x: Tensor) -> int:
    return math.prod(x.shape[1:]) * x.element_size()


def _bytes_of(x: Tensor) -> Tensor:
    """Return the bytes of each row: [rows, bytes] uint8."""
    return x.detach().contiguous().view(len(x), math.prod(x.shape[1:])).view(torch.uint8)


def _values_of(raw: Tensor, like: Tensor) -> Tensor:
    """Return rows from their bytes, of the type and shape of rows of `like`."""
    return raw.clone(memory_format=torch.contiguous_format).view(like.dtype).view(len(raw), *like.shape[1:])


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield gradients of one type together, as many as `_BUCKET` numbers, at least one."""
    for kind in dict.fromkeys((g.dtype, g.device) for g in gradients):
        bucket: list[Tensor] = []
        for g in gradients:
            if (g.dtype, g.device) != kind:
                continue
            if bucket and sum(x.numel() for x in bucket) + g.numel() > _BUCKET:
                yield bucket
                bucket = []
            bucket.append(g)
        yield bucket
