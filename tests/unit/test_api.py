"""`tvr_cli.open_workspace`: what a verb returns, what it refuses, who is told, and that nothing is printed."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import tvr_cli
from tvr_cli import api, log
from tvr_cli.api import OpenWorkspace
from tvr_cli.cli import app
from tvr_cli.config import FramesConfig
from tvr_cli.data.demo_world.corpus import WorldOptions, make
from tvr_cli.engine.evaluation.evaluate_result import EvaluatePreview, EvaluateReport
from tvr_cli.engine.extraction.estimate import ExtractEstimate
from tvr_cli.engine.extraction.extract import ExtractReport
from tvr_cli.engine.features.precompute import PrecomputePreview, PrecomputeReport
from tvr_cli.engine.training.train_result import SeedsPreview, SeedsReport, TrainPreview, TrainSummary
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.plans import AskedFrames, FramePlan
from tvr_cli.types import Look, View

pytestmark = pytest.mark.usefixtures("warm_readers")


@pytest.fixture(autouse=True)
def no_command_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program that uses tvr as a library: nobody gave the logger a handler."""
    monkeypatch.setattr(log.logger, "handlers", [])


SMALL = {"epochs": 1, "batch_size": 4, "threads": 1}


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api-world")
    make(folder, WorldOptions(train=6, val=3, test=4, captions=1))
    return folder


