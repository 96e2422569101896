"""The text tower without torch equals open_clip's, its tokenizer open_clip's, and it is taken only where both hold."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from safetensors.torch import load_file, save_file

from tvr_cli import files, user_cache
from tvr_cli.backbones import load
from tvr_cli.backbones.text_tower import bpe
from tvr_cli.backbones.text_tower import card as text_card
from tvr_cli.backbones.text_tower.bpe import BytePairs
from tvr_cli.backbones.text_tower.mapped import MappedTensors
from tvr_cli.backbones.text_tower.tower import Configuration, TextTower, _gelu
from tvr_cli.errors import DataError

CLIP, OPEN_CLIP = BytePairs(Path(default_bpe())), SimpleTokenizer()
VARIANTS = {
    "CLIP with QuickGELU": tiny_clip.config(),
    "CLIP with GELU": {**tiny_clip.config(), "quick_gelu": False},
    "custom text, two heads": {**tiny_clip.config(heads=2, layers=3), "quick_gelu": False},
    "PE-Core's shape": {**tiny_clip.config(context=32, width=64, heads=4), "quick_gelu": False, "custom_text": True},
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_tower_equals_open_clips(name, dtype, tmp_path):
    folder = tiny_clip.folder(tmp_path / "w", VARIANTS[name])
    weights = folder / "open_clip_model.safetensors"
    save_file({k: v.to(dtype) for k, v in load_file(weights).items()}, weights)
    backbone = load(f"local:{folder}")
    ids = tiny_clip.ids(7, 14)

    pooled, tokens = TextTower(MappedTensors(weights), Configuration.of(VARIANTS[name])).encode(ids.numpy())

    with torch.no_grad():
        expected = backbone.encode_text(ids)
    for got, want in zip((pooled, tokens), expected, strict=True):
        assert got.dtype == np.float32
        assert np.abs(got - want.numpy()).max() <= 1e-5 * float(want.norm(dim=-1).max())


@pytest.mark.parametrize("name", VARIANTS)
def test_sentences_alone_are_encoded_without_their_pads(name, tmp_path):
    weights = tiny_clip.folder(tmp_path / "w", VARIANTS[name]) / "open_clip_model.safetensors"
    tower = TextTower(MappedTensors(weights), Configuration.of(VARIANTS[name]))
    ids = tiny_clip.ids(9, 14).numpy()
    ids[3] = np.where(np.arange(14) < 2, ids[3], 0)
    ids[3, 2] = ids.max()  # a short one, whose end token is early
    pooled, _ = tower.encode(ids)
    alone = tower.encode_pooled(ids)
    assert alone.dtype == np.float32
    assert np.abs(alone - pooled).max() <= 1e-5 * float(np.linalg.norm(pooled, axis=-1).max())
    one = tower.encode_pooled(ids[3:4])
    assert np.abs(one - pooled[3]).max() <= 1e-5 * float(np.linalg.norm(pooled[3]))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_becomes_the_ids_of_open_clips_tokenizer(text):
    assert CLIP.words(text) == OPEN_CLIP.encode(text)


@pytest.mark.parametrize(
    "text",
    ["", "don't I'VE it'll", "<start_of_text> a <END_OF_TEXT>", "C++ &amp; 3rd 12345", "aaaa " * 50, "朝の運用 🏄‍♂️"],
)
def test_chosen_texts_too_with_the_shipped_merges_and_those_of_the_demo(text, tmp_path):
    folder = tiny_clip.folder(tmp_path)
    small = SimpleTokenizer(bpe_path=str(folder / "bpe.txt.gz"))

    assert CLIP.words(text) == OPEN_CLIP.encode(text)
    assert BytePairs(folder / "bpe.txt.gz").words(text) == small.encode(text)
    assert BytePairs(folder / "bpe.txt.gz").vocab_size == small.vocab_size


@pytest.mark.parametrize(
    "lines",
    [
        ["b c</w>", "a b", "ab c</w>", "a bc</w>", "d e</w>", "d e</w>"],
        ["a  b", "ab\tc</w>", " d e</w>", "", "f g</w>\r", "a é"],
        [],
    ],
    ids=["a token that two pairs make", "other spaces", "no pair"],
)
def test_merges_that_are_not_as_clips_give_the_ids_of_open_clips_tokenizer(lines, tmp_path):
    path = tmp_path / "merges.txt.gz"
    path.write_bytes(gzip.compress("\n".join(["#version: 0.2", *lines]).encode()))
    other, text = SimpleTokenizer(bpe_path=str(path)), "abc de ab bc fg aé"

    assert BytePairs(path).words(text) == other.encode(text)
    assert BytePairs(path).encode([text], 40)[0][0].tolist()[:1] == [other.sot_token_id]
    assert BytePairs(path).encode([text], 40)[0].max() == other.eot_token_id


def test_of_a_longer_list_the_merges_are_read_that_clip_kept(tmp_path):
    path = tmp_path / "merges.txt.gz"
    names = [f"{a}{b}" for a in map(chr, range(0x4E00, 0x4EFB)) for b in map(chr, range(0x5000, 0x50C8))]
    lines = [*(" ".join(name) for name in names[:48893]), "a b</w>", "c d</w>", *(" ".join(n) for n in names[48893:])]
    path.write_bytes(gzip.compress("\n".join(["#version: 0.2", *lines]).encode()))
    other = SimpleTokenizer(bpe_path=str(path))

    assert BytePairs(path).words("ab cd") == other.encode("ab cd") == [512 + 48893, *other.encode("cd")]
    assert len(other.encode("cd")) == 2


def test_a_long_caption_is_cut_before_its_end_token():
    ids, n = CLIP.encode(["dog " * 100, "a dog"], 12)

    assert list(n) == [12, 4]
    assert ids[0, -1] == ids[1, 3] == CLIP.vocab_size - 1 and ids[1, 4:].sum() == 0


def test_gelu_is_as_exact_as_float32():
    x = np.linspace(-12, 12, 40_001, dtype=np.float32).reshape(-1, 1)

    exact, found = torch.nn.functional.gelu(torch.from_numpy(x).double()).numpy(), x.copy()
    _gelu(found)
    assert (np.abs(found - exact) <= 2e-7 * np.maximum(1, np.abs(x))).all()


@pytest.mark.parametrize(
    "change",
    [
        {"no_causal_mask": True},
        {"pool_type": "last"},
        {"embed_cls": True},
        {"hf_model_name": "xlm-roberta-base"},
        {"hf_tokenizer_name": "T5"},
        {"norm_kwargs": {"eps": 1e-6}},
        {"something_new": 1},
    ],
)
def test_a_tower_of_another_make_is_not_followed(change):
    assert Configuration.of(tiny_clip.config(**change)) is None


@pytest.mark.parametrize("damage", ["empty", "short", "header", "offsets", "type", "text"])
def test_a_damaged_weights_file_is_an_error_that_names_it(damage, tmp_path):
    weights = tiny_clip.folder(tmp_path) / "open_clip_model.safetensors"
    raw = weights.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    name = next(n for n in header if n != "__metadata__")
    if damage == "offsets":
        header[name]["data_offsets"] = [0, 10**12]
    if damage == "type":
        header[name]["dtype"] = 7
    again = json.dumps(header).encode()
    broken = {
        "empty": b"",
        "short": raw[: len(raw) // 2],
        "header": struct.pack("<Q", 2**60) + raw[8:],
        "text": struct.pack("<Q", 4) + b"[1]]" + raw,
    }
    weights.write_bytes(broken.get(damage, struct.pack("<Q", len(again)) + again + raw[8 + length :]))

    with pytest.raises(DataError, match="no readable safetensors file") as caught:
        MappedTensors(weights)
    assert str(weights) in str(caught.value)


def kept(folder: Path, monkeypatch) -> Path:
    """Leave a card of a folder's backbone, as if it had lain there for a while."""
    monkeypatch.setattr(user_cache, "is_quiet", lambda stamp: True)
    card = load(f"local:{folder}").text_card()
    assert card is not None
    text_card.remember("mine", card)
    return folder


