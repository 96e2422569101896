"""Backbones of transformers: parity with each class's own calls, and what is refused before any work."""

from __future__ import annotations

import functools
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

pytest.importorskip("transformers")

import hf_families
import hf_folders
import tiny_clip
import tiny_frames
from hf_families import Measured
from safetensors.torch import load_file, save_file

from tvr_cli.backbones import registry
from tvr_cli.backbones.base import Backbone
from tvr_cli.backbones.hf import recipes
from tvr_cli.backbones.hf.preprocessing import Preprocessing
from tvr_cli.engine.features.precompute import precompute
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem
from tvr_cli.plans import FramePlan, PrecomputeOptions
from tvr_cli.testing import backbone as contract
from tvr_cli.workspace import Workspace

TOLERANCE = 1e-5
KINDS = sorted(hf_folders.KINDS)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
pytestmark = pytest.mark.xdist_group("hf")  # one process makes the folders


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hf")
    for kind in KINDS:
        hf_folders.make(kind, root / kind)
    return root


@pytest.fixture(scope="module")
def loaded(folders: Path) -> dict[str, Backbone]:
    return {kind: registry.load(f"hf:{folders / kind}", offline=True) for kind in KINDS}


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    import socket

    refused = AssertionError("a connection was opened")
    with mock.patch.object(socket.socket, "connect", side_effect=refused):
        yield


# --------------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_holds_the_contract(kind: str, folders: Path) -> None:
    assert [c for c in contract.check(f"local:{folders / kind}", offline=True) if not c.passed] == []


@functools.cache
def measured(kind: str, folder: Path) -> Measured:
    return hf_families.measure(kind, folder)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_class_itself(kind: str, folders: Path) -> None:
    found = measured(kind, folders / kind)
    assert found.text <= TOLERANCE and found.ids_equal
    for name, x in (("tokens", found.tokens), ("frames", found.frames), ("video.pooled", found.clip)):
        assert (x is None) == (name not in found.about.provides)
        assert x is None or x <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_seen_as_the_processor_makes_it(kind: str, folders: Path) -> None:
    assert measured(kind, folders / kind).decoded >= 0.9999


def test_the_table_in_the_docs_is_what_is_measured(folders: Path) -> None:
    hf_families.TABLE.require(hf_families.table({kind: measured(kind, folders / kind) for kind in hf_folders.KINDS}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_plan_gives_the_same_vector_of_a_short_caption(kind: str, loaded: dict[str, Backbone]) -> None:
    backbone = loaded[kind]
    with torch.no_grad():
        short = backbone.encode_text(backbone.tokenize(["a dog", "rain"], 7)[0])[0]
        full = backbone.encode_text(backbone.tokenize(["a dog", "rain"], 16)[0])[0]
    assert hf_families.error(short, full) <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_does_not_depend_on_its_batch(kind: str, loaded: dict[str, Backbone]) -> None:
    pixels = tiny_clip.pixels(3, 4, 36)
    with torch.no_grad():
        together = hf_families.seen(loaded[kind], pixels)
        alone = hf_families.seen(loaded[kind], pixels[:1])
    for name in ("frames", "pooled"):
        if (ours := getattr(together, name)) is not None:
            assert hf_families.error(getattr(alone, name), ours[:1]) <= TOLERANCE


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "qwen3_vl"])  # whose class has no scores
def test_a_class_never_scores_pairs(kind: str, folders: Path, loaded: dict[str, Backbone]) -> None:
    backbone = loaded[kind]
    model: Any = backbone.model  # type: ignore[attr-defined]
    with mock.patch.object(type(model), "forward", side_effect=AssertionError("logits_per_* were asked for")):
        backbone.encode_text(backbone.tokenize(["a dog"], 16)[0])
        backbone.encode_video(tiny_clip.pixels(1, 4, 36), torch.ones(1, 4, dtype=torch.bool))


