"""How much of T-MASS's scoring is its random numbers and its matrix products: the share that nothing could take away.

    python scripts/bench_tmass.py

One thread, synthetic features, processor time, the best of --rounds in turns. `drawing` makes the numbers of all
One thread, synthetic features, processor time, the best of --rounds in turns. `drawing` makes the numbers of all
X-Pool's two GEMMs and sum, and the radius's product, on tensors that are there.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch

from tvr_cli.methods import _tmass_trials as trials
from tvr_cli.methods import tmass
from tvr_cli.types import Sizes, TextFeatures, VideoFeatures


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100, help="captions, and clips")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    n, dim, frames = options.items, options.dim, options.frames
    method = tmass.Method(tmass.Method.Config(), Sizes(dim, frames, 0)).eval()
    text = method.encode_text(TextFeatures(torch.arange(n), torch.randn(n, dim), None, torch.ones(n, dtype=torch.long)))
    clips = torch.randn(n, frames, dim)
    video = method.encode_video(VideoFeatures(torch.arange(n), clips, torch.full((n,), frames), torch.zeros(n, frames)))
    mass = trials.Mass(method.config.trials, method.config.prior, method.config.prior_std)
    side = max(1, math.isqrt(trials.BLOCK_NUMBERS // (mass.trials * dim)))
    blocks = [(v, t) for v in range(0, n, side) for t in range(0, n, side)]
    pairs = side * side
    sigma, vectors = torch.rand(pairs, mass.trials, dim), torch.randn(pairs, dim, 2)
    keys, queries = torch.randn(side * frames, dim), torch.randn(dim, side)
    shares, cosines, radius = torch.rand(side, side, frames), torch.rand(pairs, frames), torch.randn(frames, dim)

    def draw() -> None:
        for v, t in blocks:
            trials.draw(text.key[t : t + side], video.key[v : v + side], dim, mass, torch.float32)

    def multiply() -> None:
        for _ in blocks:
            torch.bmm(sigma, vectors), torch.bmm(sigma, vectors[..., :1])
            keys @ queries, keys @ queries  # logits and cosines with the frames
            torch.bmm(shares, keys.view(side, frames, dim)), cosines @ radius

    found: dict[str, float] = {}
    works: dict[str, Callable[[], object]] = {
        "score": lambda: method.score(text, video),
        "drawing": draw,
        "products": multiply,
    }
    for _ in range(options.rounds):
        for name, work in works.items():
            started = time.process_time()
            work()
            found[name] = min(found.get(name, math.inf), time.process_time() - started)
    for name, seconds in found.items():
        print(f"{name:9} {1e6 * seconds / n**2:8.1f} us a pair")
    print(
        f"drawing and products are {100 * (found['drawing'] + found['products']) / found['score']:.0f} % of the score"
    )


if __name__ == "__main__":
    main()
