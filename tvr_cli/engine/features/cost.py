"""How long encoding would take here: the speed of this machine. A backbone knows the arithmetic (`Backbone.cost`).

And how much is downloaded before it.
"""

from __future__ import annotations

import time

import torch

from tvr_cli.backbones.base import Backbone

_BYTES_A_PARAMETER = 4  # most weights are published in fp32
_PROBE = 768  # side of the matrices that are multiplied to measure the machine
# Towers reach this share of the speed of one large matrix product (ViT-B/32 on a CPU core: 0.6 to 0.9).
_EFFICIENCY = 0.7


def machine_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations a second of one matrix product (some tens of milliseconds)."""
    a = torch.ones(_PROBE, _PROBE, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * _PROBE**3 / best


def tower_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Estimate the floating-point operations a second of a tower on this machine."""
    return machine_flops(device, dtype) * _EFFICIENCY


def seconds(flops: float, device: torch.device, dtype: torch.dtype) -> float:
    """Estimate the time of so many operations of a tower."""
    return flops / tower_speed(device, dtype)


def download_bytes(backbone: Backbone) -> tuple[int, bool]:
    """Return how many bytes are fetched for a backbone, a skeleton too, and whether that is estimated."""
    said = backbone.about.card.download_bytes
    return said or sum(p.numel() for p in backbone.parameters()) * _BYTES_A_PARAMETER, said is None
