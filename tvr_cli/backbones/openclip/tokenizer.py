"""Tokenizers as open_clip makes them: CLIP's own byte pairs, and its wrapper of Hugging Face's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvr_cli.backbones.tokenizer import HuggingFaceTokenizer, Tokenizer


def of_open_clip(inner: Any) -> Tokenizer:
    """Return the face of what `open_clip.get_tokenizer` returns: a SimpleTokenizer, or an HFTokenizer."""
    return WrappedTokenizer(inner) if hasattr(inner, "tokenizer") else BytePairTokenizer(inner)


class BytePairTokenizer(Tokenizer):
    """CLIP's byte pairs, which make a tower's vocabulary exactly."""

    def __init__(self, inner: Any):
        self._inner = inner

    @property
    def lead(self) -> int:
        return 1

    @property
    def vocab_size(self) -> int:
        return int(self._inner.vocab_size)

    def misfit(self, vocabulary: int, end_id: int | None) -> str:
        if self.vocab_size == vocabulary:
            return ""
        return f"has {self.vocab_size}; put the matching list of BPE merges (*.txt.gz) beside the weights"

    def words(self, text: str) -> list[tuple[str, int]]:
        import regex

        inner, out = self._inner, []
        for word in regex.findall(inner.pat, inner.clean_fn(text)):
            as_bytes = "".join(inner.byte_encoder[b] for b in word.encode("utf-8"))
            out.append((word, len(inner.bpe(as_bytes).split(" "))))
        return out

    def merges(self, options: Mapping[str, Any]) -> Path | None:
        """Return the file of its merges, None where it does more than those say.

        options: those that it was made with.
        """
        from open_clip import tokenizer

        if type(self._inner) is not tokenizer.SimpleTokenizer or self._inner.reduction_fn is not None:
            return None
        return Path(options.get("bpe_path") or tokenizer.default_bpe())

    def _ids(self, text: str, length: int | None) -> list[int]:
        ids = [self._inner.sot_token_id, *self._inner.encode(text), self._inner.eot_token_id]
        return ids if length is None or len(ids) <= length else [*ids[: length - 1], ids[-1]]


class WrappedTokenizer(HuggingFaceTokenizer):
    """open_clip's HFTokenizer: what it makes of a clean caption, without its pads."""

    def __init__(self, wrapper: Any):
        super().__init__(wrapper.tokenizer, wrapper.clean_fn)
        self._strips_separator = bool(getattr(wrapper, "strip_sep_token", False))
        self._class_token_last = getattr(wrapper, "tokenizer_mode", None) == "clips"
        self._context = getattr(wrapper, "context_length", None)
        self.last_id = int(self._inner.cls_token_id) if self._class_token_last else None

    def _ids(self, text: str, length: int | None) -> list[int]:
        if self._class_token_last:
            ids = self._inner(self._clean(text), add_special_tokens=False).input_ids
            room = len(ids) if length is None else min(length, (self._context or length) - 1) - 2
            return [self._inner.bos_token_id, *ids[: max(0, room)], self._inner.eos_token_id]
        ids = super()._ids(text, length)
        if self._strips_separator:  # it becomes the id 0: a pad at the end, and nothing else in between
            ids = [0 if i == self._inner.sep_token_id else i for i in ids]
            while len(ids) > 1 and ids[-1] == 0:
                ids.pop()
        return ids
