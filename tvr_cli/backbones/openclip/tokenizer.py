"""Captions to token ids: open_clip's BPE and Hugging Face tokenizers behind one face, zero-padded, with words kept.

Ids are always padded with zeros here; a tower that was trained with another pad id exchanges them (`clip_text.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_cli.errors import ConfigError


class Tokenizer:
    """Wraps what `open_clip.get_tokenizer` returns (a SimpleTokenizer, or an HFTokenizer around a fast one)."""

    def __init__(self, inner: Any):
        self._inner = inner
        self._fast = getattr(inner, "tokenizer", None)  # Hugging Face
        self.pad_id = 0 if self._fast is None else int(self._fast.pad_token_id or 0)

    @property
    def lead(self) -> int:
        """The number of special tokens before the first word."""
        if self._fast is None:
            return 1
        bare = self._fast("a", add_special_tokens=False).input_ids[0]
        return int(list(self._fast("a").input_ids).index(bare))

    @property
    def vocab_size(self) -> int:
        return len(self._fast) if self._fast is not None else int(self._inner.vocab_size)

    def encode(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Return ids [T, L] int64, zero-padded, cut to `length` with the end token kept, and n_tokens [T]."""
        rows = [self._ids(text, length) for text in texts]
        ids = torch.zeros(len(rows), length, dtype=torch.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
        return ids, torch.tensor([len(row) for row in rows], dtype=torch.int64)

    def count(self, texts: Sequence[str]) -> Tensor:
        """Return the number of tokens [T] of each caption without any cut."""
        return torch.tensor([len(self._ids(text, None)) for text in texts], dtype=torch.int64)

    def words(self, text: str) -> list[tuple[str, int]]:
        """Return each word of a caption with its number of tokens, in order; start and end tokens are not words.

        Raises ConfigError for a tokenizer that cannot say which tokens belong to a word.
        """
        if self._fast is None:
            return self._bpe_words(text)
        if not getattr(self._fast, "is_fast", False):
            raise ConfigError(
                "word importance needs a tokenizer that keeps track of words; this backbone's does not. "
                "Use --word-importance none, or a CLIP backbone"
            )
        clean = self._inner.clean_fn(text)
        encoding = self._fast(clean, add_special_tokens=False, return_offsets_mapping=True)
        spans: list[list[int]] = []
        last = None
        for word, (start, end) in zip(encoding.word_ids(), encoding["offset_mapping"], strict=True):
            if word == last:
                spans[-1][1] = end
                spans[-1][2] += 1
            else:
                spans.append([start, end, 1])
            last = word
        return [(clean[start:end].strip(), n) for start, end, n in spans]

    def merges(self, options: Mapping[str, Any]) -> Path | None:
        """Return the file of merges of CLIP's own byte pair encoding, None for any other tokenizer.

        options: those that it was made with.
        """
        from open_clip import tokenizer

        if type(self._inner) is not tokenizer.SimpleTokenizer or self._inner.reduction_fn is not None:
            return None
        return Path(options.get("bpe_path") or tokenizer.default_bpe())

    def _ids(self, text: str, length: int | None) -> list[int]:
        if self._fast is not None:
            cut = {} if length is None else {"truncation": True, "max_length": length}
            return list(self._fast(self._inner.clean_fn(text), **cut).input_ids)
        ids = [self._inner.sot_token_id, *self._inner.encode(text), self._inner.eot_token_id]
        return ids if length is None or len(ids) <= length else [*ids[: length - 1], ids[-1]]

    def _bpe_words(self, text: str) -> list[tuple[str, int]]:
        import regex

        inner, out = self._inner, []
        for word in regex.findall(inner.pat, inner.clean_fn(text)):
            as_bytes = "".join(inner.byte_encoder[b] for b in word.encode("utf-8"))
            out.append((word, len(inner.bpe(as_bytes).split(" "))))
        return out
