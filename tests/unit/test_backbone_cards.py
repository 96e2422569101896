"""What presets say about published weights: a checked form, one place for a licence, no number without a source."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvr_cli import config, preset_loader
from tvr_cli.backbones import registry
from tvr_cli.backbones.published import Card
from tvr_cli.engine.scorers import options_schema
from tvr_cli.errors import ConfigError

SCORE = "{dataset: MSR-VTT, r1: 30.0, measured_by: its authors, source: arXiv 1}"


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of presets with one method and no backbone."""
    for kind in ("methods", "backbones"):
        (tmp_path / kind).mkdir()
    (tmp_path / "methods" / "mean.yaml").write_text("method:\n  mean: {}\n")
    for module in (preset_loader, config):
        monkeypatch.setattr(module, "presets_root", lambda: tmp_path)
    return tmp_path


def write(presets: Path, card: str, name: str = "ViT-B-32/mine") -> None:
    (presets / "backbones" / "mine.yaml").write_text(f"backbone:\n  name: {name}\ncard:\n{card}")


@pytest.mark.parametrize("name", preset_loader.preset_names("backbones"))
def test_every_preset_names_its_page_and_languages_and_a_source_of_each_number(name: str) -> None:
    about = registry.resolve(name)
    assert about.card.source and about.card.languages and about.licence
    for score in about.card.published:
        assert 0 < score.r1 < 100 and score.measured_by and ("arXiv" in score.source or "https://" in score.source)


def test_a_card_is_read_with_the_types_of_its_form(presets: Path) -> None:
    write(presets, f"  languages: [en, mul]\n  download_bytes: 12\n  published: [{SCORE}]\n")
    card = config.preset_card("mine", Card)
    assert (card.languages, card.download_bytes) == (("en", "mul"), 12)
    assert (card.published[0].r1, card.published[0].gallery) == (30.0, None)


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("  license: MIT\n", r"backbones/mine\.yaml:4: card\.license: unknown key; did you mean licence\?"),
        ("  download_bytes: many\n", r"card\.download_bytes: expected a whole number or nothing, found 'many'"),
        ("  published: good\n", r"card\.published: expected a list of mappings, found 'good'"),
        ("  published: [{dataset: MSR-VTT, r1: 30}]\n", r"mine\.yaml:4: card\.published\[0\]: missing value of measur"),
        ("  published: [{r2: 3}]\n", r"mine\.yaml:4: card\.published\[0\]\.r2: unknown key; did you mean r1\?"),
        ("  published: [3]\n", r"card\.published\[0\]: expected a mapping of options, found 3"),
    ],
)
def test_a_wrong_card_says_where_and_what(presets: Path, card: str, said: str) -> None:
    write(presets, card)
    with pytest.raises(ConfigError, match=said):
        config.preset_card("mine", Card)


def test_a_licence_has_one_place(presets: Path) -> None:
    write(presets, "  licence: MIT\n", "PE-Core-B-16/meta")
    with pytest.raises(ConfigError, match="the licence of PE-Core-B-16/meta is known to be Apache"):
        registry.resolve("mine")


def test_a_preset_says_the_licence_that_its_class_does_not_know(presets: Path) -> None:
    write(presets, "  licence: CC-BY-NC-4.0\n  non_commercial: true\n", "foreign_backbone.Backbone")
    about = registry.resolve("mine")
    assert (about.name, about.licence, about.non_commercial) == ("mine", "CC-BY-NC-4.0", True)


def test_an_experiment_that_extends_a_backbone_has_nothing_of_its_card(presets: Path, tmp_path: Path) -> None:
    write(presets, "  languages: [en]\n")
    file = tmp_path / "experiment.yaml"
    file.write_text("extends: [methods/mean, backbones/mine]\n")
    resolved = config.resolve(config.file_layers(file), options_schema)
    assert resolved.experiment.backbone.name == "ViT-B-32/mine" and "card" not in resolved.tree()


def test_a_card_in_any_other_file_is_an_unknown_key(tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text("extends: methods/mean\ncard:\n  licence: MIT\n")
    with pytest.raises(ConfigError, match=r"experiment\.yaml:2: card: unknown key"):
        config.resolve(config.file_layers(file), options_schema)
