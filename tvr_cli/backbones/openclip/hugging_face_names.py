"""CLIP's weights as Hugging Face's CLIPModel names them, under OpenAI's names: what X-Pool and T-MASS save."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

MARK = "text_model.embeddings.token_embedding.weight"

# Whole names, then what stands inside of a block. What is written there transposed is in `_TRANSPOSED`.
_NAMES = {
    MARK: "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = frozenset({"text_projection.weight", "visual_projection.weight"})
_TOWERS = {"text_model": "transformer", "vision_model": "visual.transformer"}
_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_IN_BLOCK = re.compile(r"(text_model|vision_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_POSITION_IDS = re.compile(r"(text|vision)_model\.embeddings\.position_ids")  # a buffer 0, 1, 2, …


def is_hugging_face(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of a CLIPModel, without a prefix."""
    return MARK in state


def openai_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under OpenAI's names; q, k and v become one matrix. A name that is unknown stays as it is."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in _NAMES:
            out[_NAMES[name]] = value.T.contiguous() if name in _TRANSPOSED else value
        elif found := _IN_BLOCK.fullmatch(name):
            tower, number, part, kind = found.groups()
            block = f"{_TOWERS[tower]}.resblocks.{number}"
            if part == "self_attn.q_proj":
                own = name.replace("q_proj", "{}_proj")
                out[f"{block}.attn.in_proj_{kind}"] = torch.cat([state[own.format(p)] for p in "qkv"])
            elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
                out[f"{block}.{_BLOCK.get(part, part)}.{kind}"] = value
        elif not _POSITION_IDS.fullmatch(name):
            out[name] = value
    return out
