"""Two stores, one index: an encoder of whole clips finds the candidates, a method on another's frames ranks them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import hf_folders
import pytest
import torch
from synthetic import write_frames
from typer.testing import CliRunner

from tvr_cli.backbones import registry
from tvr_cli.cli import app
from tvr_cli.engine import scorers
from tvr_cli.engine.features.encode import encode_captions
from tvr_cli.stores.index.store import Index
from tvr_cli.workspace import Workspace

FIRST, THEN, VIDEOS = "foreign_backbone:Clips", "demo-tiny", 48
TWO = ("--first", FIRST, "--then", THEN)
SENTENCE = "a red square, then a yellow box"


def run(*words: str | Path | int) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def tvr(*words: str | Path | int) -> Any:
    done = run(*words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def refused(code: int, *words: str | Path | int) -> str:
    done = run(*words)
    assert done.exit_code == code, (done.exit_code, done.stderr)
    return str(done.stderr)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two") / "out"
    write_frames(out, videos=VIDEOS, num_frames=4, size=64)
    for backbone in (FIRST, THEN):
        tvr("precompute-features", "--backbone", backbone, "--dtype", "fp32", "-o", out)
    return out


@pytest.fixture(scope="module")
def indexed(made: Path) -> tuple[Path, Any]:
    return made, tvr("index", *TWO, "-o", made)


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out", ignore=shutil.ignore_patterns("index")))


def scores(out: Path, backbone: str, method: str, sentence: str = SENTENCE) -> torch.Tensor:
    """Score the sentence with every clip of one store, in the order of its clips."""
    store = Workspace.at(out).features_for(backbone)
    scorer = scorers.untrained(method, store).method
    text = encode_captions(registry.load(backbone), [sentence], store.word_plan, "none")
    return scorer.score(scorer.encode_text(text), scorer.encode_video(store.video()))[0]


def require_two_stages(hits: Any, out: Path, near: torch.Tensor, exact: torch.Tensor, width: int) -> None:
    """Require the best by `exact` of the `width` best by `near`; clips that look alike may stand for each other."""
    candidates = near.topk(width)
    best = exact[candidates.indices].topk(len(hits)).values.tolist()
    assert [hit["score"] for hit in hits] == pytest.approx(best, abs=1e-4)
    row = {clip.file_id: i for i, clip in enumerate(Workspace.at(out).features_for(THEN).clips)}
    assert all(near[row[hit["video_id"]]] >= candidates.values[-1] - 1e-5 for hit in hits)
    assert [hit["score"] for hit in hits] == pytest.approx([float(exact[row[h["video_id"]]]) for h in hits], abs=1e-4)


def test_candidates_are_the_firsts_and_the_order_is_the_seconds(indexed: tuple[Path, Any]) -> None:
    out, _ = indexed
    near, exact = scores(out, FIRST, "one_vector"), scores(out, THEN, "text_guided")
    for width in (5, 9):
        words = ("query", SENTENCE, "-k", 5, "--all", "--shortlist", width, "--first", FIRST, "--index", out)
        require_two_stages(tvr(*words)["results"][0]["hits"], out, near, exact, width)
    every = tvr("query", SENTENCE, "-k", 5, "--all", "--exhaustive", "--first", FIRST, "--index", out)["results"][0][
        "hits"
    ]
    assert [hit["score"] for hit in every] == pytest.approx(exact.topk(5).values.tolist(), abs=1e-4)


def test_recall_against_every_clip_is_measured_printed_and_kept(indexed: tuple[Path, Any]) -> None:
    out, report = indexed
    assert report["first"] == FIRST and report["backbone"] == THEN and report["method"] == "text_guided"
    assert report["search"]["first"] == "coarse" and 20 <= report["search"]["shortlist"] <= VIDEOS
    recall = report["recall"]
    assert recall["sentences"] >= 12 and recall["of"] == "captions" and recall["clips"] == VIDEOS
    assert 0 < recall["at"]["1"] <= 1 and recall["at"]["10"] > 0.9
    kept = tvr("info", out / "index")
    assert kept["recall"] == recall and kept["identity"]["first"]["backbone"] == FIRST
    again = run("index", *TWO, "-o", out)
    assert again.exit_code == 0 and "up to date:" in again.stdout
    assert f"with text_guided, candidates by {FIRST}" in again.stdout and "recall@10" in again.stdout


@pytest.mark.parametrize("method", ["mean", "text_guided"])
def test_any_method_on_the_second_store_ranks(workspace: Path, method: str) -> None:
    assert tvr("index", *TWO, "--method", method, "-o", workspace)["method"] == method
    index = Index.open(workspace / "index")
    first = Workspace.at(workspace).features_for(FIRST).video().pooled
    assert first is not None and index.identity["first"]["method"] == "one_vector"
    vectors = torch.nn.functional.normalize(first, dim=-1)
    assert torch.equal(index.candidates(vectors[7:8], 1)[0], torch.tensor([7]))
    tvr("query", SENTENCE, "--first", FIRST, "--index", workspace)
    alone = tvr("index", "--method", method, "--backbone", THEN, "-o", workspace)
    assert alone["built"] and alone["first"] is None and "first" not in Index.open(workspace / "index").identity


def test_a_store_of_frames_gives_candidates_by_its_mean(workspace: Path) -> None:
    tvr("precompute-features", "--backbone", "foreign_backbone:Backbone", "-o", workspace)
    report = tvr("index", "--first", "foreign_backbone:Backbone", "--then", THEN, "-o", workspace)
    assert report["first"] == "foreign_backbone:Backbone"
    assert Index.open(workspace / "index").identity["first"]["method"] == "mean"


def test_a_missing_store_is_named_with_the_command_that_makes_it(workspace: Path) -> None:
    absent = "foreign_backbone:ClipsAndFrames"
    for two in ((absent, THEN), (FIRST, absent)):
        said = refused(3, "index", "--first", two[0], "--then", two[1], "-o", workspace)
        assert f"made by {absent}, found none; run: tvr precompute-features --backbone {absent} -o {workspace}" in said
    assert not (workspace / "index").exists()


def test_stores_of_different_clips_are_refused_with_their_number(workspace: Path) -> None:
    write_frames(workspace, videos=VIDEOS + 2, num_frames=4, size=64)
    tvr("precompute-features", "--backbone", THEN, "-o", workspace)
    said = refused(3, "index", *TWO, "-o", workspace)
    assert f"0 clips are only among the features of {FIRST}, 2 only among those of {THEN}" in said
    assert f"tvr precompute-features --backbone {FIRST} -o {workspace}" in said
    assert not (workspace / "index").exists()


def test_flags_that_do_not_go_together_are_refused(workspace: Path) -> None:
    for words in (("--first", FIRST), ("--then", THEN), (*TWO, "--backbone", FIRST)):
        assert "--first and --then go together" in refused(2, "index", *words, "-o", workspace)
    assert "name two backbones" in refused(2, "index", "--first", THEN, "--then", THEN, "-o", workspace)


def test_a_query_names_somebody_elses_first_backbone_and_no_other(indexed: tuple[Path, Any]) -> None:
    out, _ = indexed
    assert FIRST in refused(3, "query", SENTENCE, "--index", out)
    said = refused(3, "query", SENTENCE, "--first", "foreign_backbone:Backbone", "--index", out)
    assert f"was made with first {FIRST!r}, but --first asks for 'foreign_backbone:Backbone'" in said


def test_new_videos_are_found_in_an_index_of_two_stores(workspace: Path) -> None:
    tvr("index", *TWO, "-o", workspace)
    write_frames(workspace, videos=VIDEOS + 1, num_frames=4, size=64)
    words = ("query", SENTENCE, "-k", VIDEOS + 1, "--all", "--exhaustive", "--first", FIRST, "--index", workspace)
    found = {hit["video_id"] for hit in tvr(*words)["results"][0]["hits"]}
    assert f"v{VIDEOS}.mp4" in found


def test_videoprism_finds_and_demo_tiny_ranks(tmp_path: Path) -> None:
    """A model of the real class, in small and with random weights: four frames of 36 pixels, squashed."""
    pytest.importorskip("transformers")
    out, prism = tmp_path / "out", f"local:{hf_folders.videoprism(tmp_path / 'prism')}"
    write_frames(out, videos=24, num_frames=4, size=64, fit="whole")
    for backbone in (prism, THEN):
        tvr("precompute-features", "--backbone", backbone, "--dtype", "fp32", "-o", out)
    first = Workspace.at(out).features_for(prism)
    assert {"frames", "video.pooled"} <= first.provides and first.norms["video.pooled"] == pytest.approx(1, abs=1e-4)
    report = tvr("index", "--first", prism, "--then", THEN, "-o", out)
    assert (report["first"], report["recall"]["clips"]) == (prism, 24) and report["recall"]["sentences"] >= 12
    sentence = "a red circle on the wave"
    near, exact = scores(out, prism, "one_vector", sentence), scores(out, THEN, "text_guided", sentence)
    hits = tvr("query", sentence, "-k", 3, "--all", "--shortlist", 6, "--index", out)["results"][0]["hits"]
    require_two_stages(hits, out, near, exact, 6)
    best = exact.topk(3).values.tolist()
    assert [hit["score"] for hit in hits] != pytest.approx(best, abs=1e-4)  # the candidates are another encoder's
