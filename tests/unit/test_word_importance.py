"""Word importance: content words mark all their pieces, everything else real is 1, pads are 0."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_clip
import torch

from tvr_cli.backbones import load
from tvr_cli.backbones.base import Backbone
from tvr_cli.engine.features import word_importance
from tvr_cli.engine.features.word_importance import mark, rule_identity
from tvr_cli.errors import ConfigError, EnvironmentProblem, StoreMismatch


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load(f"local:{tiny_clip.folder(tmp_path_factory.mktemp('w') / 'tiny')}")


def _marks(backbone: Backbone, text: str, length: int = 16, rule: str = "stopwords") -> list[int]:
    _, n = backbone.tokenize([text], length)
    marks = mark(backbone, [text], n, length, rule)
    assert marks is not None and marks.dtype == torch.uint8 and marks.shape == (1, length)
    return marks[0].tolist()


def _pieces(backbone: Backbone, text: str) -> dict[str, int]:
    return dict(backbone.word_pieces(text))


def test_words_and_their_pieces_add_up_to_the_tokens(backbone: Backbone) -> None:
    for text in ("a dog surfing", "It's RAINING, isn't it?! 42 cafés…", "", "  "):
        pieces = sum(n for _, n in backbone.word_pieces(text))
        assert pieces + 2 == int(backbone.count_tokens([text])[0])


def test_a_content_word_marks_all_its_pieces(backbone: Backbone) -> None:
    pieces = _pieces(backbone, "a surfing dog")
    assert pieces["surfing"] > 1  # a cut vocabulary splits it
    content = pieces["surfing"] + pieces["dog"]
    expected = [1, 1, *[2] * content, 1]
    assert _marks(backbone, "a surfing dog") == expected + [0] * (16 - len(expected))


def test_function_words_punctuation_and_digits_are_words(backbone: Backbone) -> None:
    marks = _marks(backbone, "the on of , 7 !")
    n = int(backbone.count_tokens(["the on of , 7 !"])[0])
    assert marks == [1] * n + [0] * (16 - n)


def test_case_does_not_matter(backbone: Backbone) -> None:
    assert _marks(backbone, "A Dog ON The Sea") == _marks(backbone, "a dog on the sea")


def test_a_cut_caption_keeps_the_end_token_a_word(backbone: Backbone) -> None:
    marks = _marks(backbone, "surfing surfing surfing surfing", length=6)
    assert marks == [1, 2, 2, 2, 2, 1]


def test_none_gives_no_marks(backbone: Backbone) -> None:
    assert mark(backbone, ["a dog"], torch.tensor([4]), 8, "none") is None


def test_the_list_is_lower_case_words_without_content() -> None:
    stop = word_importance.STOP_WORDS
    assert all(w == w.lower() and w.strip() for w in stop)
    assert stop.isdisjoint({"dog", "left", "right", "red", "run", "running", "man", "woman", "two", "small", "first"})


@pytest.mark.parametrize("rule", ["none", "stopwords"])
def test_a_rule_without_a_model_is_its_own_identity(rule: str) -> None:
    assert rule_identity(rule) == rule


def test_an_unknown_rule_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown word importance 'stopword'; did you mean stopwords\?"):
        rule_identity("stopword")


@pytest.mark.skipif(importlib.util.find_spec("spacy") is not None, reason="spacy is installed")
def test_without_spacy_the_pip_line_is_given() -> None:
    with pytest.raises(EnvironmentProblem, match=r"pip install 'tvr-cli\[spacy\]'.*spacy download en_core_web_sm") as e:
        rule_identity("spacy")
    assert e.value.exit_code == 4


@pytest.fixture
def fake_spacy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tagger with spacy's face: words in -ing are verbs, `dog` is a noun, `is` a stop word that is a verb."""

    class Doc:
        def __init__(self, vocab: Any, words: list[str]):
            self.words = words

    class Pipeline:
        meta = {"lang": "en", "name": "core_web_sm", "version": "3.7.1"}
        vocab = None

        def __call__(self, doc: Doc) -> list[SimpleNamespace]:
            tags = {"dog": "NOUN", "is": "VERB", "red": "ADJ"}
            return [
                SimpleNamespace(pos_="VERB" if w.endswith("ing") else tags.get(w, "DET"), is_stop=w == "is")
                for w in doc.words
            ]

    spacy = SimpleNamespace(load=lambda *_, **__: Pipeline())
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    monkeypatch.setitem(sys.modules, "spacy.tokens", SimpleNamespace(Doc=Doc))
    monkeypatch.setattr(word_importance, "_LOADED", {})


def test_spacy_marks_nouns_adjectives_and_verbs_that_are_no_stop_words(
    backbone: Backbone, fake_spacy: None, tmp_path: Path
) -> None:
    rule = rule_identity("spacy")
    assert rule == "spacy:en_core_web_sm-3.7.1" == rule_identity(rule)
    text = "the red dog is surfing"
    pieces = _pieces(backbone, text)
    expected = [1]
    for word, value in (("the", 1), ("red", 2), ("dog", 2), ("is", 1), ("surfing", 2)):
        expected += [value] * pieces[word]
    assert _marks(backbone, text, 16, rule) == [*expected, 1] + [0] * (15 - len(expected))


def test_another_model_than_the_stores_is_refused(fake_spacy: None) -> None:
    with pytest.raises(StoreMismatch, match=r"en_core_web_sm-3\.5\.0, but en_core_web_sm-3\.7\.1 is installed"):
        rule_identity("spacy:en_core_web_sm-3.5.0")
