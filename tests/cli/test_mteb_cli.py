"""`tvr mteb` without its extra; with it, tests/extras holds it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import write_backbone, write_frames
from typer.testing import CliRunner
from videos import make_video

from tvr_cli.cli import app
from tvr_cli.engine.evaluation import evaluate
from tvr_cli.engine.features.precompute import backbone_of, precompute
from tvr_cli.engine.whole.mteb import Matrix
from tvr_cli.engine.whole.mteb_corpus import Encoder, GivenVideo
from tvr_cli.errors import DataError
from tvr_cli.plans import PrecomputeOptions
from tvr_cli.workspace import Workspace


def test_without_the_extra_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    done = CliRunner().invoke(app, ["mteb", "--tasks", "MSRVTTT2V", "-o", str(tmp_path / "nowhere")])
    assert done.exit_code == 4 and "pip install 'tvr-cli[mteb]'" in done.stderr


def test_both_countings_are_of_one_matrix() -> None:
    scores = np.array([[0.9, 0.1, 0.1], [0.8, 0.2, 0.2]], dtype=np.float32)
    matrix = Matrix(["a", "b"], ["x", "y", "z"], scores, 0)
    found, tied = matrix.judged({"a": {"x": 1}, "b": {"y": 1}})
    assert tied == 1 and found["recall_at_1"] == 0.5
    second, third = 1 / np.log2(3), 1 / np.log2(4)
    assert found["ndcg_at_10"] == pytest.approx((1 + (second + third) / 2) / 2)
    assert matrix.best(2) == {"a": {"x": pytest.approx(0.9), "y": pytest.approx(0.1)},
                              "b": {"x": pytest.approx(0.8), "y": pytest.approx(0.2)}}  # fmt: skip


def test_a_video_that_could_not_be_read_is_in_no_answer_and_last_for_tvr() -> None:
    scores = np.array([[0.9, -np.inf, 0.1]], dtype=np.float32)
    matrix = Matrix(["a"], ["x", "y", "z"], scores, 1)
    assert list(matrix.best(10)["a"]) == ["x", "z"]
    found, tied = matrix.judged({"a": {"y": 1}})
    assert tied == 0 and set(found.values()) == {0.0}  # as MTEB counts what a search does not return


def test_a_right_answer_outside_of_the_corpus_is_one_that_was_not_found(caplog: pytest.LogCaptureFixture) -> None:
    matrix = Matrix(["a", "b"], ["x", "y"], np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32), 0)
    found, tied = matrix.judged({"a": {"x": 1, "nowhere": 1}, "b": {"y": 1, "nowhere": 0, "else": 2}})
    assert tied == 0 and found["recall_at_10"] == 0.5
    best = 1 + 1 / np.log2(3), 2 + 1 / np.log2(3)
    assert found["ndcg_at_10"] == pytest.approx((1 / best[0] + 1 / best[1]) / 2)
    assert "name 2 documents that are not in the corpus (first: 'nowhere')" in caplog.text


def test_videos_given_by_bytes_and_by_path_are_one_where_they_are_one_file(tmp_path: Path) -> None:
    out, backbone = tmp_path / "out", write_backbone(tmp_path / "clip")
    write_frames(out, videos=4)
    precompute(Workspace.at(out), backbone, None, PrecomputeOptions(max_words=12, device="cpu"))
    scorer, store = evaluate.load(Workspace.at(out), run=None, method="mean", backbone=None)
    encoder = Encoder(scorer, store, backbone_of(store, offline=True, device="cpu"), "cpu")
    films = [make_video(tmp_path / f"{i}.mp4", 6, size=(32, 32), gop=3 + i) for i in range(2)]
    given = [GivenVideo(films[0].read_bytes(), None), GivenVideo(None, films[1]), GivenVideo(None, films[0])]
    videos = encoder.videos(given, Workspace.at(tmp_path / "corpus"))
    scores = encoder.scores(encoder.captions(["a red clip", "blue"]), videos)
    assert videos.unread == 0 and videos.rows[0] == videos.rows[2] != videos.rows[1]
    assert scores.shape == (2, 3) and (scores[:, 0] == scores[:, 2]).all() and np.isfinite(scores).all()
    assert films[0].is_file() and videos.store.fingerprint == store.fingerprint
    assert torch.equal(videos.store.video().n_frames, torch.tensor([3, 3]))
    with pytest.raises(DataError, match="expected a video, found none at"):
        encoder.videos([GivenVideo(None, tmp_path / "gone.mp4")], Workspace.at(tmp_path / "corpus"))
