"""A moment head: closed form, what it is kept as, which one fits, and answers that only it can give."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from tvr_cli.cli import app
from tvr_cli.data.demo_world import encode, grammar, render
from tvr_cli.engine.searching import (
    cells,
    head_confidence,
    head_examples,
    head_training,
    heads,
    light,
    ranking,
)
from tvr_cli.engine.searching import session as sessions
from tvr_cli.engine.searching.asked import Asked
from tvr_cli.engine.searching.hits import HeadWish, SearchOptions
from tvr_cli.engine.searching.session import Session
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.stores.moment_head import MadeFor, MomentHead
from tvr_cli.workspace import Workspace

DIM = 6
MADE_FOR = MadeFor("toy", {"name": "toy", "weights": "0"}, 32, 4.0)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Spans [n, 4, D] and what is said of them [n, D]."""
    draw = np.random.default_rng(seed)
    return unit(draw.standard_normal((n, 4, DIM))), unit(draw.standard_normal((n, DIM)))


def a_head(seed: int = 0) -> MomentHead:
    pieces, said = drawn(50, seed)
    weights, mean = head_training.fit(iter([(pieces, np.arange(50))]), said)
    return MomentHead(weights, mean, MADE_FOR, moments=50, videos=5, seed=0, store="0" * 16)


def films(shown: list[list[int]], name: str = "segment") -> SimpleNamespace:
    """A segment of an index with a film of four frames a second, each of an axis; a list of frames is a moment."""
    frames = np.eye(DIM, dtype=np.float16)[[axis for one in shown for axis in one]]
    starts = np.cumsum([0, *map(len, shown)])
    moment = np.stack([starts[:-1], starts[1:]], 1).astype(np.int32)
    ts = np.arange(len(frames)) / 4
    means = np.stack([frames[a:b].astype(np.float32).mean(0) for a, b in moment])
    parts = {
        "frames": frames, "ts": ts, "until": ts + 0.25, "moment": moment,
        "length": np.linalg.norm(means, axis=1), "null": np.zeros(len(moment), np.float32),
    }  # fmt: skip
    return SimpleNamespace(
        array=parts.__getitem__, live=np.ones(len(moment), bool), segment=SimpleNamespace(sha256=name)
    )


def with_torch(part: SimpleNamespace, queries: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    frames = torch.from_numpy(part.array("frames")[slice(None) if rows is None else rows])
    return (torch.from_numpy(queries) @ frames.float().T).numpy()


# --------------------------------------------------------------------------------------------------------- closed form


def test_the_closed_form_is_least_squares_with_rows_of_the_ridge():
    pieces, said = drawn(40)
    many, number = np.repeat(pieces, head_examples.DRAWS, 0), np.repeat(np.arange(40), head_examples.DRAWS)
    parts = [(many[:70], number[:70]), (many[70:], number[70:])]
    weights, mean = head_training.fit(iter(parts), said)
    assert mean == pytest.approx(said.mean(0), abs=1e-6)
    rows = torch.cat([torch.from_numpy(pieces.reshape(40, -1)).double(), torch.eye(4 * DIM, dtype=torch.float64)])
    wanted = torch.cat([torch.from_numpy(said - mean).double(), torch.zeros(4 * DIM, DIM, dtype=torch.float64)])
    expected = torch.linalg.lstsq(rows, wanted).solution.numpy()
    assert weights.reshape(-1, DIM) == pytest.approx(expected, abs=1e-6)


def test_the_order_of_captions_changes_nothing():
    pieces, said = drawn(40)
    order = np.random.default_rng(1).permutation(40)
    one = head_training.fit(iter([(pieces, np.arange(40))]), said)
    other = head_training.fit(iter([(pieces[order], np.arange(40))]), said[order])
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def test_a_rotation_of_all_features_turns_the_head_with_them():
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((DIM, DIM)))[0].astype(np.float32)
    pieces, said = drawn(40)
    weights, mean = head_training.fit(iter([(pieces, np.arange(40))]), said)
    turned, turned_mean = head_training.fit(iter([(pieces @ turn, np.arange(40))]), said @ turn)
    assert turned_mean == pytest.approx(mean @ turn, abs=1e-5)
    assert turned == pytest.approx(turn.T @ weights @ turn, abs=1e-4)