def test_what_each_recipe_provides(loaded: dict[str, Backbone]) -> None:
    found = {kind: (sorted(b.provides), b.about.frames, b.about.fit, b.about.filter) for kind, b in loaded.items()}
    per_frame = ["frames", "pooled", "tokens"]
    assert found == {
        "chinese_clip": (per_frame, None, "squash", "bicubic"),
        "clip": (per_frame, None, "crop", "bicubic"),
        "metaclip_2": (per_frame, None, "crop", "bicubic"),
        "pe_video": (["pooled", "video.pooled"], None, "squash", "bilinear"),
        "qwen3_vl": (["pooled", "video.pooled"], None, "squash", "bicubic"),
        "siglip": (per_frame, None, "squash", "bicubic"),
        "siglip_2": (per_frame, None, "squash", "bicubic"),
        "videoprism": ([*per_frame, "video.pooled"], 4, "squash", "bicubic"),
        "xclip": ([*per_frame, "video.pooled"], 4, "crop", "bicubic"),
    }


def test_temporal_blocks_start_from_clips_text_tower(folders: Path, tmp_path: Path) -> None:
    backbone = registry.load(f"hf:{folders / 'clip'}", offline=True)
    model: Any = backbone.model  # type: ignore[attr-defined]
    tower = backbone.text_tower()
    attention = model.text_model.encoder.layers[1].self_attn
    assert torch.equal(tower["transformer.resblocks.1.attn.in_proj_weight"][32:64], attention.k_proj.weight)
    assert tower["text_projection"].shape == (32, 24)
    assert tower["positional_embedding"].shape == (16, 32)
    assert not registry.load(f"hf:{folders / 'videoprism'}", offline=True).text_tower()


def test_the_identity_is_of_content_and_says_how_text_is_written(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "videoprism", tmp_path / "moved")
    here = registry.resolve(f"hf:{folders / 'videoprism'}")
    there = registry.resolve(f"local:{tmp_path / 'moved'}")
    identity = here.kind.identify(here, temporal_shift=False)
    assert identity == there.kind.identify(there, temporal_shift=False)
    assert identity["text"]["canonical"] == "lower case, punctuation to spaces, a full stop"
    assert identity["name"] == "transformers/VideoPrismClipModel"
    assert str(tmp_path) not in json.dumps(identity)
    config = json.loads((tmp_path / "moved" / "config.json").read_text())
    config["text_config"]["attn_logit_softcapping"] = 30.0
    (tmp_path / "moved" / "config.json").write_text(json.dumps(config))
    changed = registry.resolve(f"local:{tmp_path / 'moved'}")
    assert changed.kind.identify(changed, temporal_shift=False) != identity


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.fixture
def folder(folders: Path, tmp_path: Path) -> Path:
    """A copy of the tiny CLIP, to be broken."""
    return Path(shutil.copytree(folders / "clip", tmp_path / "clip"))


def refused(name: str) -> tuple[type[Exception], str]:
    try:
        registry.load(name, offline=True)
    except (ConfigError, DataError, EnvironmentProblem) as e:
        assert "\n" not in str(e)
        return type(e), str(e)
    raise AssertionError(f"{name} was loaded")


@pytest.mark.parametrize("kind", ("videoprism", "xclip"))
def test_another_number_of_frames_is_refused_before_weights_are_loaded(kind: str, folders: Path) -> None:
    about = registry.resolve(f"hf:{folders / kind}")
    assert about.frames == 4
    skeleton = registry.skeleton(about)
    with pytest.raises(ValueError, match=r"expected frames \[V, 4, 3, 36, 36\], got \[1, 12, 3, 36, 36\]"):
        skeleton.encode_video(torch.zeros(1, 12, 3, 36, 36, dtype=torch.uint8), torch.ones(1, 12, dtype=torch.bool))


