"""What a backbone's name may be, what each form loads, and what is said when it cannot be."""

from __future__ import annotations

import json
import logging
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import tiny_clip
import torch
from open_clip import pretrained
from safetensors.torch import save_file
from torch import nn

from tvr_cli.backbones import load, registry, toy
from tvr_cli.backbones.openclip import weights
from tvr_cli.backbones.openclip.source import Source, known_architecture
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem
from tvr_cli.files import sha256_file
from tvr_cli.preset_loader import preset_names

CLIP_VOCABULARY = 49408


def resolve(name: str) -> Source:
    """Return what open_clip needs of a backbone by any name."""
    source = registry.resolve(name).detail
    assert isinstance(source, Source)
    return source


def _openai_state() -> dict[str, Any]:
    cfg = {**tiny_clip.config(vocab_size=CLIP_VOCABULARY, context_length=20), "custom_text": False}
    return tiny_clip.model(cfg).state_dict()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record, and refuse, every attempt to look up or reach a host."""
    attempts: list[Any] = []

    def refuse(*where: Any, **_: Any) -> None:
        attempts.append(where)
        raise OSError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(weights, "_CLIP_CACHE", tmp_path / "clip")
    return tmp_path


def test_every_preset_names_published_weights_with_the_right_activation() -> None:
    shipped = set(preset_names("backbones"))
    assert {"clip-vit-b32", "clip-vit-b16", "clip-vit-l14", "siglip2-b16", "pe-core-b16", "mobileclip2-s0"} <= shipped
    for name in shipped - toy.folders().keys():
        if registry.resolve(name).kind.library != "open_clip":
            continue
        source = resolve(name)
        assert registry.resolve(name).name == name
        arch, tag = source.architecture.split("/")
        wanted = bool(pretrained.get_pretrained_cfg(arch, tag).get("quick_gelu"))
        assert bool(source.model.get("quick_gelu")) == wanted
        assert ("-quickgelu" in arch) == (tag == "openai")


def test_the_default_is_openais_clip() -> None:
    source = resolve("clip-vit-b32")
    assert (source.dim, source.image_size, source.context_length) == (512, 224, 77)
    assert source.architecture == "ViT-B-32-quickgelu/openai"


@pytest.mark.parametrize("name", ["ViT-B-32/openai", "ViT-B/32/openai"])
def test_openai_weights_under_gelu_are_corrected_aloud(name: str, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("tvr").propagate = True
    with caplog.at_level(logging.WARNING, "tvr"):
        source = resolve(name)
    assert source.name == source.architecture == "ViT-B-32-quickgelu/openai"
    assert source.model["quick_gelu"] is True
    assert "was trained with QuickGELU: taking ViT-B-32-quickgelu/openai instead" in caplog.text


def test_weights_that_are_listed_under_the_plain_name_alone_have_a_name_that_loads_again() -> None:
    corrected = resolve("ViT-H-14-worldwide/metaclip2_worldwide")
    assert corrected.name == "ViT-H-14-worldwide-quickgelu/metaclip2_worldwide"
    again = resolve(corrected.name)
    assert again.model == corrected.model and again.origin is not None and again.origin.hub == corrected.origin.hub  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("clip-vit-b23", "unknown backbone 'clip-vit-b23'; did you mean clip-vit-b32?"),
        ("ViT-B-23/openai", "unknown backbone 'ViT-B-23/openai'; did you mean ViT-B-32/openai?"),
        ("ViT-B-32/laion2b_s34b_b9k", "no weights 'laion2b_s34b_b9k' for ViT-B-32; did you mean laion2b_s34b_b79k?"),
        ("ViT-B-32", "needs a tag that says which weights: ViT-B-32/openai"),
        ("ViT-B-32-quickgelu/laion2b_e16", "not trained with QuickGELU; say ViT-B-32/laion2b_e16"),
        ("qqq", "unknown backbone 'qqq'; the presets are: chinese-clip-b16, clip-vit-b16"),
        ("ViT-B-99@x.pt", "unknown backbone 'ViT-B-99@x.pt'"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as e:
        resolve(name)
    assert said in str(e.value)


def test_a_folder_loads_with_its_tokenizer_and_identity(tmp_path: Path, no_network: list[Any]) -> None:
    folder = tiny_clip.folder(tmp_path / "mine")
    backbone = load(f"local:{folder}", offline=True)
    assert backbone.name == f"local:{folder}"
    ids, n_tokens = backbone.tokenize(["a dog surfing", "a cat"], 6)
    expected = tiny_clip.tokenizer(folder)(["a dog surfing", "a cat"], context_length=6)
    torch.testing.assert_close(ids, expected)
    assert n_tokens.tolist() == (expected != 0).sum(1).tolist()
    identity = backbone.identity()
    assert identity["weights"] == sha256_file(folder / "open_clip_model.safetensors")
    assert identity["name"] == "custom-ViT-8-32-d32-quickgelu"
    assert identity["preprocessing"] == {"size": 32, "mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    assert not no_network


def test_a_moved_folder_keeps_its_identity(tmp_path: Path) -> None:
    first, second = (load(f"local:{tiny_clip.folder(tmp_path / n)}").identity() for n in ("a", "b"))
    other = load(f"local:{tiny_clip.folder(tmp_path / 'c', seed=1)}").identity()
    assert first == second != other


@pytest.mark.parametrize("kind", ["safetensors", "torch", "state_dict", "module", "torchscript"])
def test_a_weights_file_is_enough_for_openais_names(tmp_path: Path, kind: str, no_network: list[Any]) -> None:
    state = _openai_state()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    elif kind == "torchscript":
        _archive(state, path)
    else:
        named = {f"module.{k}": v for k, v in state.items()} if kind == "module" else state
        torch.save({"state_dict": named, "epoch": 3} if kind == "state_dict" else named, path)
    backbone = load(f"local:{path}", offline=True)
    assert (backbone.image_size, backbone.context_length, backbone.dim) == (32, 20, 32)
    torch.testing.assert_close(backbone.state_dict()["model.text_projection"], state["text_projection"])
    assert backbone.tokenize(["a dog"], 8)[0].tolist() == [[49406, 320, 1929, 49407, 0, 0, 0, 0]]
    assert backbone.identity()["name"].endswith("-quickgelu")
    assert not no_network


def _archive(state: dict[str, Any], path: Path) -> None:
    """Write a TorchScript archive with the keys of OpenAI's releases."""
    root = nn.Module()
    for name, value in state.items():
        parent = root
        *parts, last = name.split(".")
        for part in parts:
            if part not in dict(parent.named_children()):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        parent.register_buffer(last, value)
    root.register_buffer("input_resolution", torch.tensor(32))
    torch.jit.script(root).save(str(path))


