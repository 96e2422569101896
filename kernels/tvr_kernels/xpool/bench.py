"""X-Pool as its authors write it, for the benchmark: attended vectors of every pair, then two D x D products each.

Theirs pools everything at once, so keys and values of the frames are made once, beside what is timed, as the folded
form's own per-clip part is. (What they hold, T x V x D, is made in slices of captions here.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, layer_norm, normalize

from tvr_kernels import _measure, xpool
from tvr_kernels._measure import Case, Contender
from tvr_kernels._testing import Shape, features, random_weights
from tvr_kernels.gemm import matmul

BATCH = 256  # of the training step
SCALE = 100.0  # CLIP's logit scale


def case(shape: Shape, device: str) -> Case:
    """Return the benchmark case, weights and features drawn."""
    x = features(shape, unit=False, ragged=False)
    text, frames = x.text.to(device), x.frames.to(device)
    weights = _weights(shape.D, device, torch.float32)

    def sides(dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
        cast = _weights(shape.D, device, dtype)
        return xpool.text_side(text.to(dtype), cast), xpool.video_side(frames.to(dtype), cast), cast

    projected = project(frames, weights)
    naive = {"naive": lambda rows: attended(text[rows], *projected, weights)}
    return Case("xpool", shape, sides, naive, texts=8)


def extra_rows(rounds: int, device: str) -> list[dict[str, Any]]:
    """Return the rows of one training step: score, symmetric InfoNCE, gradients of features and weights."""
    shape = Shape(BATCH, BATCH, 12, 32, 512)
    x = features(shape, unit=False, ragged=False)
    exact = _step(_folded, x.text.double(), x.frames.double(), device)()[0]

    def contender(impl: str, score: Callable[..., Tensor]) -> Contender:
        step = _step(score, x.text, x.frames, device)
        return Contender(
            impl, lambda turn: step(), lambda result: abs(result[0] - exact), note="training step, error of the loss"
        )

    contenders = [contender("naive", pooled), contender("folded", _folded)]
    return _measure.rows("xpool", f"B{BATCH} F12 D512", contenders, max(2, rounds // 2), device)


def pooled(text: Tensor, frames: Tensor, w: xpool.XPoolWeights) -> Tensor:
    """Score everything once; what a training step does."""
    return attended(text, *project(frames, w), w)


def project(frames: Tensor, w: xpool.XPoolWeights) -> tuple[Tensor, Tensor]:
    """Return keys and values [V, F, D]."""
    normed = layer_norm(frames, frames.shape[-1:], w.norm1_weight, w.norm1_bias, w.eps)
    return _linear(normed, w.key_weight, w.key_bias), _linear(normed, w.value_weight, w.value_bias)


def attended(text: Tensor, k: Tensor, v: Tensor, w: xpool.XPoolWeights) -> Tensor:
    """Score with every pair's vector in memory (T x V x D, several times); projections through the common GEMM."""
    D = text.shape[-1]

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return layer_norm(x, (D,), weight, bias, w.eps)

    q = _linear(norm(text, w.norm1_weight, w.norm1_bias), w.query_weight, w.query_bias)
    attention = torch.softmax(torch.matmul(k, q.T) * D**-0.5, dim=1)  # [V, F, T]
    out = _linear(torch.matmul(v.mT, attention).mT, w.out_weight, w.out_bias)  # [V, T, D]
    n = norm(out, w.norm2_weight, w.norm2_bias)
    y = norm(n + _linear(n, w.linear_weight, w.linear_bias), w.norm3_weight, w.norm3_bias)
    unit = y / y.norm(dim=-1, keepdim=True)
    return torch.einsum("td,vtd->tv", normalize(text, dim=-1), unit)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return matmul(x.reshape(-1, x.shape[-1]), weight.T).add_(bias).view(*x.shape[:-1], -1)


def _folded(text: Tensor, frames: Tensor, w: xpool.XPoolWeights) -> Tensor:
    return xpool.score(xpool.text_side(text, w), xpool.video_side(frames, w), w, implementation="folded")


def _step(
    score: Callable[..., Tensor], text: Tensor, frames: Tensor, device: str
) -> Callable[[], tuple[float, tuple[Tensor, ...]]]:
    """Return a call that gives the loss and the gradients of text, frames and all weights."""
    weights = _weights(text.shape[-1], device, text.dtype)
    leaves = [p.requires_grad_() for p in (text.to(device).clone(), frames.to(device).clone(), *weights[:-1])]

    def step() -> tuple[float, tuple[Tensor, ...]]:
        t, z, *parameters = leaves
        logits = SCALE * score(t, z, xpool.XPoolWeights._make([*parameters, weights.eps]))
        target = torch.arange(len(t), device=device)
        loss: Tensor = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
        return loss.item(), torch.autograd.grad(loss, leaves)

    return step


def _weights(D: int, device: str, dtype: torch.dtype) -> xpool.XPoolWeights:
    drawn = random_weights(xpool.XPoolWeights, D, dtype=dtype)
    return xpool.XPoolWeights._make(p.to(device) if isinstance(p, Tensor) else p for p in drawn)
