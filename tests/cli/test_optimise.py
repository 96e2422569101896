"""`tvr optimise`: the same trials for every method, on validation alone, kept and gone on with; what a sweep takes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from tvr_cli.cli import app
from tvr_cli.data.demo_world.corpus import WorldOptions, make
from tvr_cli.engine.whole import ranges, sweep, sweep_plan
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.preset_loader import preset_names

FAST = ("--threads", "1", "--device", "cpu", "--set", "train.epochs=1", "--set", "train.batch_size=8")
pytestmark = pytest.mark.xdist_group("optimise")  # one process searches


def tvr(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def ran(*args: object) -> Result:
    result = tvr(*args)
    assert result.exit_code == 0, result.stderr
    return result


def flags(place: Path) -> tuple[object, ...]:
    return ("--encoders", "demo-tiny", "--data", f"demo:{place / 'videos'}", *FAST, "-o", place / "out")


def optimise(place: Path, *more: object) -> Any:
    return json.loads(ran("optimise", "xpool,clip4clip_seq", "--trials", "2", *more, *flags(place), "--json").stdout)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy world of 32 videos, and a search of two trials each of two methods that is done."""
    folder = tmp_path_factory.mktemp("optimise")
    make(folder / "videos", WorldOptions(train=16, val=8, test=8, captions=1))
    preview = optimise(folder, "--dry-run")
    assert not (folder / "out").exists() and preview["todo"] == 4
    optimise(folder)
    return folder


def test_every_method_has_the_same_trials_and_the_first_is_its_preset(place: Path) -> None:
    report = optimise(place)
    assert [(row["method"], row["done"], row["failed"], row["todo"]) for row in report["rows"]] == [
        ("xpool", 2, 0, 0), ("clip4clip_seq", 2, 0, 0),
    ]  # fmt: skip
    for row in report["rows"]:
        by_number = {t["trial"]: t for t in row["trials"]}
        assert by_number[0]["settings"] == {} and "train.lr" in by_number[1]["settings"]
        order = [(t["t2v_r1"], t["rsum"]) for t in row["trials"]]
        assert order == sorted(order, reverse=True) and row["best"] == row["trials"][0]


def test_a_trial_is_the_single_run_of_its_settings_and_never_sees_the_test_split(place: Path) -> None:
    workspace = place / "out" / "sweeps" / "search" / "demo"
    assert not list(workspace.glob("runs/*/results/test*"))
    (row,) = [row for row in optimise(place)["rows"] if row["method"] == "xpool"]
    drawn = next(t["settings"] for t in row["trials"] if t["trial"] == 1)
    said = [word for path, value in drawn.items() for word in ("--set", f"{path}={value}")]
    ran(
        "train", "--method", "xpool", "--backbone", "demo-tiny", "--seed", "0", "--run", "single", *FAST, *said, "-o",
        workspace,
    )  # fmt: skip
    ours, single = (
        load_file(workspace / "runs" / run / "checkpoints" / "best.safetensors")
        for run in ("xpool-demo-tiny-trial1", "single")
    )
    assert all((ours[name] == x).all() for name, x in single.items())
    shutil.rmtree(workspace / "runs" / "single")


def test_a_search_goes_on_where_it_was_and_may_become_longer(place: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(place, tmp_path / "copy"))
    folder = copy / "out" / "sweeps" / "search"
    (folder / "cells" / "demo" / "xpool-demo-tiny-trial1.json").unlink()
    shutil.rmtree(folder / "demo" / "runs" / "xpool-demo-tiny-trial1")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("best.safetensors")}
    data = ("--encoders", "demo-tiny", "--data", f"demo:{place / 'videos'}", *FAST, "-o", copy / "out", "--json")
    longer = json.loads(ran("optimise", "xpool,clip4clip_seq", "--trials", "3", *data).stdout)
    assert [row["done"] for row in longer["rows"]] == [3, 3]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    old = {(r["method"], t["trial"]): t for r in optimise(place)["rows"] for t in r["trials"]}
    new = {(r["method"], t["trial"]): t for r in longer["rows"] for t in r["trials"]}
    assert {key: new[key] for key in old} == old
    both = "xpool,clip4clip_seq"
    for words, told in (
        ((both, "--trials", "1"), "--trials: it was 3, 1 is asked for"),
        ((both, "--trials", "3", "--seed", "1"), "--seed: it was 0, 1 is asked for"),
        (("xpool", "--trials", "3"), "methods: clip4clip_seq is gone"),
    ):
        refused = tvr("optimise", *words, *data)
        assert refused.exit_code == 2 and told in refused.stderr


