"""CLIP's two towers as the authors' code writes them: the measure of what float32 loses in them on this processor.

Plain functions of a state dict under OpenAI's names (`prefix` in front), fused nowhere, in whatever precision the
weights have. Source: openai/CLIP model.py; the patch shift as in EagleNet's (TS2-Net's) visual blocks 10 and 11.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

HEAD = 64  # width of an attention head of every CLIP
SHIFTED = (10, 11)


def encode_image(state: Mapping[str, Tensor], pixels: Tensor, *, shift: bool = False) -> Tensor:
    """Return [V, F, D] features of normalised frames [V, F, 3, S, S]."""
    frames = pixels.shape[1]
    patch = state["visual.conv1.weight"].shape[-1]
    x = torch.nn.functional.conv2d(pixels.flatten(0, 1), state["visual.conv1.weight"], stride=patch)
    x = x.flatten(2).transpose(1, 2)  # [V * F, P, width]
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + state["visual.positional_embedding"]
    x = _norm(x, state, "visual.ln_pre")
    for i in range(_blocks(state, "visual.transformer")):
        x = _block(x, state, f"visual.transformer.resblocks.{i}", None, frames if shift and i in SHIFTED else None)
    return (_norm(x[:, 0], state, "visual.ln_post") @ state["visual.proj"]).unflatten(0, pixels.shape[:2])


def encode_text(state: Mapping[str, Tensor], ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features [T, D] at the end token (the largest id) and of all tokens [T, L, D]. ids: [T, L]."""
    length = ids.shape[1]
    x = state["token_embedding.weight"][ids] + state["positional_embedding"][:length]
    causal = torch.full((length, length), float("-inf"), dtype=x.dtype).triu(1)
    for i in range(_blocks(state, "transformer")):
        x = _block(x, state, f"transformer.resblocks.{i}", causal, None)
    tokens = _norm(x, state, "ln_final") @ state["text_projection"]
    return tokens[torch.arange(len(ids)), ids.argmax(-1)], tokens


def _block(x: Tensor, state: Mapping[str, Tensor], name: str, mask: Tensor | None, frames: int | None) -> Tensor:
    y = _norm(x, state, f"{name}.ln_1")
    x = x + _attend(_shift(y, frames) if frames else y, state, f"{name}.attn", mask)
    y = _linear(_norm(x, state, f"{name}.ln_2"), state, f"{name}.mlp.c_fc")
    return x + _linear(y * torch.sigmoid(1.702 * y), state, f"{name}.mlp.c_proj")


def _attend(x: Tensor, state: Mapping[str, Tensor], name: str, mask: Tensor | None) -> Tensor:
    heads = max(1, x.shape[-1] // HEAD)
    qkv = x @ state[f"{name}.in_proj_weight"].T + state[f"{name}.in_proj_bias"]
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))  # [N, H, L, width / H]
    logits = (q / q.shape[-1] ** 0.5) @ k.transpose(-1, -2)
    weights = (logits if mask is None else logits + mask).softmax(-1)
    return _linear((weights @ v).transpose(1, 2).flatten(2), state, f"{name}.out_proj")


def _shift(x: Tensor, frames: int) -> Tensor:
    """Take tokens 1, 1 + s, … from the frame before and 4, 4 + s, … from the frame after, s = L // 7."""
    clips = x.unflatten(0, (-1, frames))
    step = clips.shape[2] // 7
    out = clips.clone()
    out[:, 1:, 1::step] = clips[:, :-1, 1::step]
    out[:, :-1, 4::step] = clips[:, 1:, 4::step]
    return out.flatten(0, 1)


def _linear(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _norm(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def _blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({k.split(".")[prefix.count(".") + 2] for k in state if k.startswith(f"{prefix}.resblocks.")})
