"""The text side of an open_clip model: pooled and per-token features of captions of any length up to the context.

open_clip's own `encode_text` returns the pooled row only and wants the full context. A causal tower gives the same
features for a shorter context (a token never sees what comes after it), so captions are encoded at their own plan's
length; a tower that looks both ways (SigLIP, MobileCLIP) was trained with its pads and always runs at full length; one
of Hugging Face's masks its pads, so they are left away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvr_cli.backbones.base import count_flops
from tvr_cli.backbones.text_tower.tower import HEAD_SIZE
from tvr_cli.backbones.tokenizer import pads
from tvr_cli.log import logger


class TextSide:
    """Reads the text tower out of a CLIP or CustomTextCLIP model; owns no parameters.

    pad_id: the id that the tower was trained to see in pad positions (callers pad with zeros). last_id: the id that it
    was trained to see in its very last slot, None = nothing special. context: the largest L, where the tower of a
    foreign library does not say what it was trained with.
    """

    def __init__(self, model: nn.Module, pad_id: int = 0, *, last_id: int | None = None, context: int = 77):
        self._model = model
        self._tower: Any = getattr(model, "text", model)
        self.pad_id, self._last_id = pad_id, last_id
        self.has_tokens = hasattr(self._tower, "ln_final") and getattr(self._tower, "cls_emb", None) is None
        self.masks_pads = hasattr(self._tower, "pooler")  # a tower of Hugging Face
        own = int(getattr(model, "context_length", 0) or getattr(self._tower, "context_length", 0) or context)
        self.context_length = min(own, context) if self.masks_pads else own
        self.causal = self.has_tokens and getattr(self._tower, "attn_mask", None) is not None
        self._any_length = self.causal and self._pool != "last" and last_id is None

    @property
    def vocab_size(self) -> int | None:
        return getattr(self._model, "vocab_size", None)

    @property
    def end_id(self) -> int | None:
        """The token at which a caption is read; None where another rule says where."""
        return self._end_id if self.has_tokens and self._pool == "eos" else None

    def encode(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode [T, L] zero-padded ids to pooled [T, D] and tokens [T, L, D] (None where the tower hides them)."""
        length = ids.shape[1]
        if length > self.context_length:
            raise ValueError(f"expected at most {self.context_length} token slots, got {length}")
        if self.masks_pads:
            return self._masked(ids), None
        ids = self._with_own_pads(ids) if self._any_length else self._full_length(ids)
        if not self.has_tokens:
            out = self._tower(ids)
            return (out[0] if isinstance(out, tuple) else out), None
        tokens = self._tokens(ids)
        return tokens[torch.arange(len(ids), device=ids.device), self._pooled_row(ids)], tokens[:, :length]

    def cost(self, words: int, device: torch.device) -> int:
        """Return the floating-point operations of a caption of so many slots."""
        if not self.masks_pads:
            ids = torch.ones(1, words, dtype=torch.int64, device=device)
            return count_flops(lambda: self.encode(ids))
        # transformers looks at values, which a skeleton has none of: products with the tower's matrices, 2 a weight.
        products = [module.weight.numel() for module in self._tower.modules() if isinstance(module, nn.Linear)]
        return 2 * words * sum(products)

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tower's tensors under OpenAI's names; empty for a tower of another make.

        A tower whose heads do not fit into OpenAI's is of another make, though its tensors may have their shapes.
        """
        if not self.has_tokens:
            return {}
        attention = self._tower.transformer.resblocks[0].attn
        head = self._tower.ln_final.weight.shape[0] // int(getattr(attention, "num_heads", 1))
        if HEAD_SIZE % head:
            logger.info("the text tower has heads of %d numbers, not of %d: nothing starts from it", head, HEAD_SIZE)
            return {}
        visual = "visual."
        skip = ("logit_scale", "logit_bias")
        return {k: v for k, v in self._tower.state_dict(keep_vars=True).items() if not k.startswith((visual, *skip))}

    @property
    def _pool(self) -> str:
        return str(getattr(self._tower, "text_pool_type", None) or getattr(self._tower, "pool_type", "argmax"))

    @property
    def _end_id(self) -> int:
        return int(getattr(self._tower, "text_eos_id", None) or self._tower.eos_id)

    def _masked(self, ids: Tensor) -> Tensor:
        """Encode by a tower that masks its pads: as many slots as the longest caption has are enough."""
        behind = pads(ids)
        longest = max(1, int((~behind).sum(1).max()))
        own = ids.masked_fill(behind, int(self._tower.config.pad_token_id))[:, :longest]
        out = self._tower(own)
        return out[0] if isinstance(out, tuple) else out

    def _tokens(self, ids: Tensor) -> Tensor:
        tower, length = self._tower, ids.shape[1]
        if not self._any_length and hasattr(tower, "_embeds"):
            x, mask = tower._embeds(ids)  # with the mask of pads, where the tower has one
        else:
            dtype = tower.transformer.get_cast_dtype()
            x = tower.token_embedding(ids).to(dtype) + tower.positional_embedding[:length].to(dtype)
            mask = tower.attn_mask[:length, :length] if self.causal else None
        x = tower.ln_final(tower.transformer(x, attn_mask=mask))
        projection = tower.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection

    def _pooled_row(self, ids: Tensor) -> Tensor:
        if self._pool == "first":
            return ids.new_zeros(len(ids))
        if self._pool == "last":
            return ids.new_full((len(ids),), ids.shape[1] - 1)
        if self._pool == "eos":
            return (ids == self._end_id).int().argmax(-1)
        return ids.argmax(-1)  # CLIP: the end token has the largest id

    def _full_length(self, ids: Tensor) -> Tensor:
        ids = self._with_own_pads(F.pad(ids, (0, self.context_length - ids.shape[1])))
        return ids if self._last_id is None else torch.cat([ids[:, :-1], ids.new_full((len(ids), 1), self._last_id)], 1)

    def _with_own_pads(self, ids: Tensor) -> Tensor:
        return ids if self.pad_id == 0 else ids.masked_fill(pads(ids), self.pad_id)
