"""Measure what BertAdam does to weights that are stored in fp16, next to the same steps in fp32.

The authors of GARE, EagleNet, GLCCL and TC-MGC tune CLIP with fp16 weights, fp16 moments, no master copy and a rate of
1e-7. This simulates one tensor: weights N(0, 0.02), gradients N(0, g) of which a share points the same way in every
step, `--steps` steps of the optimizer itself. Printed is the root mean square of how far the weights moved, the share
of weights that moved at all, and the share of second moments that are exactly zero.

    python scripts/measure_half_training.py                 the table of docs/training.md
    python scripts/measure_half_training.py --rates 1e-6    fp32 at another rate
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import torch

from tvr_cli.engine.training.optimisers import BertAdam

GRADIENTS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True)
class Outcome:
    """moved: rms displacement. touched: share of weights that changed. dead: share of second moments that are zero."""

    moved: float
    touched: float
    dead: float


def simulate(
    dtype: torch.dtype, rate: float, gradient: float, *, steps: int = 200, persistent: float = 0.1, size: int = 20_000
) -> Outcome:
    """Run `steps` of BertAdam (no decay, constant rate) on one tensor of `dtype`.

    gradient: rms of a step's gradient. persistent: share of its variance that is the same in every step.
    """
    g = torch.Generator().manual_seed(0)
    start = (torch.randn(size, generator=g) * 0.02).to(dtype)
    weights = torch.nn.Parameter(start.clone())
    always = torch.randn(size, generator=g) * math.sqrt(persistent)
    # max_norm 0: the clip on the global norm is in `gradient` already.
    optimizer = BertAdam([weights], rate, lambda step: 1.0, weight_decay=0.0, max_norm=0.0)
    for _ in range(steps):
        noise = torch.randn(size, generator=g) * math.sqrt(1 - persistent)
        weights.grad = ((always + noise) * gradient).to(dtype)
        optimizer.step()
    shift = weights.detach().double() - start.double()
    second = optimizer.state[weights]["v"]
    return Outcome(
        shift.square().mean().sqrt().item(), (shift != 0).double().mean().item(), (second == 0).double().mean().item()
    )


def largest_rms(parameters: int, max_norm: float = 1.0) -> float:
    """Return the largest rms that gradients of a model can have after clipping their global norm."""
    return max_norm / math.sqrt(parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=1e-7, help="rate of the fp16 run and of the first fp32 run")
    parser.add_argument("--rates", type=float, nargs="*", default=[1e-6], help="more rates for fp32")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--persistent", type=float, default=0.1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = {"steps": args.steps, "persistent": args.persistent}
    print(f"{args.steps} steps, {args.persistent:.0%} of the gradient's variance is persistent")
    print(
        f"clipping to norm 1 leaves at most rms {largest_rms(151_277_313):.1e} for CLIP ViT-B/32 (151 277 313 numbers)"
    )
    heads = [f"fp32 {rate:g}" for rate in (args.rate, *args.rates)]
    print("| gradient rms | fp16 moved | weights moved | v = 0 | " + " | ".join(heads) + " | fp16 / fp32 |")
    print("|" + "---|" * (5 + len(heads)))
    for gradient in GRADIENTS:
        half = simulate(torch.float16, args.rate, gradient, **options)
        single = [simulate(torch.float32, rate, gradient, **options).moved for rate in (args.rate, *args.rates)]
        moved = " | ".join(f"{x:.1e}" for x in single)
        print(
            f"| {gradient:.0e} | {half.moved:.1e} | {half.touched:.0%} | {half.dead:.0%} | {moved} "
            f"| {half.moved / single[0]:.3g} |"
        )


if __name__ == "__main__":
    main()
