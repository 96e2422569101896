"""What encoding would cost, before anything is downloaded: arithmetic of the towers, speed of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tvr_cli.backbones.clip_text import TextSide
from tvr_cli.backbones.openclip import build
from tvr_cli.backbones.source import Source

_PROBE = 768  # side of the matrices that are multiplied to measure the machine
# Towers reach this share of the speed of one large matrix product (ViT-B/32 on a CPU core: 0.6 to 0.9).
_EFFICIENCY = 0.7


def skeleton(source: Source) -> nn.Module:
    """Build a backbone without weights; on the device `meta`, which computes shapes only, where its towers allow."""
    try:
        with torch.device("meta"):
            return build(source.model)
    except (RuntimeError, NotImplementedError):  # towers that compute with tensors while they are built
        return build(source.model)


def tower_flops(model: nn.Module, source: Source, words: int) -> tuple[int, int]:
    """Return the floating-point operations of (one frame, one caption of `words` slots) of a skeleton."""
    model.eval()
    device, text = next(model.parameters()).device, TextSide(model)
    pixels = torch.zeros(1, 3, source.image_size, source.image_size, device=device)
    ids = torch.zeros(1, words, dtype=torch.int64, device=device)
    return _count(lambda: model.visual(pixels)), _count(lambda: text.encode(ids))  # type: ignore[operator]


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


def _count(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
