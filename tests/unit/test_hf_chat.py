"""A language model as an encoder (Qwen3-VL-Embedding): what stands around captions and clips, and when frames stand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import hf_families
import hf_folders
import tiny_clip
from safetensors.torch import load_file, save_file
from torch import Tensor

from tvr_cli.backbones import registry
from tvr_cli.backbones.base import Backbone
from tvr_cli.engine.features.encode import encode_batch
from tvr_cli.engine.features.frame_batches import FrameBatch
from tvr_cli.errors import DataError

pytestmark = pytest.mark.xdist_group("hf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folders.make("qwen3_vl", tmp_path_factory.mktemp("chat") / "qwen")


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return registry.load(f"local:{folder}", offline=True)


def same(found: Tensor, wanted: Tensor) -> bool:
    return hf_families.error(found, wanted) <= 1e-5


def clip(backbone: Backbone, pixels: Tensor, times: list[float]) -> Tensor:
    real = torch.ones(pixels.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        pooled = backbone.encode_video(pixels, real, torch.tensor([times] * len(pixels))).pooled
    assert pooled is not None
    return pooled


def test_times_are_those_of_the_clip_wherever_it_stands_in_its_file(backbone: Backbone) -> None:
    pixels = tiny_clip.pixels(1, 4, 36).expand(3, -1, -1, -1, -1)
    starts, spaces = (None, 60.0, None), (0.5, 0.5, 7.5)
    records: list[Any] = [SimpleNamespace(key=i, start=start) for i, start in enumerate(starts)]
    ts = [torch.arange(4.0) * space + (start or 0.0) for start, space in zip(starts, spaces, strict=True)]
    batch = FrameBatch(records, pixels, torch.ones(3, 4, dtype=torch.bool), torch.stack(ts).double())
    pooled = encode_batch(backbone, batch, "fixed").pooled
    assert pooled is not None and same(pooled[1], pooled[0])
    assert not same(pooled[2], pooled[0])
    assert same(pooled[2:], clip(backbone, pixels[:1], [0.0, 7.5, 15.0, 22.5]))


def test_a_last_frame_without_a_partner_stands_twice(backbone: Backbone) -> None:
    pixels = tiny_clip.pixels(2, 3, 36)
    twice = torch.cat([pixels, pixels[:, -1:]], 1)
    assert same(clip(backbone, pixels, [0.0, 1.0, 2.0]), clip(backbone, twice, [0.0, 1.0, 2.0, 2.0]))


@pytest.mark.parametrize("times", [None, torch.zeros(1, 3)])
def test_a_clip_without_times_is_refused(backbone: Backbone, times: Tensor | None) -> None:
    with pytest.raises(ValueError, match=r"expected times \[1, 4\], in seconds of the clip, got"):
        backbone.encode_video(tiny_clip.pixels(1, 4, 36), torch.ones(1, 4, dtype=torch.bool), times)


def test_a_token_with_the_id_zero_is_read_at_any_place(backbone: Backbone) -> None:
    texts = ["!a dog", "a dog!!", "a dog"]
    ids, n_tokens = backbone.tokenize(texts, 12)
    assert int(ids[0, 0]) == int(ids[1, 6]) == 0 and n_tokens.tolist() == [7, 8, 6]
    with torch.no_grad():
        pooled = backbone.encode_text(ids)[0]
        tight = [backbone.tokenize([text], n)[0] for text, n in zip(texts, n_tokens.tolist(), strict=True)]
        alone = [backbone.encode_text(ids)[0] for ids in tight]
    assert same(torch.cat(alone), pooled) and not same(pooled[1], pooled[2])


def test_a_caption_that_is_cut_keeps_the_end_of_its_turn(backbone: Backbone) -> None:
    ids, n_tokens = backbone.tokenize(["a dog on a wave"], 6)
    assert n_tokens.tolist() == [6] and backbone.count_tokens(["a dog on a wave"]).tolist() == [16]
    assert int(ids[0, 5]) == int(backbone.tokenize([""], 6)[0][0, 4])  # behind the word NULL


def test_the_instructions_are_part_of_the_identity(backbone: Backbone) -> None:
    assert backbone.identity()["instructions"] == {
        "caption": "Find a video that contains the following visual content.",
        "clip": "Represent the user's input.",
    }


def test_weights_under_the_names_of_the_authors_class_load_to_the_same(
    folder: Path, backbone: Backbone, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "theirs"))
    state = load_file(other / "model.safetensors")
    save_file({f"model.{name}": value for name, value in state.items()}, other / "model.safetensors")
    loaded = registry.load(f"local:{other}", offline=True).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in backbone.state_dict().items())


def test_what_the_tokenizer_itself_puts_at_an_end_is_read(folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "ends"))
    said = json.loads((other / "tokenizer.json").read_text())
    end = next(token["id"] for token in said["added_tokens"] if token["content"] == "<|endoftext|>")
    said["post_processor"] = {
        "type": "TemplateProcessing", "pair": [],
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [end], "tokens": ["<|endoftext|>"]}},
    }  # fmt: skip
    (other / "tokenizer.json").write_text(json.dumps(said))
    shutil.copy(folder / "tokenizer_config.json", other / "tokenizer_config.json")
    loaded = registry.load(f"local:{other}", offline=True)
    with torch.no_grad():
        first, second = (each.encode_text(each.tokenize(["a dog"], 12)[0])[0] for each in (backbone, loaded))
    assert not same(first, second)
    measured = hf_families.measure("qwen3_vl", other)
    assert measured.text <= 1e-5 and measured.clip is not None and measured.clip <= 1e-5


@pytest.mark.parametrize("mark", ["<|video_pad|>", "<|im_end|>"])
def test_a_tokenizer_without_the_marks_of_a_chat_is_refused(folder: Path, tmp_path: Path, mark: str) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "bare"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (other / name).write_text((other / name).read_text().replace(mark, mark.replace("|>", "2|>")))
    with pytest.raises(DataError, match=r"of the mark .* put the files of the model's own beside the weights"):
        registry.load(f"local:{other}", offline=True)
