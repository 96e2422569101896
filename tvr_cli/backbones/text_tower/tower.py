"""The text tower of CLIP and its relatives in numpy: pre-norm transformer, causal, read at the end token.

As open_clip builds it (`open_clip.transformer.TextTransformer`, Radford et al. 2021, section 2.4). float32 throughout;
matrix products are BLAS's, as torch's are, so the two agree to rounding.

Letters: T captions, L token slots, W width, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        self._check(length)
        x = self._embedded(ids.reshape(-1), np.tile(np.arange(length), texts))
        for layer in range(self._layers):
            x = self._block(x, layer, [(0, texts, length)])
        tokens = (self._norm(x, "ln_final") @ self._get("text_projection")).reshape(texts, length, -1)
        return tokens[np.arange(texts), ids.argmax(-1)], tokens

    def encode_pooled(self, ids: np.ndarray) -> np.ndarray:
        """Encode [T, L] zero-padded ids to pooled [T, D] alone: each sentence up to its end token, no pads.

        Attention looks back only, so what stands behind the end token does not reach it. Raises as `encode`.
        """
        self._check(ids.shape[1])
        lengths = ids.argmax(-1) + 1
        order = np.argsort(lengths, kind="stable")
        starts = np.concatenate([[0], np.cumsum(lengths[order])])  # of each sentence among the packed tokens
        of_length, counts = np.unique(lengths, return_counts=True)
        groups = [
            (int(starts[first]), int(count), int(length))
            for first, count, length in zip(np.cumsum(counts) - counts, counts, of_length, strict=True)
        ]
        slots = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths[order])
        x = self._embedded(ids[np.repeat(order, lengths[order]), slots], slots)
        ends = starts[1:] - 1
        for layer in range(self._layers):
            x = self._block(x, layer, groups, ends if layer == self._layers - 1 else None)
        pooled = np.empty((len(ids), self._tensors.shape(f"{self._prefix}text_projection")[1]), np.float32)
        pooled[order] = self._norm(x, "ln_final") @ self._get("text_projection")
        return pooled

    def _check(self, length: int) -> None:
        if length > self._about.context_length:
            raise ValueError(f"expected at most {self._about.context_length} token slots, got {length}")

    def _embedded(self, ids: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Return tokens [N] at their slots [N] as vectors [N, W]."""
        return (
            self._tensors.rows(f"{self._prefix}token_embedding.weight", ids) + self._get("positional_embedding")[slots]
        )

    def _block(
        self, x: np.ndarray, layer: int, groups: list[tuple[int, int, int]], wanted: np.ndarray | None = None
    ) -> np.ndarray:
        """Return what a layer makes of packed tokens [N, W]. groups: where so many sentences of a length begin.

        wanted: the only tokens that anything still looks at, None = all.
        """
        name = f"transformer.resblocks.{layer}."
        joint = self._linear(self._norm(x, f"{name}ln_1"), f"{name}attn.in_proj_weight", f"{name}attn.in_proj_bias")
        attended = np.empty_like(x)
        for start, texts, length in groups:
            attended[start : start + texts * length] = self._attended(joint[start : start + texts * length], texts)
        if wanted is not None:
            x, attended = x[wanted], attended[wanted]
        x = self._added(x, attended, f"{name}attn.out_proj.weight", f"{name}attn.out_proj.bias")
        hidden = _product(self._norm(x, f"{name}ln_2"), self._get(f"{name}mlp.c_fc.weight"))
        bias, activate = self._get(f"{name}mlp.c_fc.bias"), _quick_gelu if self._about.quick_gelu else _gelu
        for some in _blocks(hidden):
            some += bias
            activate(some)
        return self._added(x, hidden, f"{name}mlp.c_proj.weight", f"{name}mlp.c_proj.bias")

    def _attended(self, joint: np.ndarray, texts: int) -> np.ndarray:
        """Return causal attention [N, W] within each of some sentences of one length; joint: [N, 3 W]."""
        heads, width = self._about.heads, joint.shape[1] // 3
        q, k, v = joint.reshape(texts, -1, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
        logits = (q * (width // heads) ** -0.5) @ k.swapaxes(-1, -2)
        logits += np.triu(np.full(logits.shape[-2:], -np.inf, np.float32), 1)
        logits -= logits.max(-1, keepdims=True)
        weights = np.exp(logits, out=logits)
        weights /= weights.sum(-1, keepdims=True)
        return (weights @ v).swapaxes(1, 2).reshape(-1, width)

    def _linear(self, x: np.ndarray, weight: str, bias: str) -> np.ndarray:
        found = _product(x, self._get(weight))
        found += self._get(bias)
        return found

    def _added(self, x: np.ndarray, y: np.ndarray, weight: str, bias: str) -> np.ndarray:
        """Return x + a linear map of y."""
        found, offset = _product(y, self._get(weight)), self._get(bias)
        for some, kept in zip(_blocks(found), _blocks(x), strict=True):
            some += offset
            some += kept
        return found

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        found = np.empty_like(x)
        weight, bias = self._get(f"{name}.weight"), self._get(f"{name}.bias")
        for some, centred in zip(_blocks(x), _blocks(found), strict=True):
            np.subtract(some, some.mean(-1, keepdims=True), out=centred)
            variance = np.square(centred).mean(-1, keepdims=True)
            centred /= np.sqrt(variance + _EPSILON)
            centred *= weight
            centred += bias
        return found

    def _get(self, name: str) -> np.ndarray:
        return self._tensors[self._prefix + name]


def _product(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return x W' [N, V] of tokens [N, W] and a matrix [V, W].

    Of a sentence or two as W x', some rows of W at a time: BLAS copies what it multiplies, and in this order the copy
    of so large a matrix stays in the cache.
    """
    if len(x) > _FEW:
        return np.asarray(x @ weight.T)
    across = np.ascontiguousarray(x.T)
    found = np.empty((len(weight), len(x)), np.float32)
    for start in range(0, len(weight), _ROWS):
        np.matmul(weight[start : start + _ROWS], across, out=found[start : start + _ROWS])
    return np.ascontiguousarray(found.T)


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    """Yield [N, W] some rows at a time: what is done to them step by step stays in the cache."""
    rows = max(1, _CACHED // x.shape[1])
    for start in range(0, len(x), rows):
        yield x[start : start + rows]


def _quick_gelu(x: np.ndarray) -> None:
    """Make x sigmoid(1.702 x) of x, in place."""
    below = x * np.float32(-1.702)
    np.exp(below, out=below)
    below += 1.0
    x /= below


def _gelu(x: np.ndarray) -> None:
    """Make x (1 + erf(x / sqrt 2)) / 2 of x, in place.

    numpy lacks erf. 1 - erf(z) is a polynomial in 1 / (1 + p z) times exp(-z^2) to 1.5e-7, about what float32 rounds
    (Abramowitz and Stegun 1964, 7.1.26); of z = |x| / sqrt 2 it is what x loses, or is left of it below 0.
    """
    size = np.abs(x)
    near = size * _NEAR
    near += 1.0
    np.reciprocal(near, out=near)
    lost = near * _ERFC[0]
    for factor in _ERFC[1:]:
        lost += factor
        lost *= near
    bell = np.square(x, out=near)
    bell *= -0.5
    lost *= np.exp(bell, out=bell)
    lost *= size
    np.maximum(x, 0.0, out=x)
    x -= lost


_FEW, _ROWS = 16, 512  # tokens that are multiplied from the right, and rows of a matrix at a time
_CACHED = 2**15  # numbers: 128 KB
_NEAR = np.float32(0.3275911 * 2**-0.5)
_ERFC = [np.float32(a / 2) for a in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)]  # of half
