"""EagleNet's graph parameters under the authors' names, handed to the scorer as plain tensors.

The arithmetic is in `tvr_kernels.eaglenet`. Parameters that nothing reads are not built: of the last layer of the
relational graph only the frame-text logits are used (see `Method.ignored_keys`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from tvr_kernels.eaglenet import GraphLayer, Linear, Norm, Pooling, Relation

from tvr_cli.nn.xpool import XPool

RELATIONS = ("0", "1", "2")  # text-text, frame-frame, frame-text


class RelationalLayer(nn.Module):
    """RGAT (arXiv 1904.05811): values and an attention vector a relation, the vector shared by all heads.

    last: keep the frame-text relation alone, whose logits are all that is read of the last layer.
    """

    def __init__(self, dim: int, heads: int, width: int, *, last: bool):
        super().__init__()
        self.relations = RELATIONS[-1:] if last else RELATIONS
        self.lin_rels = nn.ModuleDict({r: nn.Linear(dim, heads * width, bias=False) for r in self.relations})
        self.att_l_rels = nn.ModuleDict({r: nn.Linear(width, 1, bias=False) for r in self.relations})
        self.att_r_rels = nn.ModuleDict({r: nn.Linear(width, 1, bias=False) for r in self.relations})
        self.lin_out = None if last else nn.Linear(dim, width, bias=False)

    def tensors(self) -> GraphLayer:
        relations = tuple(_relation(self.lin_rels[r], self.att_l_rels[r], self.att_r_rels[r]) for r in self.relations)
        return GraphLayer(relations, None if self.lin_out is None else self.lin_out.weight)


class PlainLayer(nn.Module):
    """GAT (arXiv 1710.10903): every node attends to every node."""

    def __init__(self, dim: int, heads: int, width: int):
        super().__init__()
        self.lin1 = nn.Linear(dim, heads * width, bias=False)
        self.att_l = nn.Linear(width, 1, bias=False)
        self.att_r = nn.Linear(width, 1, bias=False)

    def tensors(self) -> GraphLayer:
        return GraphLayer((_relation(self.lin1, self.att_l, self.att_r),), None)


class Graph(nn.Module):
    """Two layers: heads side by side in the first (width D / H each), heads averaged in the last (width D each)."""

    def __init__(self, dim: int, heads: int, *, relational: bool):
        super().__init__()
        if relational:
            self.layers = nn.ModuleList(
                [
                    RelationalLayer(dim, heads, dim // heads, last=False),
                    RelationalLayer(dim, heads, dim, last=True),
                ]
            )
        else:
            self.layers = nn.ModuleList([PlainLayer(dim, heads, dim // heads), PlainLayer(dim, heads, dim)])

    def tensors(self) -> tuple[GraphLayer, GraphLayer]:
        hidden, last = (layer.tensors() for layer in self.layers)  # type: ignore[operator]
        return hidden, last


def pooling_tensors(pool: XPool) -> Pooling:
    """Return the X-Pool block's parameters as the op takes them."""
    attention = pool.cross_attn
    query, key, value, out = (_linear(attention[f"{name}_proj"]) for name in ("q", "k", "v", "out"))
    first, second, third = (Norm(n.weight, n.bias) for n in (pool.layer_norm1, pool.layer_norm2, pool.layer_norm3))
    return Pooling(query, key, value, out, _linear(pool.linear_proj), first, second, third)


def _relation(value: nn.Module, receiver: nn.Module, sender: nn.Module) -> Relation:
    return Relation(_weight(value), _weight(receiver)[0], _weight(sender)[0])


def _linear(layer: nn.Module) -> Linear:
    assert isinstance(layer.bias, torch.Tensor)
    return Linear(_weight(layer), layer.bias)


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, torch.Tensor)
    return layer.weight
