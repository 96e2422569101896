"""`tvr sweep` and `tvr table`: cells that are the single runs, kept, retried and refused; the table of a paper."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_clip
from processes import WATCHDOG_S
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

import tvr_cli
from tvr_cli import config
from tvr_cli.cli import app
from tvr_cli.config import DataConfig, Experiment, RecipeConfig, Resolved
from tvr_cli.data.demo_world.corpus import SMALL, WorldOptions, make
from tvr_cli.engine.scorers import options_schema
from tvr_cli.engine.showing import cost_plot
from tvr_cli.engine.whole import sweep as engine
from tvr_cli.engine.whole import table as tables
from tvr_cli.errors import DataError, Interrupted
from tvr_cli.files import lock
from tvr_cli.results.card import Card
from tvr_cli.runs import RunDir

FAST = ["--threads", "1", "--device", "cpu"]


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def ran(*args: object) -> Result:
    result = tvr(*args)
    assert result.exit_code == 0, result.stderr
    return result


def yaml(world: Path, methods: str, encoders: str, seeds: str = "0, 1", *, epochs: int = 1) -> str:
    return (
        f"sweep:\n  methods: [{methods}]\n  encoders: [{encoders}]\n  data: ['demo:{world}']\n  seeds: [{seeds}]\n"
        f"train:\n  epochs: {epochs}\n  batch_size: 8\n"
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy world of 32 videos, a second encoder beside the shipped one, and a sweep of both that is done."""
    folder = tmp_path_factory.mktemp("sweep")
    make(folder / "videos", WorldOptions(train=16, val=6, test=10), workers=1)
    tiny_clip.folder(folder / "tiny")
    (folder / "table.yaml").write_text(
        yaml(folder / "videos", "mean, xpool, one_vector", f"demo-tiny, 'local:{folder / 'tiny'}'")
    )
    result = tvr("sweep", folder / "table.yaml", "-o", folder / "out", *FAST)
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture
def copy(place: Path, tmp_path: Path) -> Path:
    """The same in a folder that a test may change."""
    shutil.copytree(place / "out", tmp_path / "out")
    return tmp_path / "out"


def sweep(place: Path, out: Path, *more: object) -> Result:
    return tvr("sweep", place / "table.yaml", "-o", out, *FAST, *more)


def workspace(out: Path) -> Path:
    return out / "sweeps" / "table" / "demo"


def test_every_cell_is_done_or_empty_with_its_reason(place: Path) -> None:
    payload = json.loads(sweep(place, place / "out", "--json").stdout)
    assert payload["schema"] == "tvr/sweep@1"
    states = {cell["run"]: cell["state"] for cell in payload["cells"]}
    assert states == {
        "mean-demo-tiny": "done", "xpool-demo-tiny-seed0": "done", "xpool-demo-tiny-seed1": "done",
        "one_vector-demo-tiny": "empty", "mean-tiny": "done", "xpool-tiny-seed0": "done", "xpool-tiny-seed1": "done",
        "one_vector-tiny": "empty",
    }  # fmt: skip
    reasons = {cell["reason"] for cell in payload["cells"] if cell["state"] == "empty"}
    assert "one_vector needs video.pooled, which demo-tiny does not provide" in reasons
    assert (payload["done"], payload["kept"], payload["failed"], payload["empty"]) == (6, 6, 0, 2)
    assert len(list((workspace(place / "out") / "features").iterdir())) == 2  # once an encoder


def test_a_cell_is_the_single_run_to_the_bit(place: Path, copy: Path) -> None:
    there = workspace(copy)
    ran(
        "train", "--method", "xpool", "--backbone", "demo-tiny", "--seed", "1", "--run", "single", "--set",
        "train.epochs=1", "--set", "train.batch_size=8", "-o", there, *FAST,
    )  # fmt: skip
    ran("evaluate", "single", "-o", there, "--device", "cpu")
    ran("evaluate", "--method", "mean", "--backbone", "demo-tiny", "-o", there, "--device", "cpu")
    runs = there / "runs"
    ours = load_file(runs / "xpool-demo-tiny-seed1" / "checkpoints" / "best.safetensors")
    single = load_file(runs / "single" / "checkpoints" / "best.safetensors")
    assert ours.keys() == single.keys() and all(bool((ours[name] == single[name]).all()) for name in ours)
    for cell, alone in (("xpool-demo-tiny-seed1", "single"), ("mean-demo-tiny", "mean")):
        pair = [runs / name / "results" / "test.ranks.safetensors" for name in (cell, alone)]
        assert pair[0].read_bytes() == pair[1].read_bytes()