def test_a_span_is_seen_by_its_mean_and_the_frames_of_its_thirds():
    ts = np.array([0.0, 1.0, 1.5, 2.0])
    track = cells.Track(np.eye(4, dtype=np.float32), ts, np.append(ts[1:], 3.0), np.zeros(4, bool), ts)
    found = head_examples.pieces_of(track, 0.0, 3.0)
    assert found[0] == pytest.approx(np.array([1, 0.5, 0.5, 1]) / 3)
    assert found[1:].argmax(1).tolist() == [0, 2, 3]  # on screen at 0.5, 1.5 and 2.5 s
    assert head_examples.pieces_of(track, 1.2, 1.4)[:, 1] == pytest.approx(1)
    assert head_examples.pieces_of(track, 2.9, 9.0)[:, 3] == pytest.approx(1)  # cut at the end of the film


# ------------------------------------------------------------------------------------------------------------- ranking


def test_only_a_head_tells_a_motion_from_its_reverse():
    there, back = [0, 1, 2], [2, 1, 0]
    said = unit(np.eye(DIM)[[3, 4]] + 0.1)
    seen = np.stack([np.concatenate([np.eye(DIM)[one].mean(0)[None], np.eye(DIM)[one]]) for one in (there, back)])
    weights, mean = head_training.fit(iter([(np.repeat(seen, 20, 0), np.repeat([0, 1], 20))]), said)
    head = MomentHead(weights, mean, MADE_FOR, moments=2, videos=1, seed=0, store="")
    part = films([there, back, there, [5, 5]], "toy")
    without = ranking.Compared().scores(part, said)
    assert without[0, 0] == pytest.approx(without[0, 1]) and without[1, 0] == pytest.approx(without[1, 1])
    with np.errstate(all="ignore"):
        scores = ranking.ByHead(head).scores(part, said)
    assert np.isnan(scores[:, 3]).all()  # nothing is read from what it never saw
    assert scores[0, 0] == pytest.approx(scores[0, 2])
    assert scores[0, 0] > 0.9 > 0 > scores[0, 1] and scores[1, 1] > 0.9 > 0 > scores[1, 0]


def test_all_moments_and_some_numpy_and_torch_score_alike():
    draw = np.random.default_rng(3)
    part = films([draw.integers(0, DIM, n).tolist() for n in (3, 1, 4, 2, 7)], "alike")
    said, head = unit(draw.standard_normal((3, DIM))), a_head()
    plain = ranking.ByHead(head).scores(part, said)
    assert ranking.ByHead(head, with_torch).scores(part, said) == pytest.approx(plain, abs=1e-5)
    for query, row in zip(said, plain, strict=True):
        some = np.array([1, 2, 4])
        assert ranking.ByHead(head).some(part, some, query) == pytest.approx(row[some], abs=1e-5)


def large(monkeypatch: pytest.MonkeyPatch, least: int) -> tuple[SimpleNamespace, np.ndarray, np.ndarray]:
    """A segment of more moments than are all scored, sentences, and what they would score. least: that are scored."""
    draw = np.random.default_rng(13)
    part = films([draw.integers(0, DIM, n).tolist() for n in draw.integers(1, 6, 60)], "large")
    said = unit(draw.standard_normal((4, DIM)))
    exact = ranking.ByHead(a_head()).scores(part, said)
    monkeypatch.setattr(ranking, "_ALL", 20)
    monkeypatch.setattr(ranking, "_LEAST", least)
    return part, said, exact


@pytest.mark.parametrize("products", [ranking.products, with_torch])
def test_of_many_moments_those_are_scored_that_are_best_if_each_frame_were_the_mean(monkeypatch, products):
    part, said, exact = large(monkeypatch, 15)
    head = a_head()
    scores = ranking.ByHead(head, products).scores(part, said)
    less = unit(said - head.mean)
    frames = np.eye(DIM)[part.array("frames").argmax(1)]
    means = np.stack([frames[a:b].mean(0) for a, b in part.array("moment")])
    rough = less @ (means @ head.weights.sum(0)).T / ranking._lengths(part, head)
    for found, wanted, one in zip(scores, exact, rough, strict=True):
        best, rest = np.argsort(-one)[:15], np.argsort(-one)[15:]
        assert found[best] == pytest.approx(wanted[best], abs=1e-5)
        assert found[rest].max() <= found[best].min() + 1e-6
        assert np.diff(found[rest]) == pytest.approx(np.diff(one[rest]), abs=1e-5)


