"""The text side of an open_clip model: pooled and per-token features of captions of any length up to the context.

open_clip's own `encode_text` returns the pooled row only and wants the full context. A causal tower gives the same
features for a shorter context (a token never sees what comes after it), so captions are encoded at their own plan's
length; a tower that looks both ways (SigLIP, MobileCLIP) was trained with its pads and always runs at full length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TextSide:
    """Reads the text tower out of a CLIP or CustomTextCLIP model; owns no parameters.

    pad_id: the id that the tower was trained to see in pad positions (callers pad with zeros).
    """

    def __init__(self, model: nn.Module, pad_id: int = 0):
        self._model = model
        self._tower: Any = getattr(model, "text", model)
        self.pad_id = pad_id
        self.has_tokens = hasattr(self._tower, "ln_final") and getattr(self._tower, "cls_emb", None) is None
        self.context_length = int(getattr(model, "context_length", 0) or getattr(self._tower, "context_length", 77))
        mask = getattr(self._tower, "attn_mask", None)
        self.causal = self.has_tokens and mask is not None

    @property
    def vocab_size(self) -> int | None:
        return getattr(self._model, "vocab_size", None)

    def encode(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode [T, L] zero-padded ids to pooled [T, D] and tokens [T, L, D] (None where the tower hides them)."""
        length = ids.shape[1]
        if length > self.context_length:
            raise ValueError(f"expected at most {self.context_length} token slots, got {length}")
        if not self.causal:
            ids = self._full_length(ids)
        if not self.has_tokens:
            out = self._tower(ids)
            return (out[0] if isinstance(out, tuple) else out), None
        tokens = self._tokens(ids)
        return tokens[torch.arange(len(ids), device=ids.device), self._pooled_row(ids)], tokens[:, :length]

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tower's tensors under OpenAI's names; empty for a tower of another make."""
        if not self.has_tokens:
            return {}
        visual = "visual."
        skip = ("logit_scale", "logit_bias")
        return {k: v for k, v in self._tower.state_dict(keep_vars=True).items() if not k.startswith((visual, *skip))}

    def _tokens(self, ids: Tensor) -> Tensor:
        tower, length = self._tower, ids.shape[1]
        dtype = tower.transformer.get_cast_dtype()
        x = tower.token_embedding(ids).to(dtype) + tower.positional_embedding[:length].to(dtype)
        mask = tower.attn_mask[:length, :length] if self.causal else None
        x = tower.ln_final(tower.transformer(x, attn_mask=mask))
        projection = tower.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection

    def _pooled_row(self, ids: Tensor) -> Tensor:
        kind = getattr(self._tower, "text_pool_type", None) or getattr(self._tower, "pool_type", "argmax")
        if kind == "first":
            return ids.new_zeros(len(ids))
        if kind == "last":
            return ids.new_full((len(ids),), ids.shape[1] - 1)
        if kind == "eos":
            eos = getattr(self._tower, "text_eos_id", None) or self._tower.eos_id
            return (ids == eos).int().argmax(-1)
        return ids.argmax(-1)  # CLIP: the end token has the largest id

    def _full_length(self, ids: Tensor) -> Tensor:
        ids = F.pad(ids, (0, self.context_length - ids.shape[1]))
        if self.pad_id == 0:
            return ids
        later = torch.arange(ids.shape[1], device=ids.device) > 0  # some vocabularies start with token 0
        return ids.masked_fill((ids == 0) & later, self.pad_id)