def test_the_same_command_again_does_nothing(place: Path) -> None:
    files = [p for p in (place / "out" / "sweeps").rglob("*") if p.is_file() and p.name != ".lock"]
    before = {p: p.stat().st_mtime_ns for p in files if "runs" in p.parts or "cells" in p.parts}
    assert sweep(place, place / "out").exit_code == 0
    assert before and {p: p.stat().st_mtime_ns for p in before} == before


def test_a_failed_cell_is_listed_and_tried_again(place: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(workspace(copy) / "runs" / "xpool-tiny-seed0")
    done = engine._cell

    def broken(job: engine._Job) -> float | None:
        raise DataError("the disk has a hole")

    monkeypatch.setattr(engine, "_cell", broken)
    result = sweep(place, copy)
    assert result.exit_code == 5
    assert "failed: xpool-tiny-seed0 on demo: the disk has a hole" in result.stdout
    monkeypatch.setattr(engine, "_cell", done)
    payload = json.loads(sweep(place, copy, "--json").stdout)
    assert (payload["failed"], payload["done"], payload["kept"]) == (0, 6, 5)


def test_ctrl_c_says_that_the_same_command_goes_on(place: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = workspace(copy) / "runs"
    shutil.rmtree(runs / "xpool-tiny-seed0")
    train = engine.train.train

    def stopped(*args: object) -> None:
        raise Interrupted("stopped after step 1 of 2; the state is saved")

    monkeypatch.setattr(engine.train, "train", stopped)
    result = sweep(place, copy)
    assert result.exit_code == 130
    assert "xpool-tiny-seed0: stopped after step 1 of 2" in result.stderr
    assert "give the same command again, and finished cells are kept" in result.stderr
    monkeypatch.setattr(engine.train, "train", train)
    assert json.loads(sweep(place, copy, "--json").stdout)["done"] == 6


@pytest.mark.slow
def test_cells_in_processes_of_their_own_are_the_same(place: Path, copy: Path) -> None:
    runs = workspace(copy) / "runs"
    before = (runs / "xpool-tiny-seed0" / "results" / "test.ranks.safetensors").read_bytes()
    for name in ("xpool-tiny-seed0", "xpool-demo-tiny-seed0"):
        shutil.rmtree(runs / name)
    result = sweep(place, copy, "--jobs", "2")
    assert result.exit_code == 0, result.stderr
    assert (runs / "xpool-tiny-seed0" / "results" / "test.ranks.safetensors").read_bytes() == before


def test_shards_are_parts_that_make_up_the_whole(place: Path, copy: Path) -> None:
    shutil.rmtree(workspace(copy) / "runs")
    counts = [json.loads(sweep(place, copy, "--shard", f"{i}/2", "--json").stdout)["done"] for i in (1, 2)]
    assert 0 < counts[0] < counts[1] == 6
    assert sweep(place, copy, "--shard", "3/2").exit_code == 2


def test_another_sweep_in_the_folder_is_refused_with_the_difference(place: Path, copy: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.yaml"
    file.write_text((place / "table.yaml").read_text().replace("epochs: 1", "epochs: 2").replace("xpool, ", ""))
    result = tvr("sweep", file, "-o", copy, *FAST)
    assert result.exit_code == 2
    assert "methods: xpool is gone" in result.stderr
    assert "train.epochs: it was 1, 2 is asked for" in result.stderr


def test_a_larger_sweep_adds_cells_to_the_one_that_is_there(place: Path, copy: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.yaml"
    file.write_text((place / "table.yaml").read_text().replace("xpool", "xpool, wti"))
    preview = json.loads(ran("sweep", file, "-o", copy, "--dry-run", "--json").stdout)
    assert (preview["todo"], preview["trains"]) == (4, 4)


def test_a_method_that_reads_patches_is_added_with_features_of_its_own(place: Path, copy: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.yaml"
    file.write_text((place / "table.yaml").read_text().replace("mean, xpool", "mean, ts2net, xpool"))
    planned = json.loads(ran("sweep", file, "-o", copy, *FAST, "--dry-run", "--json").stdout)
    (features,) = (step for step in planned["steps"] if step["step"].startswith("features"))
    frames, texts = 32 * 12, int(features["does"].split()[2])
    assert "tiny" in features["step"] and features["bytes"] == 2 * 32 * (frames * (1 + 16) + texts * (16 + 1))
    found = json.loads(ran("sweep", file, "-o", copy, *FAST, "--json").stdout)
    states = {cell["run"]: cell["state"] for cell in found["cells"] if cell["method"] == "ts2net"}
    assert states == {
        "ts2net-demo-tiny-seed0": "empty", "ts2net-demo-tiny-seed1": "empty",
        "ts2net-tiny-seed0": "done", "ts2net-tiny-seed1": "done",
    }  # fmt: skip
    assert found["kept"] == 6 and len(list((workspace(copy) / "features").iterdir())) == 3
    again = json.loads(ran("sweep", file, "-o", copy, *FAST, "--dry-run", "--json").stdout)
    assert again["todo"] == 0 and not [step for step in again["steps"] if step["step"].startswith("features")]
    (table,) = json.loads(ran("table", "table", "-o", copy, "--json").stdout)["tables"]
    assert "ts2net-tiny" in {row["row"] for row in table["rows"]}


def test_two_sweeps_in_one_folder_are_refused(place: Path, copy: Path) -> None:
    with lock(copy / "sweeps" / "table"):
        result = sweep(place, copy)
    assert result.exit_code == 4 and "another tvr process" in result.stderr


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("mean, xpool", "mean, xpol", "xpol"),
        ("demo-tiny", "demo-tini", "demo-tini"),
        ("mean, xpool", "mean, 'recipe:xpool-msrvt-b32'", "xpool-msrvt-b32.*did you mean xpool-msrvtt-b32"),
        ("mean, xpool", "mean, mean", "stands there twice"),
        ("methods:", "metods:", r"table\.yaml:2: sweep\.metods: unknown key; did you mean methods\?"),
        ("epochs:", "epoch:", r"table\.yaml:7: train\.epoch: unknown key; did you mean epochs\?"),
        ("[0, 1]", "[0, 0]", "stands there twice"),
    ],
)
def test_what_cannot_be_swept_is_said_before_any_work(
    place: Path, tmp_path: Path, old: str, new: str, told: str
) -> None:
    file = tmp_path / "table.yaml"
    file.write_text((place / "table.yaml").read_text().replace(old, new, 1))
    result = tvr("sweep", file, "-o", tmp_path / "out")
    assert result.exit_code == 2 and re.search(told, result.stderr), result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("word", "told"), [("demoo", "did you mean demo"), ("zzz", "that ship are: demo, msrvtt")])
def test_a_word_that_is_no_sweep_names_those_that_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "msrvtt").mkdir()  # a folder is no file, and does not hide the sweep of its name
    result = tvr("sweep", word, "--data", "demo:videos")
    assert result.exit_code == 2 and f"no file '{word}'" in result.stderr and told in result.stderr
    assert "a sweep needs data" in tvr("sweep", "msrvtt").stderr


def test_a_table_of_empty_cells_alone_says_why_they_are_empty(place: Path, tmp_path: Path) -> None:
    flags = ["--methods", "ts2net", "--encoders", "demo-tiny", "--data", f"demo:{place / 'videos'}", "--name", "none"]
    ran("sweep", *flags, *FAST, "-o", tmp_path)
    result = tvr("table", "none", "-o", tmp_path)
    assert result.exit_code == 3
    assert "all of them are empty (ts2net needs video.patches" in result.stderr
    assert "that began it" not in result.stderr  # it would end the same


def test_a_dry_run_says_cells_bytes_and_hours_and_writes_nothing(place: Path, tmp_path: Path) -> None:
    payload = json.loads(ran("sweep", place / "table.yaml", "-o", tmp_path / "out", "--dry-run", "--json").stdout)
    assert payload["dry_run"] and (payload["todo"], payload["trains"]) == (6, 4)
    assert payload["bytes"] > 0 and payload["hours"] > 0 and "training xpool on demo" in payload["unknown"][0]
    assert not (tmp_path / "out").exists()


def test_a_dry_run_knows_the_time_of_training_from_cells_that_are_done(place: Path, copy: Path) -> None:
    for seed in (0, 1):
        (copy / "sweeps" / "table" / "cells" / "demo" / f"xpool-tiny-seed{seed}.json").unlink()
    done = [
        json.loads((copy / "sweeps" / "table" / "cells" / "demo" / f"xpool-demo-tiny-seed{seed}.json").read_text())
        for seed in (0, 1)
    ]
    payload = json.loads(sweep(place, copy, "--dry-run", "--json").stdout)
    (cells,) = (step for step in payload["steps"] if step["step"] == "cells of demo")
    assert cells["seconds"] == pytest.approx(sum(d["train_seconds"] for d in done))  # two more like them
    assert payload["unknown"] == ["the bytes of checkpoints"]


def test_flags_alone_make_a_sweep(place: Path, tmp_path: Path) -> None:
    flags = ["--methods", "mean,xpool", "--encoders", "demo-tiny", "--data", f"demo:{place / 'videos'}"]
    payload = json.loads(ran("sweep", *flags, "--seeds", "3", "-o", tmp_path, "--dry-run", "--json").stdout)
    assert [cell["run"] for cell in payload["cells"]] == ["mean-demo-tiny", "xpool-demo-tiny-seed3"]
    assert "a sweep needs encoders" in tvr("sweep", "--methods", "mean", "-o", tmp_path).stderr


def test_a_recipe_is_a_method_of_a_sweep_with_the_values_of_its_authors(place: Path, tmp_path: Path) -> None:
    """The encoder is the sweep's, what the file says of training holds for every cell, and the rest is the recipe's."""
    flags = ["--methods", "mean,recipe:xpool-msrvtt-b32", "--encoders", "demo-tiny", "--seeds", "3"]
    own = ["--set", "train.tune=head", "--set", "train.epochs=1", "--set", "train.batch_size=8"]
    ran("sweep", *flags, *own, "--data", f"demo:{place / 'videos'}", "-o", tmp_path, "--name", "published", *FAST)
    run = RunDir(tmp_path / "sweeps" / "published" / "demo" / "runs" / "xpool-msrvtt-b32-demo-tiny-seed3")
    train = run.config()["train"]
    assert (train["optimizer"], train["schedule"], train["weight_decay"]) == ("hf-adamw", "hf-cosine", 0.2)
    assert (train["seed"], train["epochs"], run.config()["backbone"]["name"]) == (3, 1, "demo-tiny")
    (table,) = tvr_cli.open_workspace(tmp_path).table("published", baseline="mean").tables
    assert [row.method for row in table.rows] == ["mean", "recipe:xpool-msrvtt-b32"]
    assert table.rows[1].against == "mean-demo-tiny"


def test_the_table_folds_seeds_and_tests_against_the_baseline_on_the_same_encoder(place: Path) -> None:
    payload = json.loads(ran("table", "table", "-o", place / "out", "--json").stdout)
    (table,) = payload["tables"]
    rows = {row["row"]: row for row in table["rows"]}
    assert list(rows) == ["mean-demo-tiny", "xpool-demo-tiny", "mean-tiny", "xpool-tiny"]
    row = rows["xpool-tiny"]
    kept = [
        json.loads((workspace(place / "out") / "runs" / name / "results" / "test.json").read_text())
        for name in row["runs"]
    ]
    assert row["seeds"] == [0, 1]
    assert row["mean"]["t2v"]["MnR"] == pytest.approx(sum(k["t2v"]["MnR"] for k in kept) / 2)
    assert row["against"] == "mean-tiny" and rows["mean-tiny"]["against"] is None and not rows["mean-tiny"]["tests"]
    test = row["tests"]["t2v"]
    assert test["difference"] == pytest.approx(row["mean"]["t2v"]["R@1"] - rows["mean-tiny"]["mean"]["t2v"]["R@1"])
    assert test["p"] <= test["p_holm"] <= 1
    assert len(payload["left_out"]) == 2 and "video.pooled" in payload["left_out"][0]
    one = json.loads(ran("table", "table", "-o", place / "out", "--baseline", "mean-demo-tiny", "--json").stdout)
    assert {row["against"] for row in one["tables"][0]["rows"]} == {None, "mean-demo-tiny"}


def test_a_table_says_how_a_damaged_result_is_made_again(copy: Path) -> None:
    result = workspace(copy) / "runs" / "xpool-tiny-seed0" / "results" / "test.json"
    whole = json.loads(result.read_text())
    result.write_text(result.read_text()[:40])
    refused = tvr("table", "table", "-o", copy)
    assert refused.exit_code == 3 and "xpool-tiny-seed0/results/test.json' is not readable as JSON" in refused.stderr
    again = shlex.split(refused.stderr.strip().partition("move it elsewhere and run: tvr ")[2])
    result.rename(copy / "damaged.json")
    ran(*again, "--device", "cpu")
    assert json.loads(result.read_text())["t2v"] == whole["t2v"]
    ran("table", "table", "-o", copy)


def test_the_table_has_forms_for_people_papers_and_programs(place: Path) -> None:
    out = place / "out"
    markdown = ran("table", "table", "-o", out).stdout
    assert "| mean | demo-tiny | – |" in markdown and "left out: one_vector-demo-tiny" in markdown
    assert "| mean | tiny | – |" in markdown  # the path of a folder is nobody else's
    assert "the smallest difference of R@1 that this gallery can show" in markdown
    latex = ran("table", "table", "-o", out, "--latex").stdout
    assert latex.count("\\toprule") == latex.count("\\bottomrule") == 1 and "\\textbf" not in latex
    rows = list(csv.DictReader(io.StringIO(ran("table", "table", "-o", out, "--csv").stdout)))
    assert [row["row"] for row in rows] == ["mean-demo-tiny", "xpool-demo-tiny", "mean-tiny", "xpool-tiny"]
    assert float(rows[1]["tests.t2v.p_holm"]) <= 1
    assert tvr("table", "table", "-o", out, "--csv", "--latex").exit_code == 2
    assert "found 'meen'" in tvr("table", "table", "-o", out, "--baseline", "meen").stderr
    assert tvr("table", "nothing", "-o", out).exit_code == 3


def test_the_plot_has_a_panel_an_encoder_and_the_name_of_every_method(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pictures = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for picture in pictures:
        ran("table", "table", "-o", place / "out", "--plot", picture)
    svg = pictures[0].read_text()
    words = re.findall(r"<!-- (.*?) -->", svg)
    assert [word for word in words if " on demo" in word] == ["demo-tiny on demo", "tiny on demo"]
    assert words.count("mean") == words.count("xpool") == 2
    assert svg == pictures[1].read_text()
    wrong = tvr("table", "nothing", "-o", tmp_path, "--plot", tmp_path / "a.bmp")
    assert wrong.exit_code == 2 and "expected a .png, .svg or .pdf file" in wrong.stderr


def test_names_in_a_plot_do_not_stand_on_each_other() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    points = [cost_plot.Point(f"method{i}", "toy", 30.0 + 0.1 * i, 28.0, 33.0, 6668) for i in range(6)]
    axes = Figure(figsize=(5.5, 5.5)).add_subplot()
    cost_plot._panel(axes, points)
    axes.figure.draw_without_rendering()
    cost_plot._labels(axes, points)
    axes.figure.draw_without_rendering()
    boxes = sorted((Text.get_window_extent(text) for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == 6 and all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))


def test_a_published_number_has_a_gap_only_where_nothing_differs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that is the very experiment of a cell, then the same with another learning rate."""
    run = RunDir(workspace(place / "out") / "runs" / "xpool-demo-tiny-seed0")
    own = config.from_tree(run.config(), options_schema, "presets/recipes/toy.yaml")
    about = RecipeConfig(sources={}, published={"t2v": {"R@1": 40.0}}, selected_on="test", code_revision="known")
    theirs = replace(own.experiment, recipe=about, data=DataConfig(name="demo"))

    def row_beside(experiment: Experiment) -> tuple[dict, dict, str]:
        monkeypatch.setattr(tables, "_recipes", lambda: {"toy": Resolved(experiment, own.origins)})
        report = json.loads(ran("table", "table", "-o", place / "out", "--json").stdout)
        row = report["tables"][0]["rows"][1]
        return row, row["published"][0], ran("table", "table", "-o", place / "out").stdout

    row, same, text = row_beside(theirs)
    assert same["differs"] == [] and same["gap"] == pytest.approx(row["mean"]["t2v"]["R@1"] - 40.0)
    assert f"published t2v R@1 40.0 (toy, selected on test), here {same['gap']:+.1f}" in text
    _, other, text = row_beside(replace(theirs, train=replace(theirs.train, lr=0.5)))
    assert other["gap"] is None and other["differs"] == ["train.lr is 0.0001, 0.5 is theirs"]
    assert "is of another experiment and cannot stand beside it: train.lr is 0.0001" in text


@pytest.fixture(scope="module")
def cards(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cards of the table of the sweep that is done."""
    folder = tmp_path_factory.mktemp("cards")
    ran("table", "table", "-o", place / "out", "--cards", folder)
    return folder / "demo"


def test_every_row_has_a_card_and_a_paragraph(cards: Path) -> None:
    names = ["mean-demo-tiny", "mean-tiny", "xpool-demo-tiny", "xpool-tiny"]
    assert sorted(p.name for p in cards.iterdir()) == sorted(f"{n}.{end}" for n in names for end in ("json", "txt"))
    card = json.loads((cards / "xpool-demo-tiny.json").read_text())
    runs = ["xpool-demo-tiny-seed0", "xpool-demo-tiny-seed1"]
    assert card["of"] == ["table", "table", "demo", *runs]
    assert card["protocol"]["seeds"] == "0, 1" and card["protocol"]["selected on"]
    assert "after Holm's correction for 4 tests" in card["protocol"]["t2v R@1 against mean-demo-tiny"]
    assert {"caption ids", "video ids", "features", *(f"weights of {run}" for run in runs)} <= card["hashes"].keys()
    told = (cards / "xpool-demo-tiny.txt").read_text()
    r1 = next(v for v in card["values"] if v["name"] == "t2v R@1")
    assert f"t2v R@1 {r1['found']:.2f} ± {r1['deviation']:.2f} [{r1['low']:.2f}, {r1['high']:.2f}]" in told
    assert card["command"] in told and card["hashes"]["caption ids"][:16] in told


def test_the_command_of_a_card_is_the_sweep_of_its_row(place: Path, cards: Path, tmp_path: Path) -> None:
    command = shlex.split(json.loads((cards / "xpool-demo-tiny.json").read_text())["command"])
    payload = json.loads(ran(*command[1:], "-o", tmp_path, "--dry-run", "--json").stdout)
    assert [cell["run"] for cell in payload["cells"]] == ["xpool-demo-tiny-seed0", "xpool-demo-tiny-seed1"]
    own = json.loads((place / "out" / "sweeps" / "table" / "sweep.json").read_text())["settings"]
    assert [command[i + 1] for i, word in enumerate(command) if word == "--set"] == [
        f"train.{name}={value}" for name, value in own["train"].items()
    ]


@pytest.mark.parametrize("row", ["mean-demo-tiny", "xpool-tiny"])
def test_a_card_of_a_row_is_scored_again_and_confirmed(place: Path, cards: Path, row: str) -> None:
    results = [p for p in (place / "out").rglob("results/*") if p.is_file()]
    before = {p: p.stat().st_mtime_ns for p in results}
    found = ran("verify", "--card", cards / f"{row}.json", "-o", place / "out", "--device", "cpu")
    assert found.stdout.endswith("PASS\n") and "PASS  t2v R@1: " in found.stdout
    assert {p: p.stat().st_mtime_ns for p in results} == before


def edited(card: Path, to: Path, *, sealed: bool) -> Path:
    """Write a card with fifty points more R@1. sealed: by somebody who writes a new sha256 as well."""
    data = json.loads(card.read_text())
    next(v for v in data["values"] if v["name"] == "t2v R@1")["found"] += 50.0
    if sealed:
        data = Card.from_json({k: v for k, v in data.items() if k != "content"}, "a card").sealed().to_json()
    to.write_text(json.dumps(data))
    return to


def test_a_card_that_was_edited_is_refused_or_fails(place: Path, cards: Path, tmp_path: Path) -> None:
    def verify(card: Path) -> Result:
        return tvr("verify", "--card", card, "-o", place / "out", "--device", "cpu")

    own = cards / "mean-demo-tiny.json"
    plainly = verify(edited(own, tmp_path / "edited.json", sealed=False))
    assert plainly.exit_code == 3 and "was changed after it was written" in plainly.stderr
    resealed = verify(edited(own, tmp_path / "resealed.json", sealed=True))
    assert resealed.exit_code == 5 and "FAIL: t2v R@1" in resealed.stderr
    data = json.loads(own.read_text())
    (tmp_path / "bare.json").write_text(json.dumps({k: v for k, v in data.items() if k != "content"}))
    bare = verify(tmp_path / "bare.json")
    assert bare.exit_code == 3 and "lacks the sha256 of its content" in bare.stderr
    (tmp_path / "newer.json").write_text(json.dumps({**data, "schema": "tvr/card@2"}))
    newer = verify(tmp_path / "newer.json")
    assert newer.exit_code == 3 and "of the schema tvr/card@1, found the schema tvr/card@2" in newer.stderr


def test_a_card_says_when_weights_are_other_ones_or_nowhere(copy: Path, cards: Path, tmp_path: Path) -> None:
    runs = workspace(copy) / "runs"
    best = [runs / f"xpool-tiny-seed{seed}" / "checkpoints" / "best.safetensors" for seed in (0, 1)]
    shutil.copy(best[1], best[0])
    found = tvr("verify", "--card", cards / "xpool-tiny.json", "-o", copy, "--device", "cpu")
    assert found.exit_code == 5 and "weights of xpool-tiny-seed0: another file" in found.stdout
    nowhere = tvr("verify", "--card", cards / "xpool-tiny.json", "-o", tmp_path / "other")
    assert nowhere.exit_code == 3 and "say with -o which workspace has it, or make it: tvr sweep" in nowhere.stderr


@pytest.mark.slow
def test_a_sweep_that_was_killed_ends_with_the_cells_of_one_that_was_not(tmp_path: Path) -> None:
    """3 methods x 2 encoders on the small demo world, SIGKILL once in the middle of a training."""
    make(tmp_path / "videos", SMALL)
    tiny_clip.folder(tmp_path / "tiny")
    file = tmp_path / "table.yaml"
    file.write_text(yaml(tmp_path / "videos", "mean, xpool, wti", f"demo-tiny, 'local:{tmp_path / 'tiny'}'", "0"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ran("sweep", file, "-o", whole, *FAST)
    folder = killed / "sweeps" / "table"
    folder.mkdir(parents=True)
    shutil.copy(whole / "sweeps" / "table" / "sweep.json", folder)  # with the matrix product that was found faster

    command = [sys.executable, "-m", "tvr_cli", "sweep", file, "-o", killed, *FAST]
    child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + WATCHDOG_S
    begun = folder / "demo" / "runs" / "wti-demo-tiny-seed0" / "config.json"
    while not begun.exists():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (folder / "cells" / "demo" / "xpool-tiny-seed0.json").exists()
    ran("sweep", file, "-o", killed, *FAST)

    ranks = sorted(p.relative_to(whole) for p in whole.rglob("test.ranks.safetensors"))
    assert len(ranks) == 6
    for path in ranks:
        assert (whole / path).read_bytes() == (killed / path).read_bytes(), path
