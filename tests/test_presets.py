"""Every shipped YAML loads, resolves against the schema and builds; wrong ones say where and what."""

import re

import pytest

from tvr_cli import config
from tvr_cli.engine.scorers import options_schema, resolve_method
from tvr_cli.errors import ConfigError
from tvr_cli.methods import base
from tvr_cli.preset_loader import preset_names, presets_root
from tvr_cli.types import Sizes


@pytest.mark.parametrize("name", preset_names("methods"))
def test_a_method_preset_builds_its_method(name):
    import torch

    experiment = resolve_method(name).experiment
    with torch.device("meta"):
        method = base.build(experiment.method, Sizes(dim=512, frames=12, words=32), experiment.options)
    assert method.fidelity and method.summary


def test_every_method_has_a_preset():
    assert set(base.shipped()) <= set(preset_names("methods"))


@pytest.mark.parametrize("kind", ["datasets", "backbones"])
def test_the_other_presets_resolve(kind):
    for name in preset_names(kind):
        layers = [*config.preset_layers("methods", "mean"), *config.preset_layers(kind, name)]
        assert config.resolve(layers, options_schema).experiment.method == "mean", name


@pytest.mark.parametrize("name", preset_names("recipes"))
def test_a_recipe_is_complete(name):
    import torch

    resolved = config.resolve(config.preset_layers("recipes", name), options_schema)
    experiment = resolved.experiment
    assert experiment.recipe is not None and experiment.data.name and experiment.backbone.name
    with torch.device("meta"):
        base.build(experiment.method, Sizes(dim=512, frames=12, words=32), experiment.options)
    own = {
        path
        for path, _, origin in resolved.leaves()
        if f"recipes/{name}.yaml" in origin and not path.startswith("recipe")
    }
    unsourced = sorted(own - set(experiment.recipe.sources))
    assert not unsourced, f"values without a source: {unsourced}"
    for path, source in experiment.recipe.sources.items():
        placed = re.search(r"\w:\d+", source) or source.endswith("; line not known")
        assert placed or not source.startswith("authors'"), (
            f"{path}: {source!r} says neither a line nor that it is unknown"
        )
    if experiment.recipe.published is not None:
        assert experiment.recipe.sources["recipe.published"], "a published number without a source"


def recipe(name):
    return config.resolve(config.preset_layers("recipes", name), options_schema).experiment


def test_the_numbers_of_gpus_are_those_of_the_authors_scripts():
    found = {name: recipe(name).recipe.gpus for name in preset_names("recipes")}
    assert {n: g for n, g in found.items() if n.startswith("eaglenet")} == dict.fromkeys(
        (n for n in found if n.startswith("eaglenet")), 2
    )
    assert found["gare-msrvtt-b32"] == 4 and found["dmae-msrvtt-b32"] is None
    for method in ("glccl", "tcmgc"):
        assert [found[f"{method}-{data}-b32"] for data in ("msrvtt", "didemo", "vatex")] == [4, 8, 4]
    assert {g for n, g in found.items() if n.startswith("glccl") and n.endswith("b16")} == {8}


def test_glccl_takes_the_weight_of_its_readme_and_says_what_contradicts_it():
    names = [n for n in preset_names("recipes") if n.startswith("glccl")]
    assert "glccl-msrvtt7k-b32" in names
    for name in names:
        found = recipe(name)
        assert found.options["csc_weight"] == 0.5
        assert any("commented-out jobs of main_xclip.py have 0.1" in note for note in found.recipe.notes)
        assert "README" in found.recipe.sources["method.glccl.csc_weight"]


def test_a_number_of_which_the_authors_do_not_name_the_backbone_says_so():
    for name in (n for n in preset_names("recipes") if n.startswith("eaglenet") and n.endswith("b16")):
        found = recipe(name).recipe
        assert "names no backbone" in found.sources["recipe.published"]
        assert any("is our reading" in note for note in found.notes)
    assert recipe("eaglenet-msrvtt-b32").recipe.published is None


