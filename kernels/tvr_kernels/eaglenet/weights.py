"""The parameters of EagleNet's scorer as plain tuples of tensors: no module, no configuration tree.

Letters: F frames, D features, S candidates, H graph heads, k = D / H; a graph has 1 + S text nodes and F frame nodes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

EPSILON = 1e-5  # of every LayerNorm


class Relation(NamedTuple):
    """One relation of a graph layer. value: [H * K, D], K = k in the first layer and D in the last.

    receiver, sender: [K], the two halves of the attention vector, shared by all heads.
    """

    value: Tensor
    receiver: Tensor
    sender: Tensor


class GraphLayer(NamedTuple):
    """RGAT: relations (text-text, frame-frame, frame-text) and `out` [K, D], added to every head. GAT: one, None."""

    relations: tuple[Relation, ...]
    out: Tensor | None


class Linear(NamedTuple):
    """y = weight x + bias; weight [out, in]."""

    weight: Tensor
    bias: Tensor


class Norm(NamedTuple):
    """LayerNorm gain and shift, [D] each."""

    weight: Tensor
    bias: Tensor


class Pooling(NamedTuple):
    """The X-Pool block: attention projections, the residual linear layer and its three LayerNorms."""

    query: Linear
    key: Linear
    value: Linear
    out: Linear
    linear: Linear
    norm1: Norm
    norm2: Norm
    norm3: Norm


class Options(NamedTuple):
    """What is not a tensor. candidates: S. slope: of the leaky ReLU. prior_std: scales normal noise only.

    mask_padding: leave missing frames out of radius, graph and pooling; the authors let them take part.
    """

    candidates: int = 20
    heads: int = 4
    slope: float = 0.1
    prior: Literal["uniform", "normal"] = "uniform"
    prior_std: float = 1.0
    pool_heads: int = 1
    mask_padding: bool = False


class EagleNetWeights(NamedTuple):
    """Everything that `score` needs besides the items.

    radius: [D, F] and [D]. frame_positions: [F, D] or None. hidden, last: the graph's two layers. draw: which
    repetition of the noise. sigma: [S, T, V, D] to use instead of the counter-based noise (already scaled), or None.
    """

    radius: Linear
    frame_positions: Tensor | None
    hidden: GraphLayer
    last: GraphLayer
    pool: Pooling
    options: Options = Options()
    draw: int = 0
    sigma: Tensor | None = None
