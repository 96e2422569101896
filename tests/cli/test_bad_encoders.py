"""Encoders that cannot be used, from the command line: one sentence, exit code 2, 3 or 4, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import hf_folders
import tiny_clip
import tiny_frames
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.plans import FramePlan

pytestmark = pytest.mark.xdist_group("hf")
WHOLE = FramePlan(num_frames=12, size=64, fit="whole", short_side=64)


class Boom:
    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return (Path.touch, (Path("boom"),))


def without_configuration(folder: Path, made: Path) -> None:
    (folder / "config.json").unlink()


def with_both_configurations(folder: Path, made: Path) -> None:
    tiny_clip.folder(folder)


def with_other_weights(folder: Path, made: Path) -> None:
    shutil.copy(made / "siglip" / "model.safetensors", folder)


def with_code_for_weights(folder: Path, made: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"text_projection.weight": Boom()}, folder / "pytorch_model.bin")


def without_tokenizer(folder: Path, made: Path) -> None:
    (folder / "tokenizer.json").unlink()


def with_a_tokenizer_of_words(folder: Path, words: int) -> None:
    """Another language's words, as BERT counts them."""
    import transformers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *(chr(0x4E00 + i) for i in range(words - len(special)))]
    transformers.BertTokenizer(vocab={w: i for i, w in enumerate(vocabulary)}).save_pretrained(str(folder))


def with_a_large_tokenizer(folder: Path, made: Path) -> None:
    with_a_tokenizer_of_words(folder, 700)


def with_a_tokenizer_of_another_language(folder: Path, made: Path) -> None:
    with_a_tokenizer_of_words(folder, 300)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("encoders")
    for kind in ("clip", "siglip", "videoprism", "qwen3_vl"):
        hf_folders.make(kind, root / kind)
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    tiny_frames.simple(tmp_path / "out", {"a": 12, "b": 12}, plan=WHOLE)
    return tmp_path / "out"


def tvr(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(done: Any, out: Path, code: int) -> str:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.exit_code == code and not done.stdout and len(errors) == 1, done.output
    assert not (out / "features").exists()
    return errors[0]


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (without_configuration, 3, "expected 'open_clip_config.json' in"),
        (with_both_configurations, 3, "holds 'config.json' and 'open_clip_config.json'"),
        (with_other_weights, 3, "do not fit a CLIPModel"),
        (with_code_for_weights, 3, "reading it would run"),
        (without_tokenizer, 4, "put its files (tokenizer.json, tokenizer_config.json) beside the weights"),
        (with_a_large_tokenizer, 3, "its tokenizer gives ids up to 699"),
        (with_a_tokenizer_of_another_language, 3, "its tokenizer knows 300 of them, so it is another model's"),
    ],
)
def test_a_folder_that_is_no_encoder(
    spoil: Callable[[Path, Path], None],
    code: int,
    said: str,
    made: Path,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(made / "clip", tmp_path / "encoder"))
    spoil(folder, made)
    done = tvr("precompute-features", "-o", out, "--backbone", f"local:{folder}", "--offline")
    assert said in refused(done, out, code)
    assert not (tmp_path / "boom").exists()


def test_frames_of_another_number_than_the_encoder_takes(made: Path, out: Path) -> None:
    done = tvr("precompute-features", "-o", out, "--backbone", f"local:{made / 'videoprism'}", "--offline")
    assert "have up to 12 frames, but the backbone" in (said := refused(done, out, 3)) and "takes 4 a clip" in said


def test_a_revision_that_is_not_here(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    name = "hf:Qwen/Qwen3-VL-Embedding-2B@main"
    small = refused(tvr("precompute-features", "-o", out, "--backbone", name, "--offline"), out, 3)
    assert "384" in small and f"--for {name}" in small  # before any question of weights
    assert not (tmp_path / "hub").exists()


def test_a_language_model_is_searched_by_its_one_vector(made: Path, out: Path) -> None:
    named = ("--backbone", f"local:{made / 'qwen3_vl'}", "--offline")
    assert tvr("precompute-features", "-o", out, *named).exit_code == 0
    found = json.loads(tvr("query", "a dog", "--index", out, *named, "--json").stdout)
    assert len(found["results"][0]["hits"]) == 2
    parts = {part["kind"]: part for part in json.loads(tvr("info", out, "--json").stdout)["parts"]}
    assert parts["index"]["method"] == "one_vector" and parts["features"]["provides"] == ["pooled", "video.pooled"]
    said = tvr("query", "a dog", "--index", out, *named, "--method", "mean")
    assert said.exit_code == 3 and "one_vector" in said.stderr
