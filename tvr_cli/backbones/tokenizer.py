"""Captions to token ids, zero-padded, with words kept: one face, and what stands behind it in Hugging Face's libraries.

Ids are always padded with zeros here; a tower that was trained with another pad id exchanges them (`pads`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tvr_cli.backbones.base import Backbone, Description
from tvr_cli.errors import ConfigError

# A tokenizer of Hugging Face's is made of the first of these that is there, and of what says how it is used.
TOKENIZERS = ("tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")
BESIDE_TOKENIZERS = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# A tower's table of tokens is rounded up by 5 % at most (CLIPA: BERT's 30 522 of 32 000).
_SMALLEST_SHARE = 0.9


class Tokenizer:
    """What makes ids of captions. pad_id: of the tower. lead: the number of special tokens before the first word.

    last_id: the id that stands in the very last slot of the context, whatever the caption's length; None = a pad.
    """

    pad_id: int = 0
    last_id: int | None = None

    @property
    def lead(self) -> int:
        raise NotImplementedError

    @property
    def vocab_size(self) -> int:
        raise NotImplementedError

    def misfit(self, vocabulary: int, end_id: int | None) -> str:
        """Return in words why this cannot be the tokenizer of a tower of so many tokens; empty = it can.

        end_id: the token at which the tower reads a caption, None where another rule says where.
        """
        raise NotImplementedError

    def words(self, text: str) -> list[tuple[str, int]]:
        """Return each word of a caption with its number of tokens, in order; start and end tokens are not words.

        Raises ConfigError for a tokenizer that cannot say which tokens belong to a word.
        """
        raise NotImplementedError

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

    def _ids(self, text: str, length: int | None) -> list[int]:
        """Return the ids of one caption, no more than `length` (None = all of them)."""
        raise NotImplementedError


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of Hugging Face's libraries. clean: what is done to a caption before.

    Its table may be smaller than the tower's, which is rounded up.
    """

    def __init__(self, inner: Any, clean: Callable[[str], str]):
        self._inner, self._clean = inner, clean
        self.pad_id = int(inner.pad_token_id or 0)

    @property
    def lead(self) -> int:
        bare = self._inner("a", add_special_tokens=False).input_ids[0]
        return int(list(self._inner("a").input_ids).index(bare))

    @property
    def vocab_size(self) -> int:
        return len(self._inner)

    def misfit(self, vocabulary: int, end_id: int | None) -> str:
        largest = max(self.vocab_size - 1, *getattr(self._inner, "added_tokens_decoder", {}), 0)
        beside = "put the files of its own tokenizer (tokenizer.json, tokenizer_config.json) beside the weights"
        if largest >= vocabulary:
            return f"gives ids up to {largest}; {beside}"
        if self.vocab_size < _SMALLEST_SHARE * vocabulary:
            return f"knows {self.vocab_size} of them, so it is another model's; {beside}"
        if end_id is not None and end_id not in self._ids("a", None):
            return f"never gives the token {end_id}, at which a caption is read; {beside}"
        return ""

    def words(self, text: str) -> list[tuple[str, int]]:
        if not getattr(self._inner, "is_fast", False):
            raise ConfigError(
                "word importance needs a tokenizer that keeps track of words; this backbone's does not. "
                "Use --word-importance none, or a CLIP backbone"
            )
        clean = self._clean(text)
        encoding = self._inner(clean, add_special_tokens=False, return_offsets_mapping=True)
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

    def _ids(self, text: str, length: int | None) -> list[int]:
        cut = {} if length is None else {"truncation": True, "max_length": length}
        return list(self._inner(self._clean(text), **cut).input_ids)


class TokenizedBackbone(Backbone):
    """A backbone whose captions a `Tokenizer` reads; one built without (a skeleton, say) reads none."""

    def __init__(self, about: Description, tokenizer: Tokenizer | None):
        super().__init__(about)
        self._tokenizer = tokenizer

    def tokenize(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        return self._need_tokenizer().encode(texts, length)

    def count_tokens(self, texts: Sequence[str]) -> Tensor:
        return self._need_tokenizer().count(texts)

    def word_pieces(self, text: str) -> list[tuple[str, int]]:
        return self._need_tokenizer().words(text)

    @property
    def first_word_token(self) -> int:
        return self._need_tokenizer().lead

    def _need_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise ConfigError(self._no_tokenizer())
        return self._tokenizer

    def _no_tokenizer(self) -> str:
        """Say why it has none, and what to do."""
        return f"the backbone {self.name!r} was built without a tokenizer: it is a skeleton"


def pads(ids: Tensor) -> Tensor:
    """Return which of ids [T, L] are pads: the zeros at the end, but never the first slot (a start token may be 0)."""
    found = (ids != 0).flip(1).cumsum(1).flip(1) == 0
    found[:, 0] = False
    return found
