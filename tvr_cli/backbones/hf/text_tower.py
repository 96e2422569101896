"""A text tower of transformers under OpenAI's names, from which the temporal blocks of some methods start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tvr_cli.backbones.text_tower.tower import HEAD_SIZE

_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def under_openai_names(model: Any) -> Mapping[str, Tensor]:
    """Return a model's text transformer under OpenAI's names, an empty mapping where it is of another make.

    Its layers are CLIP's: norms before attention and before two matrices. One whose heads do not fit into OpenAI's is
    of another make, though its tensors may have their shapes.
    """
    tower: Any = getattr(model, "text_model", None)
    blocks = getattr(getattr(tower, "encoder", None), "layers", None)
    if blocks is None or not all(hasattr(blocks[0], name.partition(".")[0]) for name in _BLOCK):
        return {}
    attention = blocks[0].self_attn
    if HEAD_SIZE % (attention.embed_dim // attention.num_heads):
        return {}
    out = {
        "token_embedding.weight": tower.embeddings.token_embedding.weight,
        "positional_embedding": tower.embeddings.position_embedding.weight,
        "ln_final.weight": tower.final_layer_norm.weight,
        "ln_final.bias": tower.final_layer_norm.bias,
    }
    projection = getattr(model, "text_projection", None) or tower.head
    out["text_projection"] = projection.weight.T
    for i, block in enumerate(blocks):
        stem = f"transformer.resblocks.{i}."
        for theirs, ours in _BLOCK.items():
            layer = block.get_submodule(theirs)
            out |= {f"{stem}{ours}.weight": layer.weight, f"{stem}{ours}.bias": layer.bias}
        each = [getattr(block.self_attn, f"{kind}_proj") for kind in "qkv"]
        out[f"{stem}attn.in_proj_weight"] = torch.cat([layer.weight for layer in each])
        out[f"{stem}attn.in_proj_bias"] = torch.cat([layer.bias for layer in each])
    return out
