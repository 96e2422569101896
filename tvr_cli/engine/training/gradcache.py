"""Gradients of a loss over a large batch while only a chunk's activations of the backbone exist at a time.

Three passes: features of all chunks without a graph; the loss on all features, and its gradient to each of them; every
chunk again with a graph, through which its part of that gradient flows (a single chunk keeps the graph of its first
pass). Exact: features of one item never depend on another item, and everything that looks across the batch (negatives,
EagleNet's energies, GARE's statistics) lies in the loss, which sees the whole batch.
Source: GradCache (Gao et al., arXiv 2101.06983).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from tvr_cli.engine.training.sources import cat
from tvr_cli.types import LossOutput, Rows, TextFeatures, VideoFeatures

Features = tuple[TextFeatures, VideoFeatures]
_R = TypeVar("_R", bound=Rows)


def backward(
    encode: Callable[[slice], Features],
    loss: Callable[[Features], LossOutput],
    size: int,
    chunk: int,
    *,
    gather: Callable[[Features], Features] | None = None,
    first: int = 0,
) -> LossOutput:
    """Compute the loss of `size` pairs and add its gradients to every parameter, encoding `chunk` pairs at a time.

    encode: rows of the batch -> their features; called again with the same rows, it must give the same values.
    gather: where other processes encode the other pairs of the batch: own features -> those of the whole batch, in
    which this process' begin at row `first`; it may have none, and then encodes a row to know what features look like.
    Returns the loss, detached.
    """
    blocks = [slice(i, min(i + chunk, size)) for i in range(0, size, chunk)]
    kept = len(blocks) == 1  # the graph of a single chunk may stay: no other chunk's is beside it
    with torch.set_grad_enabled(kept):
        parts = [encode(block) for block in blocks] or [_none_of(encode(slice(0, 1)))]
    features = cat([text for text, _ in parts]), cat([video for _, video in parts])
    text, video = features if gather is None else gather(features)
    leaves = _leaf(text), _leaf(video)
    output = loss(leaves)
    output.total.backward()
    for block in blocks:
        _push(parts[0] if kept else encode(block), leaves, slice(first + block.start, first + block.stop))
    return LossOutput(output.total.detach(), {k: v.detach() for k, v in output.parts.items()})


def _none_of(features: Features) -> Features:
    text, video = features
    return text.rows(slice(0, 0)), video.rows(slice(0, 0))


def _push(features: Features, leaves: Features, block: slice) -> None:
    """Send the gradients of a chunk's features, rows `block` of the leaves, on into the backbone's parameters."""
    values, gradients = [], []
    for part, leaf in zip(features, leaves, strict=True):
        for field in dataclasses.fields(part):
            value, kept = getattr(part, field.name), getattr(leaf, field.name)
            if value is not None and value.requires_grad and kept.grad is not None:
                values.append(value)
                gradients.append(kept.grad[block])
    if values:
        torch.autograd.backward(values, gradients)


def _leaf(features: _R) -> _R:
    def make(x: Tensor) -> Tensor:
        return x.detach().requires_grad_() if x.is_floating_point() else x

    return features.map(make)
