"""Tokenizers: zero-padded ids whatever the library, and pads as the tower was trained to see them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_clip
import torch
from open_clip.tokenizer import SimpleTokenizer

from tvr_cli.backbones.openclip.text import TextSide
from tvr_cli.backbones.openclip.tokenizer import of_open_clip
from tvr_cli.backbones.tokenizer import HuggingFaceTokenizer
from tvr_cli.errors import ConfigError

TEXTS = ["A dog surfing!", "", "two cats & a very, very long line of people waiting for the ferry " * 3]


class _Fast:
    """A Hugging Face tokenizer of words: a letter a token, `eos` = 1 at the end, pads with 1 like SigLIP's."""

    is_fast = True
    pad_token_id = 1

    def __len__(self) -> int:
        return 200

    def __call__(
        self,
        text: str,
        add_special_tokens: bool = True,
        truncation: bool = False,
        max_length: int = 0,
        return_offsets_mapping: bool = False,
    ) -> Any:
        letters = [(i, c) for i, c in enumerate(text) if c != " "]
        ids = [ord(c) for _, c in letters] + ([1] if add_special_tokens else [])
        if truncation:
            ids = [*ids[: max_length - 1], 1] if len(ids) > max_length else ids
        words = [text[:i].count(" ") for i, _ in letters]

        class Encoding(SimpleNamespace):
            def word_ids(self) -> list[int]:
                return words

            def __getitem__(self, key: str) -> Any:
                return {"offset_mapping": [(i, i + 1) for i, _ in letters]}[key]

        return Encoding(input_ids=ids)


def _hugging_face(fast: Any = None) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(fast or _Fast(), lambda t: " ".join(t.split()))


@pytest.mark.parametrize("length", [4, 20, 77])
def test_clips_ids_are_open_clips(length: int) -> None:
    inner = SimpleTokenizer()
    ids, n_tokens = of_open_clip(inner).encode(TEXTS, length)
    torch.testing.assert_close(ids, inner(TEXTS, context_length=length))
    assert n_tokens.tolist() == [int(row.argmax()) + 1 for row in ids]  # the end token is the largest id


def test_counting_ignores_the_cut() -> None:
    tokenizer = of_open_clip(SimpleTokenizer())
    assert tokenizer.count(TEXTS).tolist()[:2] == [6, 2]
    assert int(tokenizer.count(TEXTS)[2]) > 40


def test_other_tokenizers_are_zero_padded_too() -> None:
    ids, n_tokens = _hugging_face().encode(["ab c", "d"], 3)
    assert ids.tolist() == [[97, 98, 1], [100, 1, 0]]
    assert n_tokens.tolist() == [3, 2]
    assert _hugging_face().count(["ab c"]).tolist() == [4]
    assert (_hugging_face().pad_id, _hugging_face().lead, _hugging_face().vocab_size) == (1, 0, 200)


def test_words_of_other_tokenizers_keep_their_pieces() -> None:
    assert _hugging_face().words("ab  c") == [("ab", 2), ("c", 1)]
    slow = _Fast()
    slow.is_fast = False
    with pytest.raises(ConfigError, match="keeps track of words"):
        _hugging_face(slow).words("ab c")


def test_a_tower_sees_the_pads_that_it_was_trained_with() -> None:
    model = tiny_clip.model(tiny_clip.config(no_causal_mask=True, pool_type="last"))
    ids = tiny_clip.ids(3, 16)
    ids[:, 9:] = 0
    padded_with_one = ids.masked_fill(ids == 0, 1)
    with torch.no_grad():
        pooled, _ = TextSide(model, pad_id=1).encode(ids[:, :9])
        torch.testing.assert_close(pooled, model.encode_text(padded_with_one), rtol=0, atol=1e-5)  # type: ignore[operator]
        assert not torch.allclose(pooled, model.encode_text(ids), atol=1e-3)  # type: ignore[operator]


def test_a_first_token_zero_is_no_pad() -> None:
    model = tiny_clip.model(tiny_clip.config(no_causal_mask=True, pool_type="first"))
    ids = torch.tensor([[0, 5, 6, 0]])
    expected = torch.nn.functional.pad(torch.tensor([[0, 5, 6, 1]]), (0, 12), value=1)
    with torch.no_grad():
        got, _ = TextSide(model, pad_id=1).encode(ids)
        torch.testing.assert_close(got, model.encode_text(expected), rtol=0, atol=1e-5)  # type: ignore[operator]


def test_a_folders_own_merges_are_used_wherever_the_command_runs(tmp_path: Path, monkeypatch: Any) -> None:
    from tvr_cli.backbones.openclip.source import resolve

    folder = tiny_clip.folder(tmp_path / "w")
    monkeypatch.chdir(tmp_path)
    tokenizer = resolve("local:w").tokenizer(offline=True)
    assert tokenizer is not None and tokenizer.vocab_size == 512 + tiny_clip.MERGES + 2
    torch.testing.assert_close(tokenizer.encode(["a dog"], 8)[0], tiny_clip.tokenizer(folder)(["a dog"], 8))
