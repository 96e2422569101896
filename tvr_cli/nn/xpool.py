"""The X-Pool block: frames of a clip pooled by attention from a text, for where the vector is needed.

Parameters carry the authors' names (`cross_attn.q_proj.weight`, `layer_norm1.weight`, …), so that their
checkpoints load without renaming. Scores alone need no pooled vector: `tvr_kernels.xpool` folds the block away.
Source: X-Pool (Gorti et al., CVPR 2022, arXiv 2203.15086), and its use in T-MASS and, one query a pair, EagleNet.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from tvr_kernels.xpool import XPoolWeights

from tvr_cli.types import BatchShare, Draws

LAYER_NORM_EPS = 1e-5


class XPool(nn.Module):
    """y = LN3(o + dropout(W_l o + b_l)), o = LN2(W_o sum_f p_f value_f + b_o), p = softmax_f(q . key_f / sqrt(D / h)).

    The query comes from LN1 of the text, keys and values from LN1 of the frames. Matrices start as the identity.
    """

    def __init__(self, dim: int, heads: int = 1):
        super().__init__()
        if dim % heads:
            raise ValueError(f"X-Pool needs a width that its heads divide, found {dim} and {heads} heads")
        self.heads = heads
        projections = {f"{name}_proj": nn.Linear(dim, dim) for name in ("q", "k", "v", "out")}
        self.cross_attn = nn.ModuleDict(projections)
        self.linear_proj = nn.Linear(dim, dim)
        self.layer_norm1, self.layer_norm2, self.layer_norm3 = (nn.LayerNorm(dim, LAYER_NORM_EPS) for _ in range(3))
        for layer in (*projections.values(), self.linear_proj):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, text: Tensor, frames: Tensor, attend: Tensor | None = None, linear_keep: Tensor | None = None
    ) -> Tensor:
        """Return y of every pair, [A, B, D].

        text: [A, D], or [A, B, D] where the query differs from clip to clip. frames: [B, F, D]. attend: [B, F] bool,
        True = may be pooled, None = all. linear_keep: [A, B, D], multiplies the linear branch (a dropout mask,
        already divided by the kept share).
        """
        attention = self.attention(text, frames, attend)  # [A, B, heads, F]
        values = self.cross_attn["v_proj"](self.layer_norm1(frames))  # [B, F, D]
        out_proj = self.cross_attn["out_proj"]
        assert isinstance(out_proj, nn.Linear)
        # the output projection moves in front of the sum: it acts once a frame instead of once a pair
        pieces = zip(values.chunk(self.heads, -1), out_proj.weight.chunk(self.heads, 1), strict=True)
        outputs = torch.stack([part @ columns.T for part, columns in pieces], 1)  # [B, heads, F, D]
        pooled = torch.einsum("abhf,bhfd->abd", attention, outputs) + out_proj.bias
        out = self.layer_norm2(pooled)
        branch = self.linear_proj(out)
        return self.layer_norm3(out + (branch if linear_keep is None else branch * linear_keep))

    def weights(self) -> XPoolWeights:
        """Return the parameters as `tvr_kernels.xpool` takes them. It knows one head."""
        own = dict(self.named_parameters())
        return XPoolWeights(
            norm1_weight=own["layer_norm1.weight"],
            norm1_bias=own["layer_norm1.bias"],
            query_weight=own["cross_attn.q_proj.weight"],
            query_bias=own["cross_attn.q_proj.bias"],
            key_weight=own["cross_attn.k_proj.weight"],
            key_bias=own["cross_attn.k_proj.bias"],
            value_weight=own["cross_attn.v_proj.weight"],
            value_bias=own["cross_attn.v_proj.bias"],
            out_weight=own["cross_attn.out_proj.weight"],
            out_bias=own["cross_attn.out_proj.bias"],
            norm2_weight=own["layer_norm2.weight"],
            norm2_bias=own["layer_norm2.bias"],
            linear_weight=own["linear_proj.weight"],
            linear_bias=own["linear_proj.bias"],
            norm3_weight=own["layer_norm3.weight"],
            norm3_bias=own["layer_norm3.bias"],
            eps=LAYER_NORM_EPS,
        )

    def attention(self, text: Tensor, frames: Tensor, attend: Tensor | None = None) -> Tensor:
        """Return p, [A, B, heads, F]; arguments as in `forward`."""
        query = self.cross_attn["q_proj"](self.layer_norm1(text)).unflatten(-1, (self.heads, -1))
        keys = self.cross_attn["k_proj"](self.layer_norm1(frames)).unflatten(-1, (self.heads, -1))  # [B, F, h, c]
        equation = "ahc,bfhc->abhf" if text.dim() == 2 else "abhc,bfhc->abhf"
        logits = torch.einsum(equation, query, keys) / keys.shape[-1] ** 0.5
        if attend is not None:
            logits = logits.masked_fill(~attend[:, None], float("-inf"))
        return logits.softmax(-1)


def linear_keep(draws: Draws, share: BatchShare, frames: Tensor, drop: float) -> Tensor | None:
    """Return `XPool.forward`'s dropout mask [b, B, D] of own captions and all clips [B, F, D], None without dropout.

    Draws `pool_dropout_keep` [B, B, D], of all captions: every pair and feature has its own.
    """
    if not drop:
        return None
    drawn = draws.keep("pool_dropout_keep", (share.size, len(frames), frames.shape[-1]), drop)
    return share.own(drawn).to(frames) / (1 - drop)


def frame_weights(text: Mapping[str, Tensor], video: Mapping[str, Tensor], real: Tensor) -> Tensor:
    """Return the attention [T, V, F] over real frames, from the sides of `tvr_kernels.xpool`; real: [V, F] bool."""
    logits = (text["query"] @ video["key"].flatten(0, 1).T).unflatten(1, real.shape) + video["key_bias"]
    return logits.masked_fill(~real, float("-inf")).softmax(-1)