def test_of_many_moments_only_those_are_scored_that_an_answer_may_be_of(monkeypatch):
    part, said, exact = large(monkeypatch, 15)
    among = np.zeros(60, bool)
    among[[3, 20, 31, 59]] = True
    scores = ranking.ByHead(a_head()).scores(part, said, among)
    assert scores[:, among] == pytest.approx(exact[:, among], abs=1e-5)
    nothing = ranking.ByHead(a_head()).scores(part, said, np.zeros(60, bool))
    assert nothing.shape == exact.shape


@pytest.mark.parametrize("sentences", [1, 3, 4, 9])
@pytest.mark.parametrize("rows", [None, np.array([0, 1, 5, 1500, 2047, 2048, 2099])])
def test_products_of_a_session_are_those_of_numpy(sentences, rows):
    draw = np.random.default_rng(17)
    frames = draw.standard_normal((2100, 16)).astype(np.float16)  # more than are widened at a time
    part = SimpleNamespace(array={"frames": frames}.__getitem__, segment={"timeline.frames": torch.from_numpy(frames)})
    said = unit(draw.standard_normal((sentences, 16)))
    found = sessions.products(part, said, rows)
    assert found.shape == (sentences, 2100 if rows is None else 7)
    assert found == pytest.approx(ranking.products(part, said, rows), abs=1e-5)
    assert found == pytest.approx(said @ frames[slice(None) if rows is None else rows].astype(np.float32).T, abs=1e-5)


def test_a_score_is_the_cosine_of_what_the_head_reads_and_what_is_said():
    shown, head = [[0, 1, 2, 3], [4, 4], [5]], a_head(4)
    part, said = films(shown, "cosine"), drawn(2, 5)[1]
    eye = np.eye(DIM)
    middles = ([0, 2, 3], [0, 1, 1], [0, 0, 0])
    pieces = [np.stack([eye[one].mean(0), *eye[np.array(one)[at]]]) for one, at in zip(shown, middles, strict=True)]
    read = unit(np.einsum("mid,idk->mk", np.stack(pieces), head.weights))
    assert ranking.ByHead(head).scores(part, said) == pytest.approx(unit(said - head.mean) @ read.T, abs=1e-5)


def test_a_frame_alone_is_read_as_a_moment_that_shows_nothing_else():
    part, head, said = films([[axis] for axis in (0, 3, 1, 5)], "frames"), a_head(8), drawn(1, 9)[1]
    alone = ranking.ByHead(head).frames(part, slice(0, 4), said[0])
    assert alone == pytest.approx(ranking.ByHead(head).scores(part, said)[0], abs=1e-5)


def test_the_lengths_are_worked_through_in_parts_and_remembered(monkeypatch):
    draw = np.random.default_rng(6)
    part, head = films([draw.integers(0, DIM, 3).tolist() for _ in range(20)], "parts"), a_head()
    whole = ranking._lengths(part, head)
    with monkeypatch.context() as patch:
        patch.setattr(ranking, "_ROWS", 7)
        assert ranking._lengths(part, head) == pytest.approx(whole, abs=1e-6)
    said = drawn(1, 7)[1]
    scores = ranking.ByHead(head).scores(part, said)
    monkeypatch.setattr(ranking, "_lengths", lambda *_: pytest.fail("computed again"))
    assert ranking.ByHead(head).scores(part, said).tolist() == scores.tolist()


# ------------------------------------------------------------------------------------------------------ how sure it is


def motions(n: int = 12) -> tuple[SimpleNamespace, MomentHead, np.ndarray]:
    """A film of n motions, each through frames of its own, a head that knows them and their reverses, and what is said
    of all 2 n: those that the film has come first.
    """
    draw, dim = np.random.default_rng(0), 32
    looks = unit(draw.standard_normal((n, 3, dim)))
    pieces = np.stack([np.concatenate([one.mean(0)[None], one]) for one in (*looks, *looks[:, ::-1])])
    said = unit(draw.standard_normal((2 * n, dim)))
    weights, mean = head_training.fit(iter([(np.repeat(pieces, 30, 0), np.repeat(np.arange(2 * n), 30))]), said)
    shown = np.repeat(looks, 4, 0).reshape(-1, dim)
    ts, first = np.arange(len(shown)) / 4, np.arange(0, len(shown), 3, dtype=np.int32)
    parts = {
        "frames": shown.astype(np.float16),
        "ts": ts,
        "until": ts + 0.25,
        "moment": np.stack([first, first + 3], 1),
    }
    part = SimpleNamespace(
        array=parts.__getitem__, live=np.ones(len(first), bool), segment=SimpleNamespace(sha256="motions")
    )
    return part, MomentHead(weights, mean, MADE_FOR, moments=2 * n, videos=1, seed=0, store=""), said