def test_a_card_opens_what_encodes_as_the_backbone_does(tmp_path, monkeypatch):
    folder = kept(tiny_clip.folder(tmp_path / "w"), monkeypatch)
    card = text_card.recall("mine")
    assert card is not None

    tokenizer, tower = card.open()
    ids, _ = tokenizer.encode(["a dog surfs", "two"], 10)
    backbone = load(f"local:{folder}")
    own, _ = backbone.tokenize(["a dog surfs", "two"], 10)

    assert card.identity == backbone.identity()
    assert np.array_equal(ids, own.numpy())
    with torch.no_grad():
        assert np.abs(tower.encode(ids)[0] - backbone.encode_text(own)[0].numpy()).max() < 1e-5


@pytest.mark.parametrize("name", ["CLIP with QuickGELU", "custom text, two heads"])
def test_a_head_starts_from_the_same_tensors(name, tmp_path):
    folder = tiny_clip.folder(tmp_path / "w", VARIANTS[name])
    backbone = load(f"local:{folder}")
    tower = TextTower(MappedTensors(folder / "open_clip_model.safetensors"), Configuration.of(VARIANTS[name]))
    expected = backbone.text_tower()

    assert tower.parameters().keys() == expected.keys()
    assert all(np.array_equal(a, expected[n].detach().numpy()) for n, a in tower.parameters().items())
    assert float(tower.logit_scale) == float(backbone.logit_scale.detach())


