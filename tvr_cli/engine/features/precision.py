"""Whether half precision is worth it on this processor: asked for where it is slow, fp32 is taken, and that is said.

Without instructions for it, bf16 takes a processor seven to nine times as long as fp32, and its features are further
from exact. A trial of 50 ms decides, once a machine; what it found is in the user's folder for caches and shown by
`tvr doctor`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

import torch
from tvr_kernels import gemm, trials

from tvr_cli.engine.device import computes_in_half, pick_device, remember_trials
from tvr_cli.log import warn_once
from tvr_cli.plans import PrecomputeOptions

Half = Literal["bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SHAPE = (256, 512, 1024)  # M, K, N of the products


def settled(options: PrecomputeOptions) -> PrecomputeOptions:
    """Return the options with fp32 in place of a half precision that is slower than it on this processor."""
    if options.precision == "fp32" or pick_device(options.device).type != "cpu":
        return options
    asked, (faster, times) = options.precision, measured(cast(Half, options.precision))
    if faster == asked:
        return options
    warn_once(
        f"--precision {asked} takes {times:.1f} times as long as fp32 on this processor"
        + (f" (it has no instructions for {asked})" if computes_in_half(asked) is False else "")
        + ": computing in fp32, which is also more exact"
    )
    return replace(options, precision="fp32")


@torch.inference_mode()
def measured(half: Half) -> tuple[str, float]:
    """Return which of fp32 and `half` multiplies faster here, and how often fp32's time `half` takes.

    Where the trial is not sure, whether the processor has instructions for it decides.
    """
    remember_trials()
    what = f"precision {half}"
    kept = trials.recalled(what) or {}
    faster, times = kept.get("faster"), kept.get("times")
    if faster in ("fp32", half) and isinstance(times, float):
        return faster, times
    m, k, n = _SHAPE
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)
    low_a, low_b = a.to(_DTYPES[half]), b.to(_DTYPES[half])
    default = half if computes_in_half(half) else "fp32"
    ways = {"fp32": lambda: gemm.linear(a, b, None), half: lambda: torch.mm(low_a, low_b.T)}
    found = trials.race(ways, default)
    times = found.seconds[half] / found.seconds["fp32"]
    if found.sure:
        trials.keep(what, {"faster": found.faster, "times": times})
    return found.faster, times
