"""Captions to token ids: open_clip's BPE and Hugging Face tokenizers behind one face, zero-padded, with words kept.

Ids are always padded with zeros here; a tower that was trained with another pad id exchanges them (`text.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_cli.errors import ConfigError

# A tower's table of tokens is rounded up by 5 % at most (CLIPA: BERT's 30 522 of 32 000).
_SMALLEST_SHARE = 0.9


class Tokenizer:
    """Wraps what `open_clip.get_tokenizer` returns (a SimpleTokenizer, or an HFTokenizer around a fast one)."""

    def __init__(self, inner: Any):
        self._inner = inner
        self._fast: Any = getattr(inner, "tokenizer", None)  # Hugging Face
        self.pad_id = 0 if self._fast is None else int(self._fast.pad_token_id or 0)
        self._strips_separator = bool(getattr(inner, "strip_sep_token", False))
        self._class_token_last = getattr(inner, "tokenizer_mode", None) == "clips"

    @property
    def lead(self) -> int:
        """The number of special tokens before the first word."""
        if self._fast is None:
            return 1
        bare = self._fast("a", add_special_tokens=False).input_ids[0]
        return int(list(self._fast("a").input_ids).index(bare))

    @property
    def last_id(self) -> int | None:
        """The id that stands in the very last slot of the context, whatever the caption's length; None = a pad."""
        return int(self._fast.cls_token_id) if self._class_token_last else None

    @property
    def vocab_size(self) -> int:
        return len(self._fast) if self._fast is not None else int(self._inner.vocab_size)

    def misfit(self, vocabulary: int, end_id: int | None) -> str:
        """Return in words why this cannot be the tokenizer of a tower of so many tokens; empty = it can.

        end_id: the token at which the tower reads a caption, None where another rule says where. CLIP's byte pairs make
        a vocabulary exactly; tables of Hugging Face tokenizers are smaller than the towers', which round them up.
        """
        if self._fast is None:
            if self.vocab_size == vocabulary:
                return ""
            return f"has {self.vocab_size}; put the matching list of BPE merges (*.txt.gz) beside the weights"
        largest = max(self.vocab_size - 1, *getattr(self._fast, "added_tokens_decoder", {}), 0)
        beside = "put the files of its own tokenizer (tokenizer.json, tokenizer_config.json) beside the weights"
        if largest >= vocabulary:
            return f"gives ids up to {largest}; {beside}"
        if self.vocab_size < _SMALLEST_SHARE * vocabulary:
            return f"knows {self.vocab_size} of them, so it is another model's; {beside}"
        if end_id is not None and end_id not in self._ids("a", None):
            return f"never gives the token {end_id}, at which a caption is read; {beside}"
        return ""

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
            return self._ids_of_hugging_face(self._inner.clean_fn(text), length)
        ids = [self._inner.sot_token_id, *self._inner.encode(text), self._inner.eot_token_id]
        return ids if length is None or len(ids) <= length else [*ids[: length - 1], ids[-1]]

    def _ids_of_hugging_face(self, text: str, length: int | None) -> list[int]:
        """Return what open_clip's wrapper makes of a clean text, without its pads."""
        if self._class_token_last:
            ids = self._fast(text, add_special_tokens=False).input_ids
            room = len(ids) if length is None else min(length, self._inner.context_length - 1) - 2
            return [self._fast.bos_token_id, *ids[: max(0, room)], self._fast.eos_token_id]
        cut = {} if length is None else {"truncation": True, "max_length": length}
        ids = list(self._fast(text, **cut).input_ids)
        if self._strips_separator:  # it becomes the id 0: a pad at the end, and nothing else in between
            ids = [0 if i == self._fast.sep_token_id else i for i in ids]
            while len(ids) > 1 and ids[-1] == 0:
                ids.pop()
        return ids

    def _bpe_words(self, text: str) -> list[tuple[str, int]]:
        import regex

        inner, out = self._inner, []
        for word in regex.findall(inner.pat, inner.clean_fn(text)):
            as_bytes = "".join(inner.byte_encoder[b] for b in word.encode("utf-8"))
            out.append((word, len(inner.bpe(as_bytes).split(" "))))
        return out
