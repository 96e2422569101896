"""The text tower of CLIP and its relatives in numpy: pre-norm transformer, causal, read at the end token.

As open_clip builds it (`open_clip.transformer.TextTransformer`, Radford et al. 2021, section 2.4). float32 throughout;
matrix products are BLAS's, as torch's are, so the two agree to rounding.

Letters: T captions, L token slots, W width, D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvr_cli.backbones.text_tower.mapped import MappedTensors
from tvr_cli.errors import DataError

# Every field of open_clip's text configuration that this tower can follow, with the values that it knows how to.
_SIZES = frozenset({"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "eos_id"})
_KNOWN: Mapping[str, tuple[Any, ...]] = {
    "ls_init_value": (None,),
    "embed_cls": (False,),
    "no_causal_mask": (False,),
    "final_ln_after_pool": (False,),
    "pool_type": ("argmax",),
    "proj_bias": (False,),
    "proj_type": ("linear",),
    "output_tokens": (False,),
    "act_kwargs": (None, {}),
    "norm_kwargs": (None, {}),
    "block_type": (None, "default"),
    **dict.fromkeys(("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn"), (False,)),
    "scale_fc": (False,),
    "pad_id": (0,),
    **dict.fromkeys(("hf_model_name", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"), (None, "", {})),
}
_EPSILON = 1e-5  # of every LayerNorm
HEAD_SIZE = 64  # of OpenAI's towers: blocks that start from one have such heads (`Backbone.text_tower`)
_PREFIXES = ("", "text.")  # of CLIP and of CustomTextCLIP


@dataclass(frozen=True)
class Configuration:
    """What the tensors alone do not say. quick_gelu: x sigmoid(1.702 x) instead of GELU."""

    heads: int
    quick_gelu: bool
    context_length: int

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> Configuration | None:
        """Return that of an open_clip model configuration, None where this tower could not follow it."""
        text = model.get("text_cfg", {})
        for name, value in text.items():
            if name not in _SIZES and value not in _KNOWN.get(name, ()):
                return None
        if "multimodal_cfg" in model or text.get("hf_model_name"):
            return None
        quick = bool(model.get("quick_gelu", False))
        return cls(int(text.get("heads", 8)), quick, int(text.get("context_length", 77)))


class TextTower:
    """A text tower on the tensors of one file. Raises DataError when they are not those of its configuration."""

    def __init__(self, tensors: MappedTensors, configuration: Configuration):
        self._tensors, self._about = tensors, configuration
        self._prefix = next((p for p in _PREFIXES if f"{p}ln_final.weight" in tensors), "")
        self._layers = 0
        while f"{self._prefix}transformer.resblocks.{self._layers}.ln_1.weight" in tensors:
            self._layers += 1
        try:
            slots, width = tensors.shape(f"{self._prefix}positional_embedding")
            fits = slots == configuration.context_length and width % configuration.heads == 0 and self._layers > 0
            fits &= tensors.shape(f"{self._prefix}token_embedding.weight")[1] == width
            fits &= tensors.shape(f"{self._prefix}text_projection")[0] == width
            fits &= "logit_scale" in tensors
        except (KeyError, ValueError, IndexError):
            fits = False
        if not fits:
            raise DataError("the tensors are not those of a text tower of this configuration")

    def parameters(self) -> dict[str, np.ndarray]:
        """Return the tower's tensors under OpenAI's names, as `Backbone.text_tower` does."""
        width = self._tensors.shape(f"{self._prefix}ln_final.weight")[0]
        if HEAD_SIZE % (width // self._about.heads):
            return {}
        names = [name for name in self._tensors if name.startswith(self._prefix)]
        others = ("visual.", "logit_")
        own = {name.removeprefix(self._prefix): name for name in names}
        return {short: self._tensors[name] for short, name in own.items() if not short.startswith(others)}

    @property
    def logit_scale(self) -> np.ndarray:
        """The natural logarithm of the scale that the backbone was trained with, a scalar."""
        return self._tensors["logit_scale"].reshape(())

    def encode(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Encode [T, L] zero-padded ids to pooled [T, D] and tokens [T, L, D], float32.

        Raises ValueError for more slots than the tower has positions.
        """
        texts, length = ids.shape
        if length > self._about.context_length:
            raise ValueError(f"expected at most {self._about.context_length} token slots, got {length}")
        x = self._tensors.rows(f"{self._prefix}token_embedding.weight", ids)
        x = x + self._get("positional_embedding")[:length]
        mask = np.triu(np.full((length, length), -np.inf, np.float32), 1)
        for layer in range(self._layers):
            x = self._block(x, f"transformer.resblocks.{layer}.", mask)
        tokens = self._norm(x, "ln_final") @ self._get("text_projection")
        return tokens[np.arange(texts), ids.argmax(-1)], tokens

    def _block(self, x: np.ndarray, name: str, mask: np.ndarray) -> np.ndarray:
        texts, length, width = x.shape
        heads, size = self._about.heads, width // self._about.heads
        joint = self._linear(self._norm(x, f"{name}ln_1"), f"{name}attn.in_proj_weight", f"{name}attn.in_proj_bias")
        q, k, v = joint.reshape(texts, length, 3, heads, size).transpose(2, 0, 3, 1, 4)
        logits = (q * size**-0.5) @ k.swapaxes(-1, -2) + mask
        logits -= logits.max(-1, keepdims=True)
        weights = np.exp(logits, out=logits)
        weights /= weights.sum(-1, keepdims=True)
        attended = (weights @ v).swapaxes(1, 2).reshape(texts, length, width)
        x = x + self._linear(attended, f"{name}attn.out_proj.weight", f"{name}attn.out_proj.bias")
        hidden = self._linear(self._norm(x, f"{name}ln_2"), f"{name}mlp.c_fc.weight", f"{name}mlp.c_fc.bias")
        hidden = _quick_gelu(hidden) if self._about.quick_gelu else _gelu(hidden)
        return x + self._linear(hidden, f"{name}mlp.c_proj.weight", f"{name}mlp.c_proj.bias")

    def _linear(self, x: np.ndarray, weight: str, bias: str) -> np.ndarray:
        flat = x.reshape(-1, x.shape[-1]) @ self._get(weight).T
        return (flat + self._get(bias)).reshape(*x.shape[:-1], -1)

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        variance = np.square(centred).mean(-1, keepdims=True)
        return centred / np.sqrt(variance + _EPSILON) * self._get(f"{name}.weight") + self._get(f"{name}.bias")

    def _get(self, name: str) -> np.ndarray:
        return self._tensors[self._prefix + name]


def _quick_gelu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-1.702 * x))


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + _erf(x * np.float32(2**-0.5)))


def _erf(x: np.ndarray) -> np.ndarray:
    """Return erf(x), which numpy lacks: cubic Hermite interpolation of a table, exact to 1e-10 before rounding."""
    size = np.minimum(np.abs(x), _ERF_END - _ERF_STEP)
    at = size / _ERF_STEP
    index = at.astype(np.int64)
    t = at - index
    values, slopes = _ERF_TABLE[index], _ERF_SLOPES[index]
    rise = _ERF_TABLE[index + 1] - values
    right = _ERF_SLOPES[index + 1]
    curve = values + t * (slopes + t * (3 * rise - 2 * slopes - right + t * (slopes + right - 2 * rise)))
    return np.copysign(curve, x).astype(np.float32)


_ERF_STEP, _ERF_END = 1 / 256, 4.0  # beyond 4, 1 - erf is 2e-8
_GRID = [i * _ERF_STEP for i in range(int(_ERF_END / _ERF_STEP) + 1)]
_ERF_TABLE = np.array([math.erf(x) for x in _GRID])
_ERF_SLOPES = np.array([2 / math.sqrt(math.pi) * math.exp(-x * x) * _ERF_STEP for x in _GRID])
