"""The temporal transformer of CLIP4Clip and X-CLIP ("seqTransf"), which four of the methods share.

`z = x + Transformer(x + E[0:F])`: pre-LN residual blocks like those of CLIP's text tower, without a causal mask, a
final LayerNorm or dropout. Parameters carry CLIP's names (`resblocks.N.attn.in_proj_weight`, …), so that the
authors' checkpoints load without renaming; the position table E lives in the method, as theirs does.
Source: CLIP4Clip (arXiv 2104.08860) section 3.3 and X-CLIP's `module_cross`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvr_cli.errors import ConfigError
from tvr_cli.log import logger

LAYER_NORM_EPS = 1e-12  # a BERT-style LayerNorm class in the authors' code, unlike CLIP's 1e-5
MASKED_KEY_BIAS = -1e6  # added to the attention logits of missing frames
POSITIONS = 77  # rows of the position table, CLIP's context length
HEAD_SIZE = 64


class TemporalTransformer(nn.Module):
    """Mix the frames of each clip with K pre-LN blocks: [V, F, width] -> [V, F, width].

    heads: width / 64 unless given. Missing frames are masked as keys only: as queries they attend to the real ones,
    so their output is not zero. A clip without any real frame attends to all of its slots.
    """

    def __init__(self, width: int, layers: int = 4, heads: int | None = None):
        super().__init__()
        self.width, self.layers = width, layers
        self.resblocks = nn.ModuleList(
            _Block(width, heads or max(1, width // HEAD_SIZE), layers) for _ in range(layers)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [V, F, width]; mask: [V, F] bool, True = a real frame."""
        bias = (~mask).to(x.dtype)[:, None, None, :] * MASKED_KEY_BIAS  # [V, 1, 1, F], the same for every query
        for block in self.resblocks:
            x = block(x, bias)
        return x


def frame_positions(width: int, rows: int = POSITIONS) -> nn.Embedding:
    """Return the position table E [rows, width], started like CLIP's (normal, 0.01)."""
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, std=0.01)
    return table


def contextualize_frames(frames: Tensor, mask: Tensor, transformer: nn.Module, positions: nn.Embedding) -> Tensor:
    """Return z = x + Transformer(x + E[0:F]): [V, F, D], not normalised.

    frames: [V, F, D] un-normalised; mask: [V, F] bool, True = real. Raises ConfigError if F exceeds the table.
    """
    slots = frames.shape[1]
    if slots > positions.num_embeddings:
        raise ConfigError(
            f"the temporal transformer has {positions.num_embeddings} frame positions, but the clips have {slots} "
            f"frame slots; extract at most {positions.num_embeddings} frames a clip (--max-frames) or use a method "
            "without a temporal transformer"
        )
    return frames + transformer(frames + positions.weight[:slots].to(frames.dtype), mask)


@torch.no_grad()
def start_from_text_tower(
    transformer: TemporalTransformer, positions: nn.Embedding, text_tower: Mapping[str, Tensor]
) -> None:
    """Copy blocks 0..K-1 and the position table from CLIP's text tower, as the authors do.

    text_tower: OpenAI names (`transformer.resblocks.N.*`, `positional_embedding`); empty, or of another width, leaves
    the initialisation as it is and says so once. A tower with fewer blocks or positions gives what it has.
    """
    table = text_tower.get("positional_embedding")
    if table is None or table.shape[1] != transformer.width:
        found = "no text tower" if table is None else f"a text tower of width {table.shape[1]}"
        logger.info("temporal transformer starts at random: width %d, the backbone has %s", transformer.width, found)
        return
    rows = min(len(table), positions.num_embeddings)
    positions.weight[:rows] = table[:rows].to(positions.weight)
    for number, block in enumerate(transformer.resblocks):
        prefix = f"transformer.resblocks.{number}."
        state = {k.removeprefix(prefix): v for k, v in text_tower.items() if k.startswith(prefix)}
        if not state:
            logger.info("temporal block %d starts at random: the backbone's text tower has %d blocks", number, number)
            continue
        block.load_state_dict(state)


class _Block(nn.Module):
    """x += Attention(LN(x)); x += MLP(LN(x)). Started like CLIP's own text blocks in a stack of `depth`."""

    def __init__(self, width: int, heads: int, depth: int):
        super().__init__()
        self.attn = _Attention(width, heads, depth)
        self.ln_1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = _FeedForward(width, depth)
        self.ln_2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x), bias)
        return x + self.mlp(self.ln_2(x))


class _FeedForward(nn.Module):
    def __init__(self, width: int, depth: int):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)
        nn.init.normal_(self.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.c_proj.weight, std=width**-0.5 * (2 * depth) ** -0.5)
        nn.init.zeros_(self.c_fc.bias)
        nn.init.zeros_(self.c_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.c_fc(x)
        return self.c_proj(hidden * torch.sigmoid(1.702 * hidden))  # QuickGELU


class _Attention(nn.Module):
    """Multi-head self-attention with q | k | v stacked in one matrix, as torch's MultiheadAttention names them."""

    def __init__(self, width: int, heads: int, depth: int):
        super().__init__()
        if width % heads:
            raise ConfigError(f"the temporal transformer needs a width divisible by its heads, got {width} and {heads}")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width) * width**-0.5)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.out_proj.weight, std=width**-0.5 * (2 * depth) ** -0.5)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))  # [V, H, F, D / H]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))
