"""Tokenizers and text models of Hugging Face's behind open_clip: without a hub, of the right size, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import families
import tiny_clip
import torch
from families import FAMILIES, Family

from tvr_cli.backbones import load, registry
from tvr_cli.backbones.openclip.text import TextSide
from tvr_cli.backbones.openclip.tokenizer import of_open_clip
from tvr_cli.errors import DataError, EnvironmentProblem

TINY = {"xlm-roberta": {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked for on a hub, nor in its cache on this machine."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/nowhere")


def small(path: Path, tokenizer: str = "bert", *, vocabulary: int | None = None, **text: Any) -> Path:
    """Write a tiny CLIP with a tokenizer of Hugging Face's beside it. vocabulary: the tower's; None = as large."""
    made = families.STAND_INS[tokenizer]()
    cfg = tiny_clip.config(vocab_size=vocabulary or len(made), hf_tokenizer_name="somebody/words", **text)
    tiny_clip.folder(path, cfg)
    (path / "bpe.txt.gz").unlink()
    made.save_pretrained(str(path))
    return path


def hugging_face(path: Path, **options: Any) -> Any:
    from open_clip.tokenizer import HFTokenizer

    return HFTokenizer(str(path), context_length=16, **options)


# ------------------------------------------------------------ F3: separators and class tokens


@pytest.mark.parametrize("length", [6, 16])
def test_a_separator_that_the_wrapper_strips_is_stripped(tmp_path: Path, length: int) -> None:
    inner = hugging_face(small(tmp_path), strip_sep_token=True)
    texts = ["a dog", "", "a dog [SEP] on a small wave"]
    ids, n_tokens = of_open_clip(inner).encode(texts, length)
    torch.testing.assert_close(ids, inner(texts, context_length=length))
    assert n_tokens.tolist() == [3, 1, min(length - 1, 8)] and of_open_clip(inner).count(texts).tolist() == [3, 1, 8]


def test_a_class_token_in_the_last_slot_is_seen_there(tmp_path: Path) -> None:
    path = small(tmp_path, no_causal_mask=True, pool_type="last", tokenizer_mode="clips")
    settings = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": "[MASK]", "eos_token": "[SEP]"}))
    backbone: Any = load(f"local:{path}", offline=True)
    inner = hugging_face(path, tokenizer_mode="clips")
    texts = ["a dog", "", "a dog on a small wave " * 4]
    with torch.no_grad():
        for length in (8, 16):
            pooled, _ = backbone.encode_text(backbone.tokenize(texts[:2], length)[0])
            torch.testing.assert_close(pooled, backbone.model.encode_text(inner(texts[:2])), rtol=0, atol=1e-5)
        pooled, _ = backbone.encode_text(backbone.tokenize(texts, 16)[0])
        torch.testing.assert_close(pooled, backbone.model.encode_text(inner(texts)), rtol=0, atol=1e-5)
    assert backbone.identity()["text"] == {"mode": "clips"}


# ------------------------------------------------------------------------------------------------- F5: vocabularies


def test_a_tokenizer_may_leave_rows_of_a_table_unused(tmp_path: Path) -> None:
    words = len(families.STAND_INS["bert"]())
    load(f"local:{small(tmp_path, vocabulary=words + 2)}", offline=True)


@pytest.mark.parametrize(
    ("rows", "said"),
    [(-1, "its tokenizer gives ids up to"), (2000, "so it is another model's; put the files of its own")],
)
def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, rows: int, said: str) -> None:
    words = len(families.STAND_INS["bert"]())
    with pytest.raises(DataError, match=f"has a vocabulary of {words + rows} tokens, .*{said}"):
        load(f"local:{small(tmp_path, vocabulary=words + rows)}", offline=True)


def test_a_tokenizer_that_never_ends_a_caption_where_the_tower_reads_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="never gives the token 7, at which a caption is read"):
        load(f"local:{small(tmp_path, pool_type='eos', eos_id=7)}", offline=True)


# --------------------------------------------------------------------------------- F6, F7: contexts of text models


@pytest.mark.parametrize("name", ["xlm-roberta", "mT5"])
def test_a_text_model_has_the_context_of_its_configuration_and_no_pads(tmp_path: Path, name: str) -> None:
    family = next(f for f in FAMILIES if f.name == name)
    families.write(family, tmp_path)
    backbone: Any = load(f"local:{tmp_path}", offline=True)
    assert backbone.context_length == backbone.about.context_length == 77
    given: list[int] = []
    backbone.model.text.register_forward_pre_hook(lambda module, args: given.append(args[0].shape[1]))
    ids, n_tokens = backbone.tokenize(["a dog", "a dog on a small wave"], 32)
    backbone.encode_text(ids)
    assert given == [int(n_tokens.max())]


def test_a_text_model_of_few_positions_says_so() -> None:
    class Tower(torch.nn.Module):
        pooler, context_length = None, 20

    class Model(torch.nn.Module):
        context_length = 20

        def __init__(self) -> None:
            super().__init__()
            self.text = Tower()

    assert TextSide(Model(), context=77).context_length == 20


# ---------------------------------------------------------------------------------- F11, F14: no hub for what lies here


def test_a_text_models_configuration_is_read_beside_its_weights(tmp_path: Path) -> None:
    family = next(f for f in FAMILIES if f.name == "xlm-roberta")
    families.write(family, tmp_path / "w")
    name = f"local:{tmp_path / 'w'}"
    about = registry.resolve(name)
    assert about.detail.model["text_cfg"]["hf_model_name"] == "xlm-roberta-base"  # a place is no part of what it is
    assert registry.skeleton(about).cost(9)[1] > 0
    backbone = load(name, offline=True)
    saved = registry.save(backbone, tmp_path / "saved")
    shutil.rmtree(tmp_path / "w")
    again = load(saved, offline=True)
    ids = backbone.tokenize(["a dog"], 9)[0]
    torch.testing.assert_close(again.encode_text(ids)[0], backbone.encode_text(ids)[0])


def test_a_configuration_that_is_nowhere_is_a_sentence(tmp_path: Path) -> None:
    family = next(f for f in FAMILIES if f.name == "xlm-roberta")
    families.write(family, tmp_path)
    (tmp_path / "config.json").unlink()
    for ask in (lambda n: load(n, offline=True), lambda n: registry.skeleton(registry.resolve(n))):
        with pytest.raises(
            EnvironmentProblem, match=r"text model 'xlm-roberta-base' is not on this machine.*config.json"
        ):
            ask(f"local:{tmp_path}")


def test_a_file_of_weights_takes_the_tokenizer_beside_it(tmp_path: Path) -> None:
    families.STAND_INS["xlm"]().save_pretrained(str(tmp_path))
    (tmp_path / "w.pt").write_bytes(b"not read")
    about = registry.resolve(f"ViT-B-16-SigLIP@{tmp_path / 'w.pt'}")
    assert about.detail.tokenizer(offline=True).vocab_size == families.VOCABULARY
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    about = registry.resolve(f"ViT-B-16-SigLIP@{tmp_path / 'w.pt'}")
    with pytest.raises(EnvironmentProblem, match=r"'timm/ViT-B-16-SigLIP' .* \(--offline\).*tokenizer.json.*beside"):
        about.detail.tokenizer(offline=True)


def test_a_tokenizer_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    path = small(tmp_path)
    (path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(DataError, match=r"the tokenizer in .* cannot be read"):
        load(f"local:{path}", offline=True)
    for file in path.glob("*token*"):
        file.unlink()
    with pytest.raises(EnvironmentProblem, match=r"the tokenizer 'somebody/words' of .* is not on this machine in"):
        load(f"local:{path}", offline=True)


# ------------------------------------------------------------------------------------------------------ identities


def test_an_identity_says_what_is_done_to_captions(tmp_path: Path) -> None:
    def text(**settings: Any) -> Any:
        shutil.rmtree(tmp_path / "w", ignore_errors=True)
        return load(f"local:{small(tmp_path / 'w', **settings)}", offline=True).identity().get("text")

    assert text(no_causal_mask=True, pool_type="first") is None
    assert text(pool_type="first") == {"pads": "the tokenizer's"}
    stripped = {"clean": "canonicalize", "strip_sep_token": True}
    assert text(no_causal_mask=True, pool_type="first", tokenizer_kwargs=stripped) == {
        "clean": "canonicalize", "separator": "stripped"
    }  # fmt: skip


def test_a_text_models_identity_is_that_of_0_1_0(tmp_path: Path) -> None:
    family: Family = next(f for f in FAMILIES if f.name == "xlm-roberta")
    families.write(family, tmp_path)
    about = registry.resolve(f"local:{tmp_path}")
    assert set(about.kind.identify(about, temporal_shift=False)) == {
        "name",
        "weights",
        "preprocessing",
        "temporal_shift",
    }