def test_a_folder_of_two_libraries_is_refused_and_both_ways_out_work(folder: Path, tmp_path: Path) -> None:
    tiny_clip.folder(folder)
    kind, said = refused(f"local:{folder}")
    assert kind is DataError
    assert "'config.json' and 'open_clip_config.json'" in said and f"--backbone hf:{folder}" in said
    assert registry.resolve(f"hf:{folder}").kind.library == "transformers"
    (folder / "config.json").unlink()
    assert registry.resolve(f"local:{folder}").kind.library == "open_clip"


def test_a_text_models_configuration_beside_open_clips_is_no_second_model(tmp_path: Path) -> None:
    folder = tiny_clip.folder(tmp_path / "tiny")
    (folder / "config.json").write_text(json.dumps({"model_type": "xlm-roberta"}))
    assert registry.resolve(f"local:{folder}").kind.library == "open_clip"


def test_the_name_of_a_folder_leads_there_from_anywhere(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)
    assert registry.resolve("local:clip").name == f"local:{folders.resolve()}/clip"
    assert registry.resolve("hf:./clip").name == f"hf:{folders.resolve()}/clip"


def test_a_folder_with_neither_configuration_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert refused(f"hf:{folder}") == (DataError, f"expected 'config.json' in {str(folder)!r}, found none")
    assert refused(f"local:{folder}")[0] is DataError


@pytest.mark.parametrize(
    ("model_type", "why"),
    [
        ("siglip2", "NaFlex sees a picture in its own shape"),
        ("pe_audio_video", "it wants sound"),
        ("bert", "recipes for"),
    ],
)
def test_a_family_that_cannot_be_served_is_refused_by_name(folder: Path, model_type: str, why: str) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    kind, said = refused(f"hf:{folder}")
    assert kind is DataError and model_type in said and why in said


def test_weights_of_another_architecture_are_refused(folder: Path, folders: Path) -> None:
    shutil.copy(folders / "siglip" / "model.safetensors", folder / "model.safetensors")
    kind, said = refused(f"hf:{folder}")
    assert kind is DataError and "do not fit a CLIPModel" in said and str(folder / "model.safetensors") in said


def test_weights_of_other_shapes_are_refused(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["text_projection.weight"] = torch.zeros(8, 32)
    save_file(state, folder / "model.safetensors")
    kind, said = refused(f"hf:{folder}")
    assert kind is DataError and "do not fit a CLIPModel" in said


def test_no_weights_and_no_tokenizer_are_missing(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "elsewhere")
    kind, said = refused(f"hf:{folder}")
    assert kind is EnvironmentProblem and "expected 'model.safetensors'" in said
    (folder / "elsewhere").rename(folder / "model.safetensors")
    (folder / "tokenizer.json").unlink()
    kind, said = refused(f"hf:{folder}")
    assert kind is EnvironmentProblem and "put its files (tokenizer.json" in said


class Boom:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("boom"),))


def test_a_pickle_with_code_is_never_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"text_projection.weight": Boom()}))
    kind, said = refused(f"hf:{folder}")
    assert kind is DataError and "not a readable weights file" in said
    assert not (folder / "boom").exists()