def test_a_sweep_takes_what_a_search_found_and_its_table_says_how_many_trials_there_were(place: Path) -> None:
    best = {row["method"]: row["best"]["settings"] for row in optimise(place)["rows"]}
    ran("sweep", "--methods", "mean,xpool,clip4clip_seq", "--tuned", "search", "--name", "final", *flags(place))
    runs = place / "out" / "sweeps" / "final" / "demo" / "runs"
    for method, settings in best.items():
        tree = json.loads((runs / f"{method}-demo-tiny-seed0" / "config.json").read_text())
        for path, value in settings.items():
            node: Any = tree
            for part in path.split("."):
                node = node[part]
            assert node == value, path
    (table,) = json.loads(ran("table", "final", "-o", place / "out", "--json").stdout)["tables"]
    assert {row["method"]: row["trials"] for row in table["rows"]} == {"mean": 0, "xpool": 2, "clip4clip_seq": 2}
    text = ran("table", "final", "-o", place / "out").stdout
    assert "| method | encoder | trials |" in text and "the best on validation taken" in text
    assert "unequal budgets" not in text
    refused = tvr("table", "search", "-o", place / "out")
    assert refused.exit_code == 3 and "judged on validation alone" in refused.stderr


def test_a_sweep_refuses_a_search_that_is_not_done_or_is_none(place: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(place, tmp_path / "copy"))
    (copy / "out" / "sweeps" / "search" / "cells" / "demo" / "xpool-demo-tiny-trial1.json").unlink()
    words = ("--methods", "xpool", "--encoders", "demo-tiny", "--data", f"demo:{place / 'videos'}", "-o", copy / "out")
    unfinished = tvr("sweep", *words, "--tuned", "search", "--name", "x")
    assert unfinished.exit_code == 3 and "1 trials of the search 'search' are not done" in unfinished.stderr
    assert "expected a sweep" in tvr("sweep", *words, "--tuned", "nothing", "--name", "x").stderr


def test_what_a_search_found_cannot_also_be_given(place: Path) -> None:
    row = ("demo", "xpool", "demo-tiny")
    found = sweep_plan.Found({row: {"train.lr": 1e-4}}, {row: 2})
    asked = sweep_plan.Asked(
        methods=["xpool"], encoders=["demo-tiny"], data=[f"demo:{place / 'videos'}"], found=lambda _: found, tuned="s"
    )
    (cell,) = sweep_plan.table_of(asked).cells
    assert cell.trials == 2 and sweep_plan.table_of(asked).resolved(cell).experiment.train.lr == 1e-4
    with pytest.raises(ConfigError, match=r"train\.lr is what the search 's' found, and --set gives it a value"):
        sweep_plan.table_of(replace(asked, assignments=["train.lr=1"]))


