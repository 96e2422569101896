"""X-Pool and its cosine for a query that differs from pair to pair, as dot products with per-clip vectors.

Between X-Pool's softmax p and the cosine everything is linear but for three scalar normalisers, each a quadratic form
in p: with A_f = centred(Wo val_f + bo), u = p / s2, s2^2 = p^T C p + eps, C = A A^T / D, x = [u; 1],
B = centred((I + Wl)(g2 A_f)) and B_e = centred((I + Wl) b2 + bl), s3^2 = x^T [B, B_e][B, B_e]^T x / D + eps, the pooled
vector is y = g3 (x [B, B_e]) / s3 + b3. So z . y and |y|^2 need z's products with R = g3 [B, B_e] and Grams of R.
Several heads: F becomes heads * F, head-major, and bo is shared out among the heads, whose weights sum to one each.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from tvr_kernels.eaglenet.weights import EPSILON, EagleNetWeights, Pooling
from tvr_kernels.gemm import matmul


def pool_side(frames: Tensor, weights: Pooling, heads: int) -> dict[str, Tensor]:
    """Return a clip's vectors and Grams, n = heads * F rows.

    `columns` [V, 2n + 1, D]: products with the query, for the logits (n rows) and for the cosine (n + 1 rows R).
    `logit_sum`, `logit_shift` [V, n]; `gram2` [V, n, n]; `gram3`, `gram_out` [V, n + 1, n + 1]; `out_shift` [V, n + 1].
    """
    dim = frames.shape[-1]
    seen = F.layer_norm(frames, (dim,), *weights.norm1, EPSILON)  # [V, F, D]
    keys, values = _linear(seen, *weights.key), _linear(seen, *weights.value)
    # one row a head and frame: the key back in query space, the value in output space
    asked = _by_head(keys, weights.query.weight, heads)  # Wq^T key, [V, n, D]
    own = _by_head(values, weights.out.weight.T, heads) + weights.out.bias / heads
    shift = _head_products(keys, weights.query.bias, heads) + asked @ weights.norm1.bias  # [V, n]
    centred = _centre(own)
    branch = torch.cat([weights.norm2.weight * centred, weights.norm2.bias.expand(len(frames), 1, dim)], 1)
    both = branch + _apply(branch, weights.linear.weight)
    both = _centre(torch.cat([both[:, :-1], both[:, -1:] + weights.linear.bias], 1))  # B and B_e, [V, n + 1, D]
    out = weights.norm3.weight * both
    logit_rows = weights.norm1.weight * asked
    return {
        "columns": torch.cat([logit_rows, out], 1),
        "logit_sum": logit_rows.sum(-1),
        "logit_shift": shift,
        "gram2": centred @ centred.mT / dim,
        "gram3": both @ both.mT / dim,
        "gram_out": out @ out.mT,
        "out_shift": out @ weights.norm3.bias,
    }


def pooled_cosine(query: Tensor, video: Mapping[str, Tensor], weights: EagleNetWeights) -> Tensor:
    """Return cos(z, y(z)) [V, T] for queries z [V, T, D], from `pool_side`."""
    products = torch.bmm(query, video["columns"].mT)  # [V, T, 2n + 1]
    n = video["logit_sum"].shape[-1]
    attention = _attention(query, products[..., :n], video, weights)  # p, [V, T, n]
    on_out = products[..., n:]
    spread2 = _quadratic(attention, video["gram2"])
    x = F.pad(attention * (spread2 + EPSILON).rsqrt()[..., None], (0, 1), value=1.0)  # [u; 1]
    scale = (_quadratic(x, video["gram3"]) + EPSILON).rsqrt()  # 1 / s3
    shift = weights.pool.norm3.bias
    dot = (x * on_out).sum(-1) * scale + query @ shift
    square = _quadratic(x, video["gram_out"]) * scale.square() + shift.square().sum()
    square = square + 2.0 * scale * torch.bmm(x, video["out_shift"][..., None])[..., 0]
    tiny = torch.finfo(query.dtype).tiny
    return dot * square.clamp_min(tiny).rsqrt() / query.norm(dim=-1).clamp_min(1e-12)


def attention(query: Tensor, video: Mapping[str, Tensor], weights: EagleNetWeights) -> Tensor:
    """Return X-Pool's softmax averaged over its heads, [V, T, F], for queries [V, T, D]."""
    n = video["logit_sum"].shape[-1]
    rows = _attention(query, torch.bmm(query, video["columns"][:, :n].mT), video, weights)
    return rows.unflatten(-1, (weights.options.pool_heads, -1)).mean(2)


def _attention(query: Tensor, products: Tensor, video: Mapping[str, Tensor], weights: EagleNetWeights) -> Tensor:
    variance, mean = torch.var_mean(query, dim=-1, correction=0, keepdim=True)  # LN1 of the query, folded
    heads = weights.options.pool_heads
    logits = (products - mean * video["logit_sum"][:, None]) * (variance + EPSILON).rsqrt() + video["logit_shift"][
        :, None
    ]
    logits = (logits / (query.shape[-1] // heads) ** 0.5).unflatten(-1, (heads, -1))  # [V, T, heads, F]
    if weights.options.mask_padding:
        logits = logits.masked_fill(~video["real"][:, None, None], -torch.inf)
    return logits.softmax(-1).flatten(-2)


def _quadratic(x: Tensor, gram: Tensor) -> Tensor:
    """x^T G x: [V, T, n], [V, n, n] -> [V, T]."""
    return (torch.bmm(x, gram) * x).sum(-1)


def _by_head(x: Tensor, matrix: Tensor, heads: int) -> Tensor:
    """Return x's chunk of each head times that head's rows of `matrix` [D, D]: [V, F, D] -> [V, heads * F, D]."""
    pieces = zip(x.chunk(heads, -1), matrix.chunk(heads, 0), strict=True)
    return torch.cat([_apply(part, rows.T) for part, rows in pieces], 1)


def _head_products(x: Tensor, vector: Tensor, heads: int) -> Tensor:
    """[V, F, D], [D] -> [V, heads * F]."""
    return torch.cat([part @ piece for part, piece in zip(x.chunk(heads, -1), vector.chunk(heads), strict=True)], 1)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _apply(x, weight) + bias


def _apply(x: Tensor, matrix: Tensor) -> Tensor:
    """x [..., I], matrix [O, I] -> [..., O]."""
    return matmul(x.flatten(0, -2), matrix.T).unflatten(0, x.shape[:-1])


def _centre(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)
