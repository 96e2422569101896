"""CLIP's byte pair encoding (Radford et al. 2021): lower-cased words to ids, by a list of merges.

The vocabulary is the 256 bytes as printable characters, the same with `</w>` (the end of a word), one token a merge,
and the start and end tokens. Equal to open_clip's `SimpleTokenizer` (a test holds it), without importing torch.
"""

from __future__ import annotations

import functools
import gzip
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_START, _END, _WORD_END = "<start_of_text>", "<end_of_text>", "</w>"
_PATTERN = rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"
_PLAIN_PATTERN = _PATTERN.replace(r"\p{L}", "a-z").replace(r"\p{N}", "0-9")  # of lower-case ASCII
_CLIP_MERGES = 49152 - 256 - 2  # what CLIP kept of its list; the files hold more
_SOME = 2**18  # letters of merges that are unpacked at a time


class BytePairs:
    """A tokenizer from a file of merges (gzipped text, one pair a line after a first line that is none)."""

    def __init__(self, merges: Path):
        # One table, of pairs, and no list of tokens: a query has a sentence or two. An empty line takes an id too.
        pairs = _pairs(merges)
        self._rank = dict(zip(pairs, itertools.count(), strict=False))
        self._letters = _printable_bytes()
        letters = self._letters.values()
        self._letter_ids = dict(zip([*letters, *(f"{x}{_WORD_END}" for x in letters)], itertools.count(), strict=False))
        self._start = len(self._letter_ids) + len(pairs)
        self._end = self._start + 1
        self.vocab_size = self._end + 1
        self._split = functools.lru_cache(maxsize=None)(self._split_word)

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids [T, L] int64, zero-padded, cut to `length` with the end token kept, and n_tokens [T]."""
        rows = []
        for text in texts:
            row = [self._start, *self.words(text), self._end]
            rows.append(row if len(row) <= length else [*row[: length - 1], row[-1]])
        ids = np.zeros((len(rows), length), np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        return ids, np.array([len(row) for row in rows], np.int64)

    def words(self, text: str) -> list[int]:
        """Return the ids of a sentence without start and end."""
        plain = text.isascii() and text.isprintable() and "&" not in text
        found: list[int] = []
        for word in _plain_words(text) if plain else _any_words(text):
            found += self._split("".join(self._letters[b] for b in word.encode("utf-8")))
        return found

    def _split_word(self, word: str) -> tuple[int, ...]:
        if word in (_START, _END):
            return (self._start if word == _START else self._end,)
        parts = [*word[:-1], word[-1] + _WORD_END]
        while len(parts) > 1:
            best = min(itertools.pairwise(parts), key=lambda pair: self._rank.get(" ".join(pair), len(self._rank)))
            if " ".join(best) not in self._rank:
                break
            merged: list[str] = []
            for part in parts:
                if merged and (merged[-1], part) == best:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        return tuple(self._id(part) for part in parts)

    def _id(self, token: str) -> int:
        """Return the id of a letter, or of the last of the pairs that make a token."""
        if (letter := self._letter_ids.get(token)) is not None:
            return letter
        made = (self._rank.get(f"{token[:i]} {token[i:]}", -1) for i in range(1, len(token)))
        return len(self._letter_ids) + max(made)


def _pairs(merges: Path) -> list[str]:
    """Return the pairs that CLIP kept of a file, `a b` each; what follows, four times as much, is not unpacked."""
    text = ""
    with gzip.open(merges, "rt", encoding="utf-8", newline="\n") as file:
        while text.count("\n") <= _CLIP_MERGES and (some := file.read(_SOME)):
            text += some
    pairs = text.split("\n", _CLIP_MERGES + 1)[1 : _CLIP_MERGES + 1]
    if any(odd in text for odd in ("  ", "\t", "\r", " \n", "\n ")):
        return [" ".join(pair.split()) for pair in pairs]
    return pairs


def _any_words(text: str) -> list[str]:
    import html

    import ftfy
    import regex

    clean = html.unescape(html.unescape(ftfy.fix_text(text)))
    return regex.findall(_PATTERN, " ".join(clean.split()).lower(), regex.IGNORECASE)


def _plain_words(text: str) -> list[str]:
    """Return what `_any_words` does of printable ASCII without `&`: ftfy leaves that as it is, and both it and `regex`,
    which knows other letters, take longer to import than such a sentence to encode.
    """
    return re.findall(_PLAIN_PATTERN, text.lower())


def _printable_bytes() -> dict[int, str]:
    """Return a printable character for every byte: its own where it has one, else one from 256 on."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in own]
    return {**{b: chr(b) for b in own}, **{b: chr(256 + i) for i, b in enumerate(others)}}