def test_a_failed_trial_is_listed_and_tried_again(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(place, tmp_path / "copy"))
    folder = copy / "out" / "sweeps" / "search"
    (folder / "cells" / "demo" / "xpool-demo-tiny-trial0.json").unlink()

    def broken(*_: Any) -> Any:
        raise DataError("the disk has a hole")

    words = ("--encoders", "demo-tiny", "--data", f"demo:{place / 'videos'}", *FAST, "-o", copy / "out")
    with monkeypatch.context() as patch:
        patch.setattr(sweep.train, "train", broken)
        result = tvr("optimise", "xpool,clip4clip_seq", "--trials", "2", *words)
    assert result.exit_code == 5 and "the disk has a hole" in result.stdout and "1 failed of 2" in result.stdout
    assert "2 trials" not in ran("optimise", "xpool,clip4clip_seq", "--trials", "2", *words).stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["mean"], "mean has nothing to train, so there is nothing to search"),
        (["xpol"], "did you mean xpool"),
        (["dmae"], "dmae has nothing to train, so there is nothing to search"),
        (["xpool", "--set", "train.lr=1e-4"], "train.lr is searched, and --set gives it a value"),
        (["xpool", "--set", "train.select_on=test"], "a search looks at validation alone"),
        ([","], "expected a method to search settings of"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_any_work(
    words: list[str], told: str, place: Path, tmp_path: Path
) -> None:
    data = ("--encoders", "demo-tiny", "--data", f"demo:{place / 'videos'}", "-o", tmp_path / "out")
    result = tvr("optimise", *words, *data)
    assert result.exit_code == 2 and told in result.stderr
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------------------- ranges


@pytest.mark.parametrize("method", [name for name in preset_names("ranges") if name != "common"])
def test_every_shipped_range_is_of_a_setting_that_there_is_and_holds_its_draws(method: str) -> None:
    from tvr_cli import config
    from tvr_cli.engine import scorers

    found = ranges.ranges_of(method)
    assert any(path.startswith(f"method.{method}.") for path in found) and "train.lr" in found
    for trial in range(1, 20):
        values = ranges.drawn(found, seed=3, method=method, trial=trial)
        layers = [*scorers.method_layers(method), config.flag_layer(values)]
        flat = config.flatten(config.resolve(layers, scorers.options_schema).tree())
        assert {path: flat[path] for path in values} == values


def test_a_method_without_shipped_ranges_is_told_to_bring_a_file() -> None:
    with pytest.raises(ConfigError, match=r"no ranges are shipped for 'theirs\.Method' .*give --ranges FILE"):
        ranges.ranges_of("theirs.Method", None)


def test_a_draw_depends_on_nothing_but_seed_method_trial_and_path() -> None:
    few = {"a": ranges.Range("uniform", (0.0, 1.0))}
    more = {**few, "b": ranges.Range("choice", (1, 2, 3))}
    one = ranges.drawn(few, seed=0, method="m", trial=4)
    assert ranges.drawn(more, seed=0, method="m", trial=4)["a"] == one["a"]
    others = [ranges.drawn(few, seed=s, method=m, trial=t) for s, m, t in ((1, "m", 4), (0, "n", 4), (0, "m", 5))]
    assert len({x["a"] for x in (one, *others)}) == 4


def test_draws_fill_their_range_as_it_says() -> None:
    log, whole = ranges.Range("log", (1e-5, 1e-3)), ranges.Range("integer", (1, 4))
    assert log.at(0.0) == 1e-5 and log.at(0.5) == pytest.approx(1e-4) and 9e-4 < log.at(0.999999) <= 1e-3
    assert [whole.at(u) for u in (0.0, 0.26, 0.51, 0.76, 0.999999)] == [1, 2, 3, 4, 4]
    assert [ranges.Range("choice", ("a", "b")).at(u) for u in (0.49, 0.5)] == ["a", "b"]
    many = [ranges.drawn({"x": log}, seed=0, method="m", trial=t)["x"] for t in range(1, 401)]
    assert 0.4 < sum(value < 1e-4 for value in many) / len(many) < 0.6


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("ranges: {train.lr: {lgo: [1e-5, 1e-3]}}", "mine.yaml.*unknown range 'lgo'; did you mean log"),
        ("ranges: {train.lr: [1, 2]}", "expected one of log, uniform, integer, choice"),
        ("ranges: {train.lr: {log: [0.0, 1.0]}}", "above 0"),
        ("ranges: {train.lr: {uniform: [2.0, 1.0]}}", "low below high"),
        ("ranges: {train.epochs: {integer: [1.0, 2.5]}}", "whole numbers"),
        ("ranges: {train.lr: {choice: []}}", "expected a list of values"),
        ("ranges: {method.wti.mask_padding: {choice: [true]}}", "expected ranges that xpool has"),
        ("ranges: 3", "expected a mapping PATH: RANGE"),
        ("train: {lr: 3}", "has one section, `ranges`"),
    ],
)
def test_a_file_that_is_no_ranges_says_where_and_what(said: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(said)
    with pytest.raises(ConfigError, match=told):
        ranges.ranges_of("xpool", path)