def test_tcmgc_has_no_number_and_says_the_gain_that_its_authors_give():
    for data, gain in (("msrvtt", "+1.3"), ("didemo", "+1.0"), ("vatex", "+0.9")):
        found = recipe(f"tcmgc-{data}-b32").recipe
        assert found.published is None and f"gain over X-CLIP only ({gain}" in found.notes[0]


def test_no_yaml_is_forgotten():
    kinds = {p.parent.name for p in presets_root().rglob("*.yaml")}
    assert kinds <= {"methods", "datasets", "backbones", "recipes", "sweeps", "ranges"}


@pytest.mark.parametrize("name", preset_names("sweeps"))
def test_a_sweep_names_methods_and_encoders_that_are_there(name):
    sweep, rest = config.sweep_of(config.preset_layers("sweeps", name))
    assert set(sweep.methods) <= set(preset_names("methods")) and set(sweep.encoders) <= set(preset_names("backbones"))
    for method in sweep.methods:
        layers = [*config.preset_layers("methods", method), *rest, config.flag_layer({"train.seed": sweep.seeds[0]})]
        assert config.resolve(layers, options_schema).experiment.train.seed == sweep.seeds[0]


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "method:\n  mean: {}\ntrain:\n  epochz: 3\n",
            r"mine\.yaml:4: train\.epochz: unknown key; did you mean epochs\?",
        ),
        ("method:\n  mean:\n    temp: 3\n", r"mine\.yaml:3: method\.mean\.temp: unknown key"),
        (
            "method:\n  mean: {}\ntrain:\n  epochs: many\n",
            r"mine\.yaml:4: train\.epochs: expected a whole number, found 'many'",
        ),
        (
            "method:\n  mean: {}\ntrain:\n  optimizer: sgd\n",
            r"train\.optimizer: expected one of adamw, bertadam, hf-adamw, found 'sgd'",
        ),
        ("methodd:\n  mean: {}\n", "no method is named"),
        ("method:\n  mean: {}\nframe: {}\n", r"mine\.yaml:3: frame: unknown key; did you mean frames\?"),
        ("method: mean\n", r"method: expected a mapping"),
        ("method:\n  mean: {}\n  glccl: {}\n", "a run has one method"),
        ("- 1\n", "expected a mapping at the top"),
        ("method: {mean: {}}\ntrain: {seed: 1, seed: 2}\n", "the key stands twice"),
        ("method: [\n", "not valid YAML"),
        ("extends: methods/meen\n", "unknown method 'meen'; did you mean mean"),
    ],
)
def test_a_wrong_file_says_where_and_what(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        config.resolve(config.file_layers(write(tmp_path, text)), options_schema)


def test_later_layers_win_and_every_leaf_knows_its_origin(tmp_path):
    path = write(tmp_path, "extends: methods/mean\ntrain:\n  epochs: 3\n  lr: 1e-3\n")
    layers = [
        *config.file_layers(path),
        config.set_layer(["train.epochs=7"]),
        config.flag_layer({"train.seed": 4, "train.lr": None}),
    ]
    resolved = config.resolve(layers, options_schema)
    train = resolved.experiment.train
    assert (train.epochs, train.seed, train.lr) == (7, 4, 1e-3)
    assert resolved.origins["train.epochs"] == "--set" and resolved.origins["train.seed"] == "flag"
    assert resolved.origins["train.lr"].endswith("mine.yaml:4")
    assert dict((p, o) for p, _, o in resolved.leaves())["train.batch_size"] == "default"


def test_a_stored_tree_resolves_to_the_same_experiment():
    resolved = resolve_method("mean", ["train.lr=0.5", "backbone.name=demo-tiny"])
    assert config.from_tree(resolved.tree(), options_schema, "config.json").experiment == resolved.experiment


@pytest.mark.parametrize("text", ["train.epochs", "=3"])
def test_set_expects_a_path_and_a_value(text):
    with pytest.raises(ConfigError, match="PATH=VALUE"):
        config.set_layer([text])


def test_a_file_that_extends_itself_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: mine\n")
    with pytest.raises(ConfigError, match="extends itself"):
        config.file_layers(path)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean mean"):
        resolve_method("mea")
