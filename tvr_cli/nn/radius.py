"""How far candidates scatter around a caption, by its cosines with the frames: T-MASS's radius, and EagleNet's.

The parameters carry the authors' names (`std_branch.linear_proj.*`). The matrix ties a model to its frame slots.
Source: T-MASS (arXiv 2403.17998) section 3.2 and EagleNet.
"""

from __future__ import annotations

from torch import nn
from tvr_kernels.eaglenet import Linear


class Radius(nn.Module):
    """l = W_S c + b_S of the F frame cosines; starts as a rectangular identity, so exp(l) is 1 past F features."""

    def __init__(self, dim: int, frames: int):
        super().__init__()
        linear = nn.Linear(frames, dim)
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
        self.std_branch = nn.ModuleDict({"linear_proj": linear})

    def tensors(self) -> Linear:
        linear = self.std_branch["linear_proj"]
        return Linear(linear.weight, linear.bias)  # type: ignore[arg-type]