@pytest.fixture(scope="session")
def made(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with frames and features."""
    root = tmp_path_factory.mktemp("api") / "out"
    out = tvr_cli.open_workspace(root)
    assert isinstance(out.extract(videos, size=64, workers=1), ExtractReport)
    assert isinstance(out.features(backbone="demo-tiny"), PrecomputeReport)
    return root


@pytest.fixture
def out(made: Path, tmp_path: Path) -> OpenWorkspace:
    return tvr_cli.open_workspace(shutil.copytree(made, tmp_path / "out"))


def test_importing_and_opening_load_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, tvr_cli; out = tvr_cli.open_workspace('out'); assert out.root.name == 'out'; "
        "assert 'torch' not in sys.modules and 'av' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())  # the folder is made by the first verb that writes


def test_every_verb_returns_its_result_and_prints_nothing(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tvr_cli.open_workspace(str(tmp_path / "out"))
    assert isinstance(out.extract(str(videos), size=64, workers=1, dry_run=True), ExtractEstimate)
    assert not out.root.exists()
    frames = out.extract([str(videos)], size=64, workers=1)
    assert isinstance(frames, ExtractReport) and (frames.ok, frames.failed) == (13, 0)
    assert isinstance(out.features(backbone="demo-tiny", dry_run=True), PrecomputePreview)
    features = out.features(backbone="demo-tiny")
    assert isinstance(features, PrecomputeReport) and features.clips.encoded == 13
    plan = out.train("glccl", dry_run=True, **SMALL)  # type: ignore[arg-type]
    assert isinstance(plan, TrainPreview) and plan.pairs == 6
    summary = out.train("glccl", set="train.schedule=constant", **SMALL)  # type: ignore[arg-type]
    assert isinstance(summary, TrainSummary) and summary.run == "glccl"
    assert isinstance(out.evaluate(dry_run=True), EvaluatePreview)
    result = out.evaluate()
    assert isinstance(result, EvaluateReport) and result.subject.run == "glccl"
    seeds = out.train_seeds([0], "glccl", **SMALL)  # type: ignore[arg-type]
    assert isinstance(seeds, SeedsReport) and [row.run for row in seeds.runs] == ["glccl-seed0"]
    planned = out.train_seeds("0, 1", "glccl", dry_run=True, **SMALL)  # type: ignore[arg-type]
    assert isinstance(planned, SeedsPreview) and [row.begun for row in planned.runs] == [True, False]
    assert not out.index(method="mean", dry_run=True).built
    assert out.index(method="mean").built
    assert [len(a.hits) for a in out.search(["a circle", "a square"], k=2, min_confidence=None).results] == [2, 2]
    assert [a.query for a in out.search("a circle").results] == ["a circle"]
    assert capsys.readouterr() == ("", "")


def test_a_verb_gives_what_its_command_prints(out: OpenWorkspace) -> None:
    words = ["evaluate", "--method", "mean", "--split", "val", "-o", str(out.root), "--json"]
    printed = json.loads(CliRunner().invoke(app, words).stdout)
    mine = json.loads(json.dumps(out.evaluate(method="mean", split="val").to_json(), default=str))
    for both in (printed, mine):
        both.pop("cost")  # seconds
    assert mine == printed


def test_progress_goes_to_the_callback_with_beginning_and_end(made: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    root = shutil.copytree(made, tmp_path / "out")
    out = tvr_cli.open_workspace(root, progress=lambda *told: seen.append(told))
    out.index(method="mean")
    assert seen == [("indexing", 0, 13), ("indexing", 13, 13)]


def test_a_watcher_hears_of_its_own_verbs_only(out: OpenWorkspace) -> None:
    seen: list[str] = []
    watched = tvr_cli.open_workspace(out.root, progress=lambda what, *_: seen.append(what))
    out.index(method="mean")
    assert seen == []
    watched.index(method="mean", overwrite=True)
    out.index(method="mean", overwrite=True)
    assert seen == ["indexing", "indexing"]


def test_an_error_of_the_callback_ends_the_verb_and_the_watching(out: OpenWorkspace) -> None:
    def stop(*_: object) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        tvr_cli.open_workspace(out.root, progress=stop).index(method="mean")
    assert out.index(method="mean").built


def test_a_watcher_is_told_instead_of_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(log._state, "bars", True)
    seen: list[object] = []
    with log.watched(lambda *told: seen.append(told)), log.progress("counting", total=3, unit="things") as bar:
        bar.advance(2, note="a")
        bar.advance()
    assert seen == [("counting", 0, 3), ("counting", 2, 3), ("counting", 3, 3)]
    assert capsys.readouterr() == ("", "")


def test_a_warning_is_said_once_a_verb_and_counted_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(log.logger, "warning", lambda message, *values: said.append(message % values))
    log.finish()
    said.clear()
    for _ in range(2):
        with log.watched(None):
            for _ in range(3):
                log.warn_once("odd")
    assert said == ["warning: odd", "warning: (3 times) odd"] * 2


REFUSED: dict[str, tuple[Callable[[OpenWorkspace], object], str]] = {
    "extract without videos": (lambda o: o.extract(), "name the videos"),
    "extract of videos and data": (lambda o: o.extract("videos", data="msrvtt:x"), "name the videos"),
    "extract with a shard in words": (lambda o: o.extract("videos", shard="first"), "expected I/N"),
    "extract of no frames": (lambda o: o.extract("videos", num_frames=0), "--num-frames: expected 1 or more, found 0"),
    "extract of no pixels": (lambda o: o.extract("videos", size=0), "--size: expected 16"),
    "extract without workers": (lambda o: o.extract("videos", workers=0), "--workers: expected 1 or more, found 0"),
    "extract in no time": (lambda o: o.extract("videos", timeout=float("nan")), "--timeout: expected 0.1 or more"),
    "dry repair of frames": (lambda o: o.extract(repair="all", dry_run=True), "--repair has no dry run"),
    "dry repair of features": (lambda o: o.features(repair="all", dry_run=True), "--repair has no dry run"),
    "features of an unknown type": (lambda o: o.features(dtype="fp61"), "did you mean fp16"),
    "features of two corpora": (lambda o: o.features(captions="a", data="b:c"), "give --captions or --data"),
    "features in batches of none": (lambda o: o.features(batch=0), "--batch: expected 1 or more, found 0"),
    "train for no epoch": (lambda o: o.train("glccl", epochs=0), "--epochs: expected 1 or more, found 0"),
    "train with half a budget": (lambda o: o.train("glccl", memory_budget="half"), "expected a size like 512MB"),
    "train of no seed": (lambda o: o.train_seeds([], "glccl"), "--seeds: expected whole numbers"),
    "train of a negative seed": (lambda o: o.train_seeds([-1], "glccl"), "--seeds: expected whole numbers"),
    "evaluate an unknown split": (lambda o: o.evaluate(split="tests"), "did you mean test"),
    "evaluate no draw": (lambda o: o.evaluate(noise_seeds=0), "--noise-seeds: expected 1 or more, found 0"),
    "evaluate with an unknown row": (lambda o: o.evaluate(post="dls"), "did you mean dsl"),
    "search for nothing": (lambda o: o.search([]), "expected a sentence"),
    "search for a blank": (lambda o: o.search(["a dog", " "]), "expected a sentence"),
    "search for no hits": (lambda o: o.search("a dog", k=0), "-k: expected 1 or more, found 0"),
    "search above no number": (lambda o: o.search("a dog", min_score=float("nan")), "found nan"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_verb_can_do_is_refused_in_one_sentence(what: str, tmp_path: Path) -> None:
    call, sentence = REFUSED[what]
    with pytest.raises(ConfigError, match=sentence):
        call(tvr_cli.open_workspace(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="expected a workspace"):
        tvr_cli.open_workspace(tmp_path / "out")


@pytest.mark.parametrize("command", ["extract-frames", "precompute-features"])
def test_a_repair_that_is_only_tried_writes_nothing(command: str, out: OpenWorkspace) -> None:
    shard = next(out.root.glob("f*/**/*.safetensors" if command == "precompute-features" else "frames/**/*.tar"), None)
    name = "all" if shard is None else shard.name
    before = {path: path.stat().st_mtime_ns for path in out.root.rglob("*")}
    done = CliRunner().invoke(app, [command, "--repair", name, "--dry-run", "-o", str(out.root)])
    assert done.exit_code == 2 and "--repair has no dry run" in done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in out.root.rglob("*")}


def test_a_flag_goes_before_the_plan_of_a_data_set() -> None:
    uniform = FramesConfig(kind="uniform", num_frames=64, size=192)
    rate = FramesConfig(kind="fps", fps=1.0, max_frames=12)
    assert AskedFrames().plan(FramesConfig()) == FramePlan()
    assert AskedFrames().plan(uniform) == FramePlan(num_frames=64, size=192)
    assert AskedFrames().plan(rate) == FramePlan("fps", fps=1.0, max_frames=12)
    assert AskedFrames(max_frames=8).plan(rate) == FramePlan("fps", fps=1.0, max_frames=8)
    assert AskedFrames(num_frames=8, size=64).plan(rate) == FramePlan(num_frames=8, size=64)
    assert AskedFrames(fps=2.0).plan(rate) == FramePlan("fps", fps=2.0)
    assert AskedFrames(quality=50).plan(FramesConfig()) == FramePlan(quality=50)


def whole(size: int, look: Look = "shown") -> FramePlan:
    return FramePlan(size=size, fit="whole", short_side=size, look=look)


def test_pictures_of_ones_own_are_kept_whole_and_those_of_a_data_set_as_papers_cropped_them() -> None:
    preset, squash, small = FramesConfig(size=224), View(384, "squash", "bilinear"), View(32)
    assert AskedFrames(num_frames=12).plan() == whole(224)
    assert AskedFrames(num_frames=12, size=64).plan() == whole(64)
    assert AskedFrames(num_frames=12, view=squash).plan() == whole(384)
    assert AskedFrames(view=squash).plan(preset) == whole(384, "coded")
    assert AskedFrames(num_frames=12, view=small).plan() == whole(224)  # what is whole serves others as well
    assert AskedFrames(num_frames=12, view=squash, fit="squash").plan() == FramePlan(
        size=384, fit="squash", filter="bilinear", look="shown"
    )
    assert AskedFrames(num_frames=12, view=small, fit="crop").plan() == FramePlan(size=32, look="shown")
    assert AskedFrames(fit="whole").plan(preset) == whole(224, "coded")
    assert AskedFrames(num_frames=12, fit="crop").plan() == FramePlan(look="shown")


def test_frames_that_are_there_go_on_as_they_are() -> None:
    old = FramePlan(size=64, num_frames=4)
    assert AskedFrames().plan(there=old) == old
    assert AskedFrames(size=96).plan(there=old) == FramePlan(size=96, num_frames=4)
    assert AskedFrames().plan(there=whole(384)) == whole(384)
    assert AskedFrames(fit="whole", num_frames=12).plan(there=old) == whole(224, "coded")
    assert AskedFrames().plan(FramesConfig(size=224), there=whole(384)) == FramePlan()


def test_a_largest_number_of_frames_is_refused_where_the_plan_has_no_rate() -> None:
    for preset in (None, FramesConfig(kind="uniform", num_frames=12)):
        with pytest.raises(ConfigError, match="--max-frames goes with --fps"):
            AskedFrames(max_frames=8).plan(preset)
    with pytest.raises(ConfigError, match="two ways"):
        AskedFrames(num_frames=8, fps=1.0).plan()


def test_a_score_file_is_judged_without_a_workspace(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", scores=np.eye(3, dtype=np.float32), video_of_caption=np.arange(3))
    report = api.judge_scores(str(tmp_path / "s.npz"), post="dsl")
    assert report.judged.t2v["R@1"] == 100.0
    assert any(line.startswith("v2t protocol") for line in api.protocol_card(report))


# What a method calls otherwise than its command: a flag that is no part of the work, or a word that Python reserves.
NAMES = {
    "assignments": "set",
    "config_file": "config",
    "counting": "metrics",
    "words": "word_shape",
    "text": "sentences",
}
OF_THE_COMMAND = {
    "workspace",
    "as_json",
    "allow_failures",
    "protocol_card",
    "scores",
    "paths",
    "null",
    "more",
    "scores_about",
    "verbose",
}
# What writes an answer takes the answer: `save_clips`, `export`, `page`.
OF_WHAT_IS_WRITTEN = {
    "query": {
        "save_clips",
        "pad",
        "export",
        "html",
        "overwrite",
        "dry_run",
        "show_all",
    },  # the last is min_confidence=None
    "train": {"moments", "seeds"},  # verbs of their own
    "table": {"as_latex", "as_csv"},
}
OF_THE_METHOD = {"again", "curves"}
SAID_OTHERWISE = {"min_confidence"}  # None in the command, which refuses one beside --all


@pytest.mark.parametrize(
    ("command", "verb"),
    [
        ("extract-frames", OpenWorkspace.extract),
        ("precompute-features", OpenWorkspace.features),
        ("train", OpenWorkspace.train),
        ("evaluate", OpenWorkspace.evaluate),
        ("index", OpenWorkspace.index),
        ("query", OpenWorkspace.search),
        ("sweep", OpenWorkspace.sweep),
        ("table", OpenWorkspace.table),
    ],
)
def test_a_method_takes_the_flags_of_its_command_with_their_defaults(command: str, verb: Callable[..., object]) -> None:
    flags = {NAMES.get(str(p.name), p.name): p for p in typer.main.get_command(app).commands[command].params}  # type: ignore[attr-defined]
    taken = dict(list(inspect.signature(verb).parameters.items())[1:])
    assert set(taken) - OF_THE_METHOD == set(flags) - OF_THE_COMMAND - OF_WHAT_IS_WRITTEN.get(command, set())
    for name in set(taken) & set(flags):
        default = taken[name].default
        if default not in ((), inspect.Parameter.empty) and name not in SAID_OTHERWISE:
            assert default == flags[name].default, name