def test_a_built_in_architecture_is_recognised() -> None:
    assert known_architecture(dict(resolve("clip-vit-b16").model)) == "ViT-B-16-quickgelu"


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"not weights", "is not a readable weights file"), (b"", "is not a readable weights file")],
)
def test_a_file_that_is_no_weights_is_a_data_error(tmp_path: Path, content: bytes, said: str) -> None:
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=said):
            load(f"local:{tmp_path / name}")


def test_code_in_a_torch_file_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"text_projection": Evil()}, tmp_path / "w.pt")
    with pytest.raises(DataError, match="is not a readable weights file"):
        load(f"local:{tmp_path / 'w.pt'}")
    assert not (tmp_path / "owned").exists()


def test_weights_under_other_names_ask_for_the_architecture(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(2, 2)}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"not CLIP weights under OpenAI's names.*ARCH@FILE"):
        load(f"local:{tmp_path / 'w.pt'}")


def test_weights_that_do_not_fit_their_configuration_name_the_file(tmp_path: Path) -> None:
    folder = tiny_clip.folder(tmp_path)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 3
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"open_clip_model\.safetensors' do not fit the architecture custom-ViT"):
        load(f"local:{folder}")


def test_a_folder_without_weights_or_configuration_says_what_is_missing(tmp_path: Path) -> None:
    folder = tiny_clip.folder(tmp_path / "x")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(EnvironmentProblem, match=r"no weights in .*open_clip_model\.safetensors"):
        resolve(f"local:{folder}")
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(DataError, match="lacks embed_dim, text_cfg, vision_cfg"):
        resolve(f"local:{folder}")
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(DataError, match=r"expected 'open_clip_config\.json'"):
        resolve(f"local:{folder}")
    with pytest.raises(EnvironmentProblem, match="nothing there"):
        resolve(f"local:{tmp_path / 'y'}")


def test_a_foreign_vocabulary_is_noticed(tmp_path: Path) -> None:
    folder = tiny_clip.folder(tmp_path, tiny_clip.config(vocab_size=600))
    with pytest.raises(DataError, match=r"vocabulary of 600 tokens, but its tokenizer has 814"):
        load(f"local:{folder}")
    (folder / "bpe.txt.gz").unlink()
    with pytest.raises(ConfigError, match=r"has no tokenizer .* 600 tokens"):
        load(f"local:{folder}").tokenize(["a"], 5)


@pytest.mark.parametrize("name", ["clip-vit-b32", "siglip2-b16", "ViT-B-32/laion2b_s34b_b79k"])
def test_offline_never_opens_a_socket(name: str, no_network: list[Any], empty_caches: Path) -> None:
    before = os.environ.get("HF_HUB_OFFLINE")
    with pytest.raises(EnvironmentProblem) as e:
        load(name, offline=True)
    assert not no_network
    assert os.environ.get("HF_HUB_OFFLINE") == before
    for part in ("--offline", "open_clip_model.safetensors", str(empty_caches), "--backbone", "@FILE"):
        assert part in str(e.value)


def test_missing_weights_name_file_place_and_flag(no_network: list[Any], empty_caches: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"cannot be downloaded .*'ViT-B-32\.pt' in .*clip'") as e:
        load("clip-vit-b32")
    assert e.value.exit_code == 4
    assert no_network  # it was tried


def test_weights_in_either_cache_are_found(empty_caches: Path) -> None:
    source = resolve("clip-vit-b32")
    assert source.weights is None and source.origin is not None
    (empty_caches / "clip").mkdir()
    (empty_caches / "clip" / "ViT-B-32.pt").write_bytes(b"x")
    assert resolve("clip-vit-b32").weights == empty_caches / "clip" / "ViT-B-32.pt"
    repository, names = source.origin.hub or ("", [])
    snapshot = empty_caches / "hub" / f"models--{repository.replace('/', '--')}"
    (snapshot / "snapshots" / "abc").mkdir(parents=True)
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text("abc")
    (snapshot / "snapshots" / "abc" / names[0]).write_bytes(b"x")
    assert resolve("clip-vit-b32").weights == snapshot / "snapshots" / "abc" / names[0]


def test_weights_without_a_file_say_where_they_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"no weights file at .*nowhere\.pt"):
        load(f"ViT-B-32@{tmp_path / 'nowhere.pt'}")


def test_weights_in_the_current_folder_are_of_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pt").write_bytes(b"weights")
    about = registry.resolve("ViT-B-32@w.pt")
    assert about.commit is None and about.weights is not None