def test_the_lines_of_a_head_refuse_a_motion_that_is_reversed_and_are_found_out_once(monkeypatch):
    part, head, said = motions()
    strange = unit(np.random.default_rng(1).standard_normal((30, 32)))
    known = head_confidence.found([part], head, "bank", lambda: (said, strange))
    assert known.lines.why is None and known.lines.moments == 48 and known.lines.sentences == 24
    scores = ranking.ByHead(head).scores(part, said)
    sure = [known.of(part, int(row.argmax()), query) for row, query in zip(scores, said, strict=True)]
    assert min(sure[:12]) >= 0.95 and sum(one >= 0.95 for one in sure[12:]) <= 2  # of the bank one in twenty gets over
    monkeypatch.setattr(head_confidence, "_lines", lambda *_: pytest.fail("found out again"))
    again = head_confidence.found([part], head, "bank", lambda: pytest.fail("encoded again"))
    assert again.lines == known.lines
    part.live[:] = np.arange(48) % 2 == 0  # other moments are other lines
    assert head_confidence.recalled([part], head, "bank") is None


def test_how_much_is_read_is_one_for_all_of_it_and_nothing_for_nothing():
    said = np.array([[0.0, 2.0], [0.5, 0.0]])
    read = np.array([[0.0, 2.0], [0.0, 0.0], [0.0, 1.0], [0.0, -2.0]])
    assert head_confidence.shares(read, said)[0] == pytest.approx([1, 0, 0.75, -3])
    assert head_confidence.shares(said, said).diagonal() == pytest.approx([1, 1])


# ------------------------------------------------------------------------------------------------------------ the file


def test_a_head_is_read_as_it_was_written(tmp_path):
    head = a_head()
    head.save(tmp_path / "head.safetensors")
    again = MomentHead.open(tmp_path / "head.safetensors")
    assert (again.weights == head.weights).all() and (again.mean == head.mean).all()
    assert again.made_for == head.made_for and (again.moments, again.videos, again.store) == (50, 5, "0" * 16)


def test_a_damaged_head_is_told_whichever_byte_it_is(tmp_path):
    path = tmp_path / "head.safetensors"
    a_head().save(path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], whole[:-3] + b"x" + whole[-2:], whole.replace(b"words", b"sword")):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="moment head"):
            MomentHead.open(path)
    path.write_bytes(whole.replace(b"moment-head@1", b"moment-head@9"))
    with pytest.raises(StoreMismatch, match="moment-head@9"):
        MomentHead.open(path)
    with pytest.raises(DataError, match="found none"):
        MomentHead.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (MADE_FOR, ""),
        (MadeFor("real", {"name": "real"}, 32, 4.0), "it was trained on toy, these features are of real"),
        (MadeFor("toy", {"name": "toy", "weights": "1"}, 32, 4.0), "other weights of toy"),
        (MadeFor("toy", MADE_FOR.identity, 16, 4.0), "it reads 32 tokens of a sentence, these features 16"),
        (MadeFor("toy", MADE_FOR.identity, 32, 1.0), "on 4 frames a second, these features have 1"),
    ],
)
def test_a_head_fits_its_encoder_and_rate_and_nothing_else(other, said):
    assert MADE_FOR.unlike(other) == "" if not said else said in MADE_FOR.unlike(other)


# ---------------------------------------------------------------------------------------------------------- end to end


