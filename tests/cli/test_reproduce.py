"""`tvr reproduce` on miniature data sets: the plan of every recipe, and whole runs that continue where they stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from miniature import write_dataset
from typer.testing import CliRunner, Result

from tvr_cli import config, data
from tvr_cli.cli import app
from tvr_cli.preset_loader import preset_names

pytestmark = pytest.mark.usefixtures("warm_readers")

SMALL = {
    "backbone.name": "demo-tiny",
    "backbone.temporal_shift": "false",
    "frames.size": "64",
    "frames.max_frames": "4",
    "words.length": "24",
    "train.tune": "head",
    "train.freeze": "[]",
    "train.clip_precision": "fp32",
    "train.augment": "none",
    "train.batch_size": "6",
    "train.epochs": "1",
    "train.validate_every": "null",
}


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def small(extra: dict[str, str] | None = None) -> list[str]:
    return [word for path, value in {**SMALL, **(extra or {})}.items() for word in ("--set", f"{path}={value}")]


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("data")
    return lambda name, variant=None: write_dataset(name, folder / f"{name}-{variant}", variant)


def data_of(recipe: str) -> tuple[str, str | None]:
    tree: dict = {}
    for layer in config.preset_layers("recipes", recipe):
        tree |= layer.tree.get("data", {})
    return tree["name"], tree.get("variant")


def recipes() -> Iterator[Any]:
    """Every recipe; the first of each data set is for every day, and the others are slow."""
    seen: set[str] = set()
    for name in preset_names("recipes"):
        dataset, _ = data_of(name)
        yield pytest.param(name, marks=[pytest.mark.slow] if dataset in seen else [])
        seen.add(dataset)


@pytest.mark.parametrize("recipe", recipes())
def test_the_plan_of_every_recipe_is_printed_and_writes_nothing(recipe, miniature, tmp_path):
    name, variant = data_of(recipe)
    root = miniature(name, variant or ("9k" if name == "msrvtt" else "hgr" if name == "vatex" else None))
    spec = f"{name}:{root}" + (f":{variant}" if variant else "")
    result = tvr("reproduce", recipe, "--data", spec, "--dry-run", "--json", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["schema"] == "tvr/reproduce@1" and plan["dry_run"]
    assert [s["step"] for s in plan["steps"]] == [
        "doctor",
        "extract-frames",
        "precompute-features",
        "train",
        "evaluate",
    ]
    doctor, frames, features, training, evaluation = plan["steps"]
    assert "incomplete, stops here (split train: " in doctor["does"]  # the miniatures are small
    assert any(said.startswith("split test: ") for said in plan["incomplete"])
    assert evaluation["does"].startswith("split test, t2v ") and "captions, v2t " in evaluation["does"]
    assert frames["bytes"] > 0 and features["bytes"] > 0 and features["seconds"] > 0
    # CLIP of 151 M parameters: 0.6 GB of weights, 1.8 GB with two moments, in three files and a best.
    assert 5e9 < training["bytes"] < 9e9 and training["seconds"] > features["seconds"]
    assert not (tmp_path / "out").exists()


def test_a_reproduction_runs_and_continues(miniature, tmp_path):
    spec = f"msrvtt:{miniature('msrvtt', '9k')}"
    args = ("reproduce", "glccl-msrvtt-b32", "--data", spec, "-o", tmp_path / "out", "--workers", 1, "--json", *small())
    refused = tvr(*args)
    assert refused.exit_code == 3 and "split train" in refused.stderr and "--allow-missing" in refused.stderr
    first = tvr(*args, "--allow-missing")
    assert first.exit_code == 0, first.stderr
    report = json.loads(first.stdout)
    assert report["result"]["gallery"]["expected"] == 1000 and report["run"] == "glccl-msrvtt-b32"
    assert report["published"] is None and "backbone.name" in report["changed"]
    again = tvr(*args, "--allow-missing")
    assert again.exit_code == 0 and "training glccl" not in again.stderr
    assert json.loads(again.stdout)["result"]["t2v"] == report["result"]["t2v"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "name", "variant"),
    [
        ("tcmgc-didemo-b32", "didemo", None),
        ("eaglenet-msvd-b16", "msvd", None),
        ("glccl-vatex-b32", "vatex", "hgr"),
        ("glccl-vatex-b16", "vatex", "lists"),
        ("tcmgc-vatex-b32", "vatex", "official"),
        ("gare-msrvtt-b32", "msrvtt", "9k"),
        ("glccl-msrvtt7k-b16", "msrvtt", "7k"),
    ],
)
def test_recipes_run_on_every_layout(recipe, name, variant, miniature, tmp_path):
    spec = f"{name}:{miniature(name, variant)}" + (f":{variant}" if variant else "")
    chosen = ("--data", spec, "-o", tmp_path / "out", "--workers", 1, "--allow-missing")
    result = tvr("reproduce", recipe, *chosen, "--json", *small())
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["result"]["t2v"]["R@10"] > 0


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("gare-msrvt-b32", "--data", "msrvtt:x"), 2, "did you mean gare-msrvtt-b32?"),
        (("gare-msrvtt-b32",), 2, "--data msrvtt:msrvtt/"),
        (("gare-msrvtt-b32", "--data", "msrvtt:/nowhere"), 3, "found nothing there"),
    ],
)
def test_refusals(args, code, words):
    result = tvr("reproduce", *args)
    assert result.exit_code == code and words in result.stderr


def test_another_data_set_or_variant_is_refused(miniature):
    spec = f"msvd:{miniature('msvd')}"
    assert "is for the data set msrvtt" in tvr("reproduce", "gare-msrvtt-b32", "--data", spec).stderr
    other = f"msrvtt:{miniature('msrvtt', '9k')}:9k"
    assert "is for the variant 7k" in tvr("reproduce", "glccl-msrvtt7k-b16", "--data", other).stderr


def test_the_plan_says_that_videos_are_missing_and_how_many_queries_are_left(miniature, tmp_path):
    root = shutil.copytree(miniature("msvd"), tmp_path / "msvd")
    for video in sorted((root / "videos").iterdir())[:17]:
        video.unlink()
    args = ("reproduce", "eaglenet-msvd-b16", "--data", f"msvd:{root}", "--dry-run", "-o", tmp_path / "out")
    plan = tvr(*args).stdout.splitlines()
    manifest = data.load(f"msvd:{root}")
    left = len({c.video for c in manifest.captions if c.split == "test"} - set(manifest.missing))
    assert plan[1].startswith("1. doctor: checks 20 videos, 50 captions: incomplete, stops here (")
    assert "videos: 17 of 20 have no file" in plan[1]
    assert plan[5].endswith(f"v2t {left} videos")
    assert "goes on, and every output carries the count" in tvr(*args, "--allow-missing").stdout


@pytest.mark.parametrize("variant", ["paragraphs", "one-caption"])
def test_a_recipe_is_not_followed_on_another_protocol(variant, miniature):
    result = tvr("reproduce", "eaglenet-msvd-b16", "--data", f"msvd:{miniature('msvd')}:{variant}", "--dry-run")
    assert result.exit_code == 2 and f"is for the data set's own protocol, found {variant}" in result.stderr


def test_a_recipe_is_not_followed_on_a_listed_gallery(miniature, tmp_path):
    (tmp_path / "list.txt").write_text("-16wsuPCjDBc_16_23\n")
    spec = f"msvd:{miniature('msvd')}:{tmp_path / 'list.txt'}"
    result = tvr("reproduce", "eaglenet-msvd-b16", "--data", spec, "--dry-run")
    assert result.exit_code == 2 and "own protocol, found list:" in result.stderr


def test_recipes_are_listed():
    assert "gare-msrvtt-b32" in tvr("reproduce").stdout.splitlines()
