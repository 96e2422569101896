"""EagleNet as its authors write it, for the benchmark: every pair's graph in memory, all of its last layer computed.

Evaluated in blocks of 8 captions x 8 clips, as theirs is. The noise is the op's own, so that errors can be compared;
the authors' `torch.rand` would take 1 % less of this form's time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tvr_kernels import _dispatch, eaglenet
from tvr_kernels._measure import Case
from tvr_kernels._testing import Shape, features
from tvr_kernels.eaglenet import noise, reference
from tvr_kernels.eaglenet.weights import EagleNetWeights, GraphLayer, Linear, Norm, Options, Pooling, Relation
from tvr_kernels.gemm import matmul

PAIRS = 40  # whose noise is drawn at a time
BLOCK = 8  # captions and clips of one evaluation block, the authors' batch_size_val
# A pair costs the same at any T and V; a million of them take nine minutes folded and a hundred as published.
TARGET, SMALL = Shape(128, 128, 12, 32, 512), Shape(16, 16, 12, 32, 512)


def case(shape: Shape, device: str) -> Case:
    """Return the benchmark case, weights and features drawn; every clip has all its frames."""
    x = features(shape, unit=False, ragged=False)
    text, frames = x.text.to(device), x.frames.to(device)
    real = torch.ones(frames.shape[:2], dtype=torch.bool, device=device)
    text_key, video_key = torch.arange(shape.T, device=device), torch.arange(shape.V, device=device) + 2**40
    weights = draw_weights(shape, device, torch.float32)

    def sides(dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
        cast = draw_weights(shape, device, dtype)
        return (
            eaglenet.text_side(text.to(dtype), text_key, cast),
            eaglenet.video_side(frames.to(dtype), real, video_key, cast),
            cast,
        )

    def naive(rows: slice) -> Tensor:
        columns = list(zip(frames.split(BLOCK), video_key.split(BLOCK), strict=True))
        return torch.cat(
            [
                torch.cat([graph_cosine(t, key, v, other, weights) for v, other in columns], 1)
                for t, key in zip(text[rows].split(BLOCK), text_key[rows].split(BLOCK), strict=True)
            ]
        )

    def beside(impl: str) -> Callable[[], object] | None:
        """Return the drawing of a form's noise, which its floor holds beside its products."""
        if impl not in ("folded", "compiled"):
            return None
        draw = _dispatch.load("eaglenet", impl).draw_noise
        return lambda: [
            draw({"key": texts}, {"key": clip}, weights, slice(0), slice(0))
            for clip in video_key.split(1)
            for texts in text_key.split(PAIRS)
        ]

    return Case("eaglenet", shape, sides, {"naive": naive}, texts=BLOCK, beside=beside)


def graph_cosine(text: Tensor, text_key: Tensor, frames: Tensor, video_key: Tensor, w: EagleNetWeights) -> Tensor:
    """Score a block of captions [A, D] and clips [B, F, D] with every node of every pair in every relation."""
    A, (B, slots, D), options = len(text), frames.shape, w.options
    pair_text = text[:, None].expand(A, B, D).flatten(0, 1)
    pair_frames = frames[None].expand(A, B, slots, D).flatten(0, 1)
    cosines = (F.normalize(pair_text, dim=-1)[:, None] * F.normalize(pair_frames, dim=-1)).sum(-1)
    radius = F.linear(cosines, *w.radius).exp()[:, None]
    sigma = noise.uniform(text_key[:, None], video_key, options.candidates, D).flatten(0, 1)
    texts = torch.cat([pair_text[:, None], pair_text[:, None] + sigma * radius], 1)
    nodes = torch.cat([pair_frames if w.frame_positions is None else pair_frames + w.frame_positions, texts], 1)
    everything = torch.ones(1, slots, dtype=torch.bool, device=text.device)
    masks = reference.relation_masks(everything, texts.shape[1], relational=True)
    hidden, _ = _layer(nodes, w.hidden, masks, options)
    out, logits = _layer(hidden.transpose(1, 2).flatten(2).relu(), w.last, masks, options)
    out.mean(1)  # the last layer's output, which nothing reads
    share = logits[:, :, :slots, slots:].mean((1, 2)).softmax(-1)
    enriched = (share[:, None] @ texts)[:, 0].view(A, B, D)
    return _pooled_cosine(enriched, frames, w.pool)


def _layer(nodes: Tensor, layer: GraphLayer, masks: list[Tensor], options: Options) -> tuple[Tensor, Tensor]:
    """Return the layer's output [P, H, N, k] and the logits of its last relation."""
    assert layer.out is not None
    out = _linear(nodes, layer.out)[:, None]
    for relation, mask in zip(layer.relations, masks, strict=True):
        values = _linear(nodes, relation.value).unflatten(-1, (options.heads, -1)).transpose(1, 2)
        logits = (values @ relation.receiver)[..., :, None] + (values @ relation.sender)[..., None, :]
        logits = F.leaky_relu(logits, options.slope)
        attention = logits.masked_fill(~mask[:, None], -torch.inf).softmax(-1).masked_fill(~mask[:, None], 0.0)
        out = out + attention @ values
    return out, logits


def _pooled_cosine(text: Tensor, frames: Tensor, w: Pooling) -> Tensor:
    query = _linear(reference.norm(text, w.norm1), w.query.weight) + w.query.bias
    normed = reference.norm(frames, w.norm1)
    key, value = (_linear(normed, part.weight) + part.bias for part in (w.key, w.value))
    attention = (torch.einsum("abd,bfd->abf", query, key) / key.shape[-1] ** 0.5).softmax(-1)
    attended = torch.einsum("abf,bfd->abd", attention, value)
    out = reference.norm(_linear(attended, w.out.weight) + w.out.bias, w.norm2)
    pooled = reference.norm(out + _linear(out, w.linear.weight) + w.linear.bias, w.norm3)
    return (F.normalize(text, dim=-1) * F.normalize(pooled, dim=-1)).sum(-1)


def _linear(x: Tensor, matrix: Tensor) -> Tensor:
    return matmul(x.reshape(-1, x.shape[-1]), matrix.T).view(*x.shape[:-1], -1)


def draw_weights(shape: Shape, device: str, dtype: torch.dtype) -> EagleNetWeights:
    """Draw the parameters of the published head (RGAT, four heads, 20 candidates, frame positions)."""
    g, options, dim = torch.Generator().manual_seed(0), Options(), shape.D

    def draw(*size: int, scale: float | None = None) -> Tensor:
        values = torch.randn(*size, generator=g) * (size[-1] ** -0.5 if scale is None else scale)
        return values.to(device, dtype)

    def layer(width: int) -> GraphLayer:
        relations = (Relation(draw(options.heads * width, dim), draw(width), draw(width)) for _ in range(3))
        return GraphLayer(tuple(relations), draw(width, dim))

    def linear() -> Linear:
        return Linear(draw(dim, dim), draw(dim))

    def norm() -> Norm:
        return Norm(1.0 + draw(dim, scale=0.1), draw(dim, scale=0.1))

    return EagleNetWeights(
        Linear(draw(dim, shape.F), draw(dim)),
        draw(shape.F, dim, scale=1.0),
        layer(dim // options.heads),
        layer(dim),
        Pooling(linear(), linear(), linear(), linear(), linear(), norm(), norm(), norm()),
        options,
    )