def run(*words: object, code: int = 0) -> Result:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a film of 24 scenes of a second by time, captions with times, an index and no head."""
    folder = tmp_path_factory.mktemp("head")
    draw, said = grammar.Draw(3, unseen_pairs=False), Random(1)
    shown = [draw.scene([]) for _ in range(24)]
    lines = [
        {"video": "a.mp4", "caption": grammar.clause(said, scene), "start": i, "end": i + 1, "split": "train"}
        for i, scene in enumerate(shown)
    ]
    untimed = {"video": "a.mp4", "caption": "a film", "split": "train"}
    (folder / "films").mkdir()
    text = "".join(json.dumps(line) + "\n" for line in [*lines, untimed])
    (folder / "films" / "captions.jsonl").write_text(text)
    frames = [frame for scene in shown for frame in render.scene_frames(scene)]
    encode.write_video(folder / "films" / "a.mp4", frames, encoder=encode.find_encoder(), fps=render.FPS)
    run("extract-frames", folder / "films", "-o", folder / "out", "--fps", 4, "--size", 64, "--workers", 1)
    run("precompute-features", "-o", folder / "out", "--backbone", "demo-tiny")
    run("index", "-o", folder / "out")
    return folder / "out"


def sentences(out: Path) -> list[str]:
    store = Workspace(out).newest_features("demo-tiny")
    assert store is not None
    return [caption.text for caption in store.captions][:24]


@pytest.fixture(scope="module")
def headed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = Path(shutil.copytree(made, tmp_path_factory.mktemp("headed") / "out"))
    preview = json.loads(run("train", "--moments", "-o", out, "--dry-run", "--json").stdout)
    assert (preview["run"], preview["moments"], preview["videos"], preview["left_out"]) == ("moments", 24, 1, 1)
    assert not (out / "runs").exists()
    report = json.loads(run("train", "--moments", "-o", out, "--json").stdout)
    assert report["schema"] == "tvr/train-moments@1" and (report["moments"], report["held_out"]) == (24, None)
    assert sorted(path.name for path in (out / "runs" / "moments").iterdir() if path.name != ".lock") == [
        "env.json", "head.safetensors",
    ]  # fmt: skip
    return out


def begins(scene):
    """Where an event of one second is found to begin: between its first look, at its very beginning, and the last."""
    return max(0.0, scene - 0.125)


def test_a_query_uses_the_head_that_fits_and_both_ways_agree(headed):
    asked, options = sentences(headed)[:6], SearchOptions(k=4, per_file=0)
    answers = Session(Workspace(headed), Asked(backbone="demo-tiny"), offline=True).answer(asked, options)
    lightly = light.answer(Workspace(headed), Asked(backbone="demo-tiny"), asked, options)
    assert lightly is not None
    for one, other in zip(answers, lightly, strict=True):
        assert [(h.start, h.end, h.peak) for h in one] == [(h.start, h.end, h.peak) for h in other]
        assert [h.score for h in one] == pytest.approx([h.score for h in other], abs=1e-5)
        assert [h.confidence for h in one] == pytest.approx([h.confidence for h in other], abs=1e-3)
    assert all(-1 <= hit.score <= 1 for hits in answers for hit in hits)
    spans = [(hits[0].start, hits[0].end) for hits in answers]  # it has seen them, a second each: all have an IoU >= .6
    assert all(min(b, i + 1) - max(a, i) >= 0.6 * (max(b, i + 1) - min(a, i)) for i, (a, b) in enumerate(spans))
    said = run("query", asked[0], "-o", headed)
    assert said.stderr.count("moments are ranked by the head 'moments'") == 1
    assert "head" not in run("query", asked[0], "-o", headed, "--no-head").stderr


def test_a_window_of_a_method_that_scores_pairs_is_cut_by_the_head(headed, monkeypatch):
    monkeypatch.setattr(sessions, "_by_frames_alone", lambda scorer: False)
    asked = sentences(headed)[3:5]
    session = Session(Workspace(headed), Asked(backbone="demo-tiny"), offline=True)
    by_head, without = (session.answer(asked, SearchOptions(k=1, head=HeadWish(use=use))) for use in (True, False))
    assert [hits[0].start for hits in by_head] == [begins(3), begins(4)]
    assert all(hits[0].start <= hits[0].peak <= hits[0].end for hits in without)


def test_a_head_goes_to_another_workspace_by_its_path(made, headed, tmp_path):
    out = Path(shutil.copytree(made, tmp_path / "out"))
    asked = sentences(out)[7]
    named = headed / "runs" / "moments"
    there = json.loads(run("query", asked, "-o", out, "--run", named, "--json").stdout)
    hits = there["results"][0]["hits"] + there["results"][0]["nearest"]
    assert hits[0]["start"] == begins(7) and not (out / "runs").exists()
    assert "give one of them" in run("query", asked, "-o", out, "--run", named, "--no-head", code=2).stderr


def test_a_head_is_judged_by_moments_and_no_method_to_evaluate(headed, tmp_path):
    said = run("evaluate", "moments", "-o", headed, code=3).stderr
    assert "the run 'moments' is a moment head: it ranks moments by time" in said
    assert f"tvr moments --truth truth.jsonl --run moments -o {headed}" in said
    truth = headed.parent / "truth.jsonl"
    texts = sentences(headed)
    lines = [{"query": text, "video": "a.mp4", "start": i, "end": i + 1} for i, text in enumerate(texts)]
    once = [line for line in lines if texts.count(line["query"]) == 1]
    truth.write_text("".join(json.dumps(line) + "\n" for line in once))
    asked = ("moments", "--truth", truth, "-o", headed, "--method", "text_guided", "--all", "--json")
    values = [
        {one["name"]: one["value"] for one in json.loads(run(*asked, *flags).stdout)["measures"]}
        for flags in (("--run", "moments"), ("--no-head",))
    ]
    assert values[0]["R1@0.5"] > values[1]["R1@0.5"]
    assert "give one of them" in run(*asked, "--run", "moments", "--no-head", code=2).stderr


def test_a_head_that_is_named_is_refused_where_windows_are_ranked(made, headed, tmp_path):
    out = tmp_path / "out"
    run("extract-frames", made.parent / "films", "-o", out, "--num-frames", 4, "--size", 64, "--workers", 1)
    run("precompute-features", "-o", out, "--backbone", "demo-tiny")
    named = headed / "runs" / "moments"
    for verb in (("query", "a star"), ("explain", "a star", "a.mp4")):
        said = run(*verb, "-o", out, "--run", named, code=3).stderr
        assert "the head 'moments' does not fit: there are no frames by time here" in said


def test_what_is_explained_by_a_head_says_so(headed):
    asked = ("explain", sentences(headed)[0], "a.mp4", "-o", headed)
    assert "by the moment head 'moments'" in run(*asked).stdout
    assert json.loads(run(*asked, "--json").stdout)["head"] == "moments"
    assert "by text_guided" in run(*asked, "--no-head").stdout
    assert "head" not in json.loads(run(*asked, "--no-head", "--json").stdout)


def test_a_run_that_is_not_there_is_told_beside_the_heads_that_are(headed):
    assert "expected a run 'moment' in" in (
        said := run("query", "a star", "--run", "moment", "-o", headed, code=3).stderr
    )
    assert "found moments" in said


def test_a_head_that_does_not_fit_is_left_out_when_found_and_refused_when_named(headed, tmp_path):
    out = Path(shutil.copytree(headed, tmp_path / "out"))
    path = out / "runs" / "moments" / "head.safetensors"
    head = MomentHead.open(path)
    other = MadeFor(head.made_for.backbone, head.made_for.identity, head.made_for.words, 2.0)
    MomentHead(head.weights, head.mean, other, head.moments, head.videos, 0, head.store).save(path)
    said = run("query", "a star", "-o", out).stderr
    assert "the head 'moments' is left out: it was trained on 2 frames a second" in said
    named = run("query", "a star", "-o", out, "--run", "moments", code=3).stderr
    assert "the head 'moments' does not fit" in named and "tvr train --moments" in named
    path.write_bytes(path.read_bytes()[:-1])
    assert "is left out: the moment head" in run("query", "a star", "-o", out).stderr
    assert "is damaged" in run("query", "a star", "-o", out, "--run", "moments", code=3).stderr
    examined = CliRunner().invoke(app, ["doctor", str(out)]).output
    assert "runs/moments" in examined and "tvr train --moments" in examined


def test_a_session_notices_a_head_that_was_trained_meanwhile(made, tmp_path):
    out = Path(shutil.copytree(made, tmp_path / "out"))
    session, options = Session(Workspace(out), Asked(backbone="demo-tiny"), offline=True), SearchOptions(k=1)
    before = session.answer(["a star"], options)[0][0].score
    run("train", "--moments", "-o", out)
    after = session.answer(["a star"], options)[0][0].score
    assert after != pytest.approx(before) and -1 <= after <= 1


def test_of_several_heads_the_newest_that_fits_ranks(headed, tmp_path):
    out = Path(shutil.copytree(headed, tmp_path / "out"))
    assert json.loads(run("train", "--moments", "-o", out, "--json").stdout)["run"] == "moments-2"
    store = Workspace(out).newest_features("demo-tiny")
    assert store is not None
    os.utime(out / "runs" / "moments" / "head.safetensors", ns=(10**18, 2 * 10**18))
    found = heads.head_for(Workspace(out), store.backbone_name, store.identity, HeadWish())
    assert found.head is not None and "'moments'" in found.lines[0]


def test_the_name_of_a_run_is_taken_once(headed):
    assert "exists" in run("train", "--moments", "--run", "moments", "-o", headed, code=2).stderr
    taken = run("train", "--method", "glccl", "--run", "moments", "-o", headed, code=3).stderr
    assert "holds something else than a run: 'head.safetensors'" in taken
    assert "leave out --method, --epochs" in run(
        "train", "--moments", "--method", "glccl", "--epochs", 2, "-o", headed, code=2
    ).stderr  # fmt: skip


def test_captions_without_times_and_frames_without_a_rate_are_refused(made, tmp_path):
    out = Path(shutil.copytree(made, tmp_path / "out"))
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"video": "a.mp4", "caption": "a star", "split": "train"}\n')
    said = run("train", "--moments", "--captions", plain, "-o", out, code=3).stderr
    assert "expected training captions with times, found 1 of which 1 have none" in said and '"start"' in said
    backwards = tmp_path / "backwards.jsonl"
    backwards.write_text('{"video": "a.mp4", "caption": "a star", "start": 3, "end": 2}\n')
    assert "start < end" in run("train", "--moments", "--captions", backwards, "-o", out, code=3).stderr
    outside = tmp_path / "outside.jsonl"
    outside.write_text('{"video": "a.mp4", "caption": "a star", "start": 99, "end": 100}\n')
    assert "inside of 'a.mp4'" in run("train", "--moments", "--captions", outside, "-o", out, code=3).stderr
    assert "start with: tvr extract-frames" in run("train", "--moments", "-o", tmp_path / "none", code=3).stderr


def charades(out: Path, folder: Path, n: int = 24) -> Path:
    """The captions of a workspace as an annotation file of Charades-STA, which names the film by its stem."""
    lines = "".join(f"a {i}.0 {i + 1}.0##{text}\n" for i, text in enumerate(sentences(out)[:n]))
    path = folder / "charades_sta_train.txt"
    path.write_text(lines + "gone 0.0 1.0##a film that is not here\n")
    return path


def test_times_of_a_data_set_about_moments_train_the_same_head(made, headed, tmp_path):
    out = Path(shutil.copytree(made, tmp_path / "out"))
    report = json.loads(run("train", "--moments", "--captions", charades(made, tmp_path), "-o", out, "--json").stdout)
    assert (report["moments"], report["videos"], report["left_out"]) == (24, 1, 0)
    one, other = (MomentHead.open(o / "runs" / "moments" / "head.safetensors") for o in (out, headed))
    assert one.weights == pytest.approx(other.weights, abs=1e-6)


def test_a_dry_run_of_named_captions_says_what_it_would_train_on(made, tmp_path):
    out = Path(shutil.copytree(made, tmp_path / "out"))
    said = run("train", "--moments", "--captions", charades(made, tmp_path, 9), "-o", out, "--dry-run").stdout
    assert "would train run 'moments' on 9 moments of 1 video, features" in said
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"video": "a.mp4", "caption": "a star", "split": "train"}\n')
    asked = ("train", "--moments", "--captions", plain, "-o", out, "--dry-run")
    assert "expected training captions with times, found 1 of which 1 have none" in run(*asked, code=3).stderr
    assert not (out / "runs").exists()
    shutil.rmtree(out / "features")
    first = run("train", "--moments", "-o", out, "--backbone", "demo-tiny", "--dry-run").stdout
    assert "would compute features of demo-tiny first" in first and "run 'moments'" in first


def test_clips_of_so_many_frames_have_no_rate(tmp_path):
    from synthetic import SyntheticStore

    SyntheticStore(videos=4).write(tmp_path / "out")
    said = run("train", "--moments", "-o", tmp_path / "out", code=3).stderr
    assert "a moment head is trained on frames by time" in said and "--fps 4" in said
