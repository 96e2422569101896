"""The bank of sentences that are about nothing in particular: what ships, what a user may put in its place."""

from __future__ import annotations

import indexes
import pytest
import torch

from tvr_cli import user_cache
from tvr_cli.engine.searching import bank
from tvr_cli.errors import DataError
from tvr_cli.plans import WordPlan
from tvr_cli.stores.index.store import Index
from tvr_cli.types import TextFeatures


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_some_500_plain_sentences_ship():
    found = bank.usual("clip-vit-b32")
    assert 500 <= len(found.sentences) == len(set(found.sentences)) and not found.own
    assert all(s.isascii() and s == " ".join(s.split()) for s in found.sentences)


def test_the_toy_world_is_compared_with_what_its_grammar_says():
    found = bank.usual("demo-tiny")
    assert len(found.sentences) == 496 and found.sentences != bank.usual("clip-vit-b32").sentences
    assert any("star" in s for s in found.sentences)


def test_a_file_of_sentences_takes_their_place(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("\ufeffein Hund  am Strand\n\n朝の運用\nein Hund am Strand\n", encoding="utf-8")
    assert bank.read(path) == bank.Bank(("ein Hund am Strand", "朝の運用"), "sentences of mine.txt", own=True)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "found none"),
        (b" \n\n", "found none"),
        (b"caf\xe9\n", "no UTF-8"),
        (b"\x00\x01\x02\n", "characters that no text has"),
    ],
)
def test_a_file_without_sentences_is_refused(data, said, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"expected sentences.*mine.txt.*{said}"):
        bank.read(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.txt.*cannot be read"):
        bank.read(tmp_path / "nowhere.txt")


def test_an_index_keeps_a_users_sentences(tmp_path):
    mine = bank.Bank(("a", "b c", "ü"), "sentences of mine.txt", own=True)
    about = {"bank": mine.about()}
    made = indexes.make(tmp_path / "index", 20, measured=about, null_sentences=mine.sentences)
    grown = made.append(indexes.blocks(indexes.method(), 3, first=20), identity={}, asked={})
    assert bank.of_index(grown) == mine and bank.of_index(Index.open(made.folder)) == mine
    grown.verify()
    assert bank.of_index(indexes.make(tmp_path / "other", 20)) is None


class Encoder:
    """Counts the sentences that it is given; the length of each is its feature."""

    def __init__(self):
        self.given = 0

    def __call__(self, sentences):
        self.given += len(sentences)
        pooled = torch.tensor([[float(len(s)), 1 / 3] for s in sentences])
        n = torch.full((len(sentences),), 3)
        return TextFeatures(
            torch.zeros(len(sentences), dtype=torch.int64), pooled, pooled[:, None].expand(-1, 4, -1), n
        )


def features(encode, sentences=("a", "bb"), weights="1", tokens=False):
    of = bank.Bank(tuple(sentences), "")
    return bank.features(of, encode, {"name": "x", "weights": weights}, WordPlan(4, "fixed"), "none", tokens=tokens)


def test_a_bank_is_encoded_once_an_encoder():
    encode = Encoder()
    first, again = features(encode), features(encode)
    assert encode.given == 2 and torch.equal(first.pooled, again.pooled) and torch.equal(first.key, again.key)
    assert first.pooled[:, 0].tolist() == [1, 2] and first.tokens is None
    assert features(encode, tokens=True).tokens.shape == (2, 4, 2)
    features(encode, weights="2")
    features(encode, sentences=("a", "cc"))
    assert encode.given == 8


def test_a_damaged_cache_is_no_cache():
    encode = Encoder()
    features(encode)
    (path,) = (user_cache.folder() / "bank").iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert features(encode).pooled[:, 0].tolist() == [1, 2] and encode.given == 4
