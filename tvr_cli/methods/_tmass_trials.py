"""T-MASS's score: the best of S scattered captions a pair, without building any of them.

With y^ = unit(y), R = exp(l) and a draw sigma, the scattered caption t + sigma * R has the cosine
  (<t, y^> + sigma . (R * y^)) / sqrt(|t|^2 + 2 sigma . (t * R) + sigma^2 . R^2),
three products of sigma with vectors of the pair. sigma is Philox's at (caption key, clip key, trial, dimension), as
EagleNet's: the same in every tile, in query and evaluation. y comes from X-Pool's folded form.

Letters: T captions, V clips, F frame slots, D features, S trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear
from tvr_kernels import xpool
from tvr_kernels.eaglenet import Linear, noise
from tvr_kernels.xpool import XPoolWeights

from tvr_cli.methods.base import unit

BLOCK_NUMBERS = 2**19  # random numbers at a time: what a core's caches hold of them and of what makes them
Side = Mapping[str, Tensor]  # tensors of `tvr_kernels.xpool`, and `of`, the keys of the items [N]


@dataclass(frozen=True)
class Mass:
    """How candidates are drawn: S of them, U[0, 1) or N(0, std^2); draw: which repetition (`--noise-seeds`)."""

    trials: int
    prior: Literal["uniform", "normal"]
    std: float
    draw: int = 0


class Head(NamedTuple):
    """What a pair is scored with: X-Pool's parameters, the radius's matrix and bias, and how candidates are drawn."""

    pool: XPoolWeights
    radius: Linear
    mass: Mass


def best(text: Side, video: Side, head: Head, sigma: Tensor | None = None) -> Tensor:
    """Return [T, V]: the best cosine of each pair's S trials. sigma: [V, T, S, D], already scaled, instead of draws."""
    return _in_blocks(text, video, lambda t, v, s: trials(t, v, head, s).amax(-1), head.mass, sigma)


def best_for_own(text: Side, video: Side, own: Tensor, head: Head, sigma: Tensor | None = None) -> Tensor:
    """Return [T, V] by the authors' released test: the best trial's cosine with what the clip's own caption pools.

    own: [V, D], y of each clip for the caption that belongs to it: the right answer is in it.
    """

    def block(t: Side, v: Side, drawn: Tensor | None) -> Tensor:
        target = unit(v["own"])[:, None].expand(-1, len(t["text"]), -1)
        drawn = draw(t["of"], v["of"], t["text"].shape[-1], head.mass, t["text"].dtype) if drawn is None else drawn
        chosen = trials(t, v, head, drawn).argmax(-1, keepdim=True)
        return trials(t, v, head, drawn, target).gather(-1, chosen)[..., 0]

    return _in_blocks(text, {**video, "own": own}, block, head.mass, sigma)


def trials(text: Side, video: Side, head: Head, sigma: Tensor | None = None, target: Tensor | None = None) -> Tensor:
    """Return the cosines of all trials [V, T, S] with y^, or with unit vectors `target` [V, T, D]. One block."""
    query = text["text"]
    towards = unit(xpool.pooled(text, video, head.pool)) if target is None else target  # [V, T, D]
    cosines = (text["unit"] @ video["frames"].flatten(0, 1).T).view(len(query), *video["frames"].shape[:2])
    around = linear(cosines.transpose(0, 1) * video["per_length"][:, None], *head.radius).exp()  # R, [V, T, D]
    if sigma is None:
        sigma = draw(text["of"], video["of"], query.shape[-1], head.mass, query.dtype)
    flat = sigma.flatten(0, 1)  # [V T, S, D]
    products = torch.bmm(flat, torch.stack([around * towards, query * around], -1).flatten(0, 1))
    squares = torch.bmm(flat.square(), around.square().flatten(0, 1)[..., None])[..., 0]
    along, across = products.unbind(-1)  # [V T, S]
    straight = (towards * query).sum(-1).flatten()[:, None]
    length2 = query.square().sum(-1).repeat(len(towards))[:, None] + 2 * across + squares
    return ((straight + along) * length2.rsqrt()).view(*towards.shape[:2], -1)


def draw(text_key: Tensor, video_key: Tensor, dim: int, mass: Mass, dtype: torch.dtype) -> Tensor:
    """Return sigma [V, T, S, D] of captions [T] and clips [V] with these keys."""
    keys = text_key[None], video_key[:, None]
    if mass.prior == "uniform":
        return noise.uniform(*keys, mass.trials, dim, draw=mass.draw, dtype=dtype)
    return mass.std * noise.normal(*keys, mass.trials, dim, draw=mass.draw, dtype=dtype)


def _in_blocks(
    text: Side, video: Side, of_block: Callable[[Side, Side, Tensor | None], Tensor], mass: Mass, sigma: Tensor | None
) -> Tensor:
    """Put [V', T'] of blocks of pairs together to [T, V]; a block's draws number about BLOCK_NUMBERS."""
    rows, columns, dim = len(text["text"]), len(video["frames"]), text["text"].shape[-1]
    side = max(1, math.isqrt(BLOCK_NUMBERS // (mass.trials * dim)))
    out = text["text"].new_empty(rows, columns)
    for v in range(0, columns, side):
        clips = {name: x[v : v + side] for name, x in video.items()}
        for t in range(0, rows, side):
            captions = {name: x[t : t + side] for name, x in text.items()}
            drawn = None if sigma is None else sigma[v : v + side, t : t + side]
            out[t : t + side, v : v + side] = of_block(captions, clips, drawn).T
    return out