@pytest.mark.parametrize("what", ["weights", "configuration", "merges", "another list of merges", "versions", "cache"])
def test_a_card_does_not_outlive_what_it_was_made_from(what, tmp_path, monkeypatch):
    folder = kept(tiny_clip.folder(tmp_path / "w"), monkeypatch)
    assert text_card.recall("mine") is not None
    if what == "weights":
        tiny_clip.folder(folder, seed=1)
    if what == "configuration":
        cfg = json.loads((folder / "open_clip_config.json").read_text())
        cfg["model_cfg"]["quick_gelu"] = False
        (folder / "open_clip_config.json").write_text(json.dumps(cfg))
    if what == "merges":
        (folder / "bpe.txt.gz").write_bytes((folder / "bpe.txt.gz").read_bytes() + b" ")
    if what == "another list of merges":
        (folder / "a.txt.gz").write_bytes(b"")
    if what == "versions":
        monkeypatch.setattr(text_card, "__version__", "0.0.0")
    if what == "cache":
        (place,) = (user_cache.folder() / "text-tower").iterdir()
        place.write_text('{"name": "mine", "versions": 3}')

    assert text_card.recall("mine") is None


def test_a_hash_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(user_cache, "is_quiet", lambda stamp: True)
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = user_cache.sha256_of(file)
    monkeypatch.setattr(files, "sha256_file", lambda path: pytest.fail("hashed again"))
    assert user_cache.sha256_of(file) == first
    monkeypatch.undo()
    file.write_bytes(b"two")

    assert user_cache.sha256_of(file) == files.sha256_file(file) != first


def test_a_file_of_a_moment_ago_is_hashed_again(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    user_cache.sha256_of(file)

    assert user_cache.recall("sha256", str(file)) is None


def test_a_cache_that_cannot_be_written_is_none(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    user_cache.keep("kind", "name", 1)

    assert user_cache.recall("kind", "name") is None


def test_the_tower_imports_no_torch():
    code = "import sys; import tvr_cli.backbones.text_tower.card; print(*{'torch', 'open_clip'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""


def test_plain_sentences_are_split_as_all_are():
    random = np.random.default_rng(0)
    letters = [c for c in map(chr, range(32, 127)) if c != "&"]
    parts = [*letters, "'s", "'T", "'re", "'ll", "I'm", "<start_of_text>", "<END_OF_TEXT>", "  ", "naive"]
    for _ in range(2000):
        text = "".join(random.choice(parts, random.integers(0, 40)))
        assert bpe._plain_words(text) == bpe._any_words(text)


@pytest.mark.parametrize("text", ["a caf\u00e9", "a &amp; b", "tab\tstop", "\x1b[31mred", "na\u00efve \u2019s"])
def test_other_sentences_are_cleaned_first(text, monkeypatch):
    monkeypatch.setattr(bpe, "_plain_words", lambda text: pytest.fail("taken for plain"))
    assert CLIP.words(text) == OPEN_CLIP.encode(text)