def test_weights_in_torchs_format_and_in_parts_load_to_the_same(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    one = registry.load(f"hf:{folder}", offline=True)
    (folder / "pytorch_model.bin").unlink()
    names = sorted(state)
    for i, half in enumerate((names[:20], names[20:])):
        save_file({name: state[name] for name in half}, folder / f"part-{i}.safetensors")
    where = {name: f"part-{int(i >= 20)}.safetensors" for i, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    two = registry.load(f"hf:{folder}", offline=True)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    (folder / "part-1.safetensors").unlink()
    kind, said = refused(f"hf:{folder}")
    assert kind is EnvironmentProblem and "part-1.safetensors" in said


def test_code_that_comes_with_a_model_is_never_run(folder: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        said = json.loads((folder / name).read_text())
        said["auto_map"] = {"AutoModel": "boom.Boom", "AutoConfig": "boom.Boom", "AutoTokenizer": ["boom.Boom", None]}
        (folder / name).write_text(json.dumps(said))
    (folder / "boom.py").write_text("raise SystemExit('code of a model was run')")
    registry.load(f"hf:{folder}", offline=True)


@pytest.mark.parametrize(("other", "why"), [("xclip", None), ("videoprism", "another model's"), ("siglip", "another")])
def test_a_tokenizer_of_another_model_is_refused(folder: Path, folders: Path, other: str, why: str | None) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folders / other / name, folder / name)
    if why is None:
        registry.load(f"hf:{folder}", offline=True)
    else:
        kind, said = refused(f"hf:{folder}")
        assert kind is DataError and "a vocabulary of 514 tokens" in said and why in said


def test_a_vocabulary_that_is_too_large_is_refused(folders: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders / "siglip", tmp_path / "siglip"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folders / "clip" / name, folder / name)
    kind, said = refused(f"hf:{folder}")
    assert kind is DataError and "gives ids up to 513" in said


def test_a_damaged_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    kind, said = refused(f"hf:{folder}")
    assert kind is DataError and "cannot be read" in said


def test_a_configuration_of_two_sizes_is_refused(folder: Path) -> None:
    said = json.loads((folder / "preprocessor_config.json").read_text())
    said["size"], said["crop_size"] = {"shortest_edge": 48}, {"height": 48, "width": 48}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    kind, message = refused(f"hf:{folder}")
    assert kind is DataError and "36 pixels" in message and "48" in message


@pytest.mark.parametrize("name", ("hf:", "hf:ORG", "hf:a/b/c", "hf:ORG/NAME@", "hf:ORG/NAME@a b"))
def test_a_name_that_is_none_is_refused(name: str) -> None:
    kind, said = refused(name)
    assert kind is ConfigError and "hf:ORG/NAME@REVISION" in said


# ------------------------------------------------------------------------------------------------------------ pictures


NINE = {"height": 9, "width": 9}
GOOD = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.mark.parametrize(
    ("said", "size", "fit", "name"),
    [
        ({"size": NINE}, 9, "squash", "bicubic"),
        ({"size": 9, "resample": 2}, 9, "squash", "bilinear"),
        ({"size": 9, "crop_size": 9, "do_center_crop": True}, 9, "crop", "bicubic"),
        ({"size": {"shortest_edge": 9}, "crop_size": NINE, "do_center_crop": True}, 9, "crop", "bicubic"),
        ({"size": NINE, "crop_size": NINE, "do_center_crop": True}, 9, "squash", "bicubic"),
    ],
)
def test_a_processors_configuration_becomes_a_view(said: dict[str, Any], size: int, fit: str, name: str) -> None:
    found = Preprocessing.read({**GOOD, **said}, "it")
    assert (found.size, found.fit, found.filter) == (size, fit, name)


@pytest.mark.parametrize(
    "said",
    [
        {"size": {"shortest_edge": 9}},
        {"size": {"height": 9, "width": 12}},
        {"size": {"shortest_edge": 9}, "crop_size": {"height": 8, "width": 8}, "do_center_crop": True},
        {"size": NINE, "resample": 0},
        {"size": NINE, "do_rescale": False},
        {"size": NINE, "rescale_factor": 1 / 127.5},
        {"size": NINE, "image_mean": None},
        {"size": {"longest_edge": 9}},
        {"size": NINE, "image_std": [0.5]},
    ],
)
def test_a_picture_that_tvr_cannot_make_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="it"):
        Preprocessing.read({**GOOD, **said}, "it")


# ---------------------------------------------------------------------------------------------------------------- cache


@pytest.fixture
def cache(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the hub with the tiny CLIP as ORG/NAME: a commit, known as main and as a request."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--ORG--NAME"
    shutil.copytree(folders / "clip", place / "snapshots" / COMMIT)
    for name in ("main", "refs/pr/1"):
        (place / "refs" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "refs" / name).write_text(COMMIT)
    return tmp_path


@pytest.mark.parametrize("revision", ("", "@main", "@refs/pr/1", f"@{COMMIT}"))
def test_a_revision_is_found_in_the_cache(revision: str, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    about = registry.resolve(f"hf:ORG/NAME{revision}")
    assert about.name == f"hf:ORG/NAME{revision}" and about.source == f"ORG/NAME@{COMMIT}"
    with caplog.at_level("INFO"):
        registry.load(f"hf:ORG/NAME{revision}", offline=True)
    said = f"is not pinned: taking the commit {COMMIT}; hf:ORG/NAME@{COMMIT} means" in caplog.text
    assert said == (revision != f"@{COMMIT}")


def test_what_is_not_in_the_cache_says_where_it_is_expected(cache: Path) -> None:
    kind, said = refused(f"hf:ORG/OTHER@{COMMIT}")
    assert kind is EnvironmentProblem
    assert str(cache / "models--ORG--OTHER" / "snapshots" / COMMIT) in said
    assert f"hf download ORG/OTHER --revision {COMMIT}" in said
    assert refused("hf:ORG/NAME@another")[0] is EnvironmentProblem


@pytest.mark.parametrize("name", ("videoprism-lvt-b", "videoprism-lvt-l", "chinese-clip-b16"))
def test_a_preset_is_described_before_its_weights_are_here(name: str, cache: Path) -> None:
    about = registry.resolve(name)
    assert about.weights is None and about.licence.startswith("Apache-2.0")
    assert about.fit == "squash" and about.source.partition("@")[2] == about.revision
    wanted = about.kind.remote_files(about)
    assert {(each.repository, each.revision) for each in wanted} == {tuple(about.source.split("@"))}
    assert [each.names[0] for each in wanted if not each.optional][:2] == ["config.json", "model.safetensors"]
    kind, said = refused(name)
    assert kind is EnvironmentProblem and "--offline forbids to download it" in said


@pytest.mark.parametrize(
    ("name", "dim", "frames", "millions"),
    [
        ("videoprism-lvt-b", 768, 16, 247.6),
        ("videoprism-lvt-l", 1024, 8, 579.9),
        ("chinese-clip-b16", 512, None, 188.3),
        ("hf:Qwen/Qwen3-VL-Embedding-2B", 2048, None, 2127.5),
    ],
)
def test_a_presets_skeleton_has_the_published_number_of_parameters(
    name: str, dim: int, frames: int | None, millions: float, cache: Path
) -> None:
    about = registry.resolve(name)
    assert (about.dim, about.frames) == (dim, frames)
    parameters = sum(p.numel() for p in registry.skeleton(about).parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.06)


def test_features_remember_the_commit_of_the_weights(cache: Path, tmp_path: Path) -> None:
    assert (registry.resolve("hf:ORG/NAME").revision, registry.resolve("hf:ORG/NAME").commit) == (None, COMMIT)
    assert registry.resolve(f"hf:ORG/NAME@{COMMIT}").revision == COMMIT
    workspace = Workspace(tmp_path / "w")
    tiny_frames.simple(workspace.root, {"a": 1}, plan=FramePlan(num_frames=4, size=64, fit="whole", short_side=64))
    precompute(workspace, "hf:ORG/NAME", None, PrecomputeOptions(offline=True))
    assert workspace.features_for(None).provenance["weights_commit"] == COMMIT


def test_every_recipe_names_a_class_and_features_that_there_are() -> None:
    import transformers

    from tvr_cli.backbones.base import PROVIDES

    for recipe in recipes.RECIPES.values():
        assert hasattr(transformers, recipe.architecture)
        assert recipe.provides <= PROVIDES
        assert [recipe.images, recipe.clips, recipe.chat].count(None) == 2
        assert (recipe.text is None) == (recipe.chat is not None)
