"""A name leads to a class: presets, schemes, dotted names, entry points, folders; and what is said when it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import foreign_backbone
import pytest

from tvr_cli import plugins
from tvr_cli.backbones import load, registry
from tvr_cli.backbones.openclip import OpenClipBackbone
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem
from tvr_cli.preset_loader import preset_names


def test_the_shipped_libraries_are_found_without_importing_them() -> None:
    code = (
        "import sys; from tvr_cli.backbones import registry; found = registry.packages(); assert found == {'hf': "
        "'transformers', 'openclip': 'open_clip_torch'}, found; bad = {'torch', 'open_clip', 'transformers'} & "
        "set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_names_are_the_presets() -> None:
    assert registry.names() == preset_names("backbones")


@pytest.mark.parametrize("name", ["foreign_backbone:Backbone", "foreign_backbone.Backbone", "tests.foreign_backbone"])
def test_a_dotted_name_leads_to_a_module_or_a_class(name: str) -> None:
    about = registry.resolve(name)
    assert about.name == name and about.kind.__name__ == "Backbone" and about.image_size == foreign_backbone.SIZE
    assert registry.load(name).name == name


def test_a_class_may_have_any_name() -> None:
    assert registry.class_of("foreign_backbone:Unsaved") is foreign_backbone.Unsaved


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.at_all", "there is no module 'nowhere'"),
        ("tests.foreign_backbon", "did you mean tests.foreign_backbone?"),
        (
            "tests.synthetic",
            "a class `Backbone` that derives from tvr_cli.backbones.base.Backbone, found the module tests",
        ),
        (
            "foreign_backbone:NotABackbone",
            "a class that derives from tvr_cli.backbones.base.Backbone, found the class NotA",
        ),
        ("foreign_backbone.SIZE", "a class that derives from tvr_cli.backbones.base.Backbone, found the int 16"),
        ("tvr_cli.backbones.base", "found the module tvr_cli.backbones.base without one of its own"),
        (
            "tvr_cli.backbones.openclip.backbone",
            "say which class is meant: tvr_cli.backbones.openclip.backbone.OpenClip",
        ),
        ("foreign_backbone:Nope", "the module 'foreign_backbone' has no 'Nope'"),
        ("foreign_backbone:Unsave", "has no 'Unsave'; did you mean foreign_backbone.Unsaved?"),
    ],
)
def test_a_dotted_name_of_something_else_is_a_sentence(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as e:
        registry.resolve(name)
    assert said in str(e.value) and e.value.exit_code == 2


def test_a_class_of_the_right_name_and_the_wrong_kind_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_another_kind").mkdir()
    (tmp_path / "of_another_kind" / "grid.py").write_text("class Backbone:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"derives from tvr_cli\.backbones\.base\.Backbone, found the class Backbone$"
    ):
        registry.resolve("of_another_kind.grid")


def test_a_class_is_named_with_a_dot_or_a_colon(tmp_path: Path) -> None:
    for named in ("mine.colours:Rough", "mine.colours.Rough"):
        registry.require_named("mine.colours:Rough@/a/folder", named, tmp_path)
    with pytest.raises(DataError):
        registry.require_named("mine.colours:Rough", "mine.colours.Smooth", tmp_path)


def test_a_file_without_local_is_told_from_a_dotted_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"is a file or folder; .* named by --backbone local:model\.pt"):
        registry.resolve("model.pt")


def _install(folder: Path, name: str, value: str) -> None:
    """Write what pip leaves of a package with one entry point."""
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[tvr.backbones]\n{name} = {value}\n")


def test_an_installed_package_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "mine", "foreign_backbone:Unsaved")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "mine" in registry.names()
    assert registry.resolve("mine").kind is foreign_backbone.Unsaved
    assert registry.resolve("mine:anything").name == "mine:anything"


def test_a_preset_wins_over_an_entry_point_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "clip-vit-b32", "foreign_backbone:Unsaved")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry.resolve("clip-vit-b32").kind is OpenClipBackbone


def test_a_saved_folder_is_named_with_its_class(tmp_path: Path) -> None:
    made = load("foreign_backbone:Backbone")
    name = registry.save(made, tmp_path / "saved")
    assert name == f"foreign_backbone:Backbone@{tmp_path / 'saved'}"
    again = load(name)
    assert isinstance(again, foreign_backbone.Backbone) and again.name == name
    (tmp_path / "saved" / "weights.safetensors").unlink()
    with pytest.raises(EnvironmentProblem, match="no weights"):
        load(name)


def test_a_folder_alone_names_no_class(tmp_path: Path) -> None:
    registry.save(load("foreign_backbone:Backbone"), tmp_path / "saved")
    with pytest.raises(DataError, match=r"expected 'open_clip_config\.json'"):
        registry.resolve(f"local:{tmp_path / 'saved'}")


@pytest.mark.parametrize(
    ("stored", "named", "variable"),
    [
        ("clip-vit-b32", None, None),
        ("ViT-B-32/openai", None, None),
        ("ViT-B-32@model.v2.pt", None, None),
        ("local:/some/where.d", None, None),
        ("mine.colours", "mine.colours", None),
        ("mine.colours", None, "mine.colours"),
        ("mine.colours:Rough@/a/folder", "mine.colours:Rough", None),
    ],
)
def test_names_that_import_nothing_or_that_a_person_said_may_come_from_a_file(
    stored: str, named: str | None, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv("TVR_BACKBONE", variable)
    registry.require_named(stored, named, Path("store.json"))


@pytest.mark.parametrize(
    ("stored", "named"),
    [
        ("mine.colours", None),
        ("mine:Colours", None),
        ("mine.colours@/a/folder", "mine.others"),
        ("unittest.__main__", "clip-vit-b32"),
    ],
)
def test_a_module_that_only_a_file_names_is_refused(stored: str, named: str | None) -> None:
    with pytest.raises(DataError, match=r"a module of another package, and a file alone .* --backbone"):
        registry.require_named(stored, named, Path("store.json"))


def test_a_folder_of_open_clip_carries_its_own_mark_only(tmp_path: Path) -> None:
    name = registry.save(load("demo-tiny", offline=True), tmp_path / "tuned")
    assert sorted(p.name for p in (tmp_path / "tuned").iterdir()) == [
        "bpe.txt.gz",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    assert isinstance(load(name), OpenClipBackbone)


def test_a_temporal_shift_that_a_backbone_lacks_is_refused() -> None:
    for attempt in (load, lambda name, **options: registry.skeleton(registry.resolve(name), **options)):
        with pytest.raises(ConfigError, match=r"cannot shift patches between frames; leave out --temporal-shift"):
            attempt("foreign_backbone:Backbone", temporal_shift=True)


def test_a_missing_package_is_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="'a_package_that_is_not_there', which is not installed"):
        registry.resolve("needy:Backbone")


def test_what_a_configuration_promises_is_what_the_towers_provide() -> None:
    names = ["ViT-B-32/openai", "RN50/openai", "coca_ViT-B-32/laion2b_s13b_b90k", "PE-Core-T-16-384/meta"]
    for name in [*preset_names("backbones"), *names]:
        about = registry.resolve(name)
        made: Any = registry.skeleton(about)
        assert (made.provides, made.context_length) == (about.provides, about.context_length), name


def test_kinds_of_plugins_name_their_groups() -> None:
    assert isinstance(registry.KIND, plugins.Kind) and registry.KIND.group == "tvr.backbones"
