"""Randomness of a training loss: every draw is a pure function of (seed, step, name, shape).

No generator is carried from step to step, so there is no state to save: a resumed run draws what the uninterrupted run
would have drawn, whatever was computed in between. Numbers are made on the method's own device; a CPU and a GPU draw
different numbers from the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tvr_cli.engine.training.seeds import derive


@dataclass(frozen=True)
class SeededDraws:
    """The draws of one training step; implements `types.Draws`."""

    seed: int
    step: int
    device: torch.device | str = "cpu"

    def uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return U[0, 1) of `shape`, float32."""
        return torch.rand(tuple(shape), generator=self._generator(name), device=self.device)

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return N(0, 1) of `shape`, float32."""
        return torch.randn(tuple(shape), generator=self._generator(name), device=self.device)

    def keep(self, name: str, shape: Sequence[int], drop: float) -> Tensor:
        """Return a bool mask of `shape`, True with probability 1 - drop."""
        return self.uniform(name, shape) >= drop

    def permutation(self, name: str, n: int) -> Tensor:
        """Return a permutation of 0..n-1, int64."""
        return torch.randperm(n, generator=self._generator(name), device=self.device)

    def _generator(self, name: str) -> torch.Generator:
        generator = torch.Generator(device=self.device)
        generator.manual_seed(derive(self.seed, self.step, name))
        return generator
