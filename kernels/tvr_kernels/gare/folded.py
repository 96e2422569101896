"""The GARE score from F x F Grams: one GEMM of the captions with 3F + 1 columns a clip, five small quadratic forms.

With centred vectors u_f (values), r_f (values through the residual) and Q = W_m g3 r, each LayerNorm divides by a
scalar: `sigma2^2 = alpha' M2 alpha + eps`, `a = [alpha / sigma2; 1]`, `sigma3^2 = a' M3 a + eps`, `c = [a / sigma3; 1]`
and `Delta = Q' c`. Then `t . Delta = c . (Q t)`, `|Delta|^2 = c' QQ' c`, `Delta . p = c' (Q V') w`, `|p|^2 = w' VV' w`.
Exact; the frame weights w need no softmax denominator because the cosine ignores their scale.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tvr_kernels._tiles import by_clips
from tvr_kernels.gare import GareWeights
from tvr_kernels.gare._sides import LAYER_NORM_EPS, after_norm2, alpha, form, shared_rows
from tvr_kernels.gemm import matmul


def score(text: Mapping[str, Tensor], video: Mapping[str, Tensor], weights: GareWeights) -> Tensor:
    """Return [T, V]; differentiable in the text, the frames and the weights (through both sides)."""
    columns, slots = video["columns"], video["mask"].shape[1]

    def tile(some_text: dict[str, Tensor], some_video: dict[str, Tensor]) -> Tensor:
        return _tile(some_text, some_video, weights.temperature).T

    # What scoring holds of a pair besides the GEMM's 3F + 1 numbers comes and goes a slot row at a time. Autograd keeps
    # the GEMM's output and some ten slot rows.
    size = columns.element_size()
    return by_clips(tile, text, video, pair_bytes=slots * size, saved_bytes=13 * slots * size)


def attention(text: Mapping[str, Tensor], video: Mapping[str, Tensor]) -> Tensor:
    """Return alpha [V, F, T], the increment's weights over frame slots."""
    return _attention(text, video, _products(text, video))


def coefficients(text: Mapping[str, Tensor], video: Mapping[str, Tensor]) -> Tensor:
    """Return c [V, F + 2, T] with `Delta_ij = c_ij . increment_rows_j`; the caption enters Delta only here."""
    return _coefficients(text, video, _products(text, video))


def increment_rows(video: Mapping[str, Tensor], weights: GareWeights) -> Tensor:
    """Return Q [V, F + 2, D]."""
    slots = video["mask"].shape[1]
    own = video["columns"][:, slots : 2 * slots]
    return torch.cat([own, shared_rows(weights)[1].expand(len(own), 2, -1)], 1)


def _tile(text: Mapping[str, Tensor], video: Mapping[str, Tensor], temperature: float) -> Tensor:
    """Score a tile, [V, T]. Clips lead and captions are innermost, so that every small form is one batched product."""
    slots = video["mask"].shape[1]
    products = _products(text, video)  # [V, 3F + 1, T]
    c = _coefficients(text, video, products)
    logits = products[:, :slots]  # t . v_f
    frame_weight = _exp_below_max(logits, video["mask"], temperature)
    dot = (frame_weight * logits).sum(1) + (c * torch.bmm(video["qv"], frame_weight)).sum(1)
    on_q = (c[:, :slots] * products[:, slots : 2 * slots]).sum(1) + c[:, slots] * text["on_shared"][:, 0]
    moved = text["square"] + 2 * (on_q + text["on_shared"][:, 1]) + form(video["qq"], c)
    return dot * (moved * form(video["vv"], frame_weight)).rsqrt()


def _products(text: Mapping[str, Tensor], video: Mapping[str, Tensor]) -> Tensor:
    columns = video["columns"]
    return matmul(columns.flatten(0, 1), text["text"].T).unflatten(0, columns.shape[:2])


def _coefficients(text: Mapping[str, Tensor], video: Mapping[str, Tensor], products: Tensor) -> Tensor:
    a = after_norm2(_attention(text, video, products), video["normal2"])
    return torch.cat([a * (form(video["normal3"], a) + LAYER_NORM_EPS).rsqrt()[:, None], torch.ones_like(a[:, :1])], 1)


def _attention(text: Mapping[str, Tensor], video: Mapping[str, Tensor], products: Tensor) -> Tensor:
    slots, size = video["mask"].shape[1], text["text"].shape[1]
    on_kappa, on_gap = products[:, 2 * slots : 3 * slots], products[:, -1]
    return alpha(on_kappa, on_gap, text["variance"], size, video["shift"], video["offset"], video["variance"])


def _exp_below_max(logits: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Return exp((logits - max) / temperature) over dim 1, zero on missing frames: a softmax without denominator."""
    masked = logits.masked_fill(~mask[..., None], float("-inf"))
    return ((masked - masked.amax(1, keepdim=True).detach()) / temperature).exp()
