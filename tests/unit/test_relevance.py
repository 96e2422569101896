"""Several right answers a query: worked by hand, against an enumeration of all orders, and as `--qrels`."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tvr_cli import metrics, relevance
from tvr_cli.cli import app
from tvr_cli.errors import DataError


def test_a_query_worked_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6]])
    grades = np.array([[0.0, 2.0, 0.0, 1.0]])  # right ones at ranks 2 and 4
    found, queries = relevance.judged(scores, grades)
    gain = 2 / np.log2(3) + 1 / np.log2(5)
    best = 2 / np.log2(2) + 1 / np.log2(3)
    assert queries == 1
    assert found["recall@1"] == 0 and found["recall@5"] == 100
    assert found["nDCG@10"] == pytest.approx(100 * gain / best)
    assert found["mAP"] == pytest.approx(100 * (1 / 2 + 2 / 4) / 2)


def test_ties_are_the_expectation_over_all_orders() -> None:
    scores = np.array([0.5, 0.5, 0.9, 0.5, 0.5])
    grades = np.array([1.0, 0.0, 0.0, 3.0, 0.0])
    tied = [0, 1, 3, 4]
    orders = []
    for order in itertools.permutations(tied):
        distinct = scores.copy()
        distinct[list(order)] = 0.5 - 0.01 * np.arange(4)
        orders.append(relevance.judged(distinct[None], grades[None])[0])
    found, _ = relevance.judged(scores[None], grades[None])
    for name, value in found.items():
        assert value == pytest.approx(np.mean([one[name] for one in orders])), name


def test_with_one_right_answer_a_query_it_says_what_the_metrics_say() -> None:
    scores = np.round(np.random.default_rng(0).random((30, 30)) + 0.3 * np.eye(30), 1)  # with ties
    found, queries = relevance.judged(scores, np.eye(30))
    usual = metrics.summary(metrics.text_to_video(scores, np.arange(30)))
    assert queries == 30
    assert [found[f"recall@{k}"] for k in (1, 5, 10)] == pytest.approx([usual[f"R@{k}"] for k in (1, 5, 10)])
    assert found["mAP"] == pytest.approx(100 * usual["MRR"])
    assert found["nDCG@10"] == pytest.approx(usual["nDCG@10"])


def test_what_scores_nothing_at_all_has_no_place() -> None:
    """Four items, of which two were not found: one of the three right ones among them."""
    scores = np.array([[0.9, -np.inf, 0.7, -np.inf]])
    found, queries = relevance.judged(scores, np.array([[0.0, 1.0, 1.0, 0.0]]))
    assert queries == 1 and found["recall@5"] == found["recall@10"] == 50
    assert found["mAP"] == pytest.approx(100 * (1 / 2) / 2)
    assert found["nDCG@10"] == pytest.approx(100 * (1 / np.log2(3)) / (1 + 1 / np.log2(3)))
    assert set(relevance.judged(np.full((1, 4), -np.inf), np.array([[0.0, 1.0, 1.0, 0.0]]))[0].values()) == {0.0}


def test_queries_without_a_right_answer_are_not_averaged() -> None:
    scores = np.random.default_rng(0).random((3, 4))
    assert relevance.judged(scores, np.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]))[1] == 1
    assert relevance.judged(scores, np.zeros((3, 4))) == ({}, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("q1 0 v1\n", "qrels:1: expected lines of QUERY 0 ITEM GRADE"),
        ("q1 0 v1 1\nq1 0 v2 x\n", "qrels:2: expected lines"),
        ("q1 0 v1 -1\n", "the grade 0 or more"),
        ("q1 0 v1 1\nq1 v1 2\n", "qrels:2: the item 'v1' of the query 'q1' stands here a second time"),
    ],
)
def test_a_line_that_is_no_judgement_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "qrels").write_text(text)
    with pytest.raises(DataError, match=words):
        relevance.read_qrels(tmp_path / "qrels")


def test_ids_with_blanks_are_separated_by_tabs(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("a dog\t0\tmy video.mp4\t2\n")
    assert relevance.read_qrels(tmp_path / "qrels").grades == {"a dog": {"my video.mp4": 2.0}}


def test_evaluate_judges_by_qrels_beside_recall(tmp_path: Path) -> None:
    scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.9, 0.8], [0.7, 0.2, 0.9]], dtype=np.float32)
    ids = {"caption_ids": np.array(["c0", "c1", "c2"]), "video_ids": np.array(["a", "b", "c"])}
    np.savez(tmp_path / "s.npz", scores=scores, video_of_caption=np.arange(3), **ids)
    (tmp_path / "qrels").write_text("c0 0 a 1\nc0 0 b 1\nc1 0 b 1\nc2 0 c 1\n")
    asked = ["evaluate", "--scores", str(tmp_path / "s.npz"), "--qrels", str(tmp_path / "qrels")]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0 and "by relevance, several right answers a query" in shown.stdout
    found = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)["qrels"]
    assert found["queries"] == {"t2v": 3, "v2t": 3}
    assert found["t2v"]["recall@1"] == pytest.approx(100 * (0.5 + 1 + 1) / 3) and found["t2v"]["mAP"] == 100
    (tmp_path / "qrels").write_text("c9 0 a 1\n")
    lost = CliRunner().invoke(app, asked)
    assert lost.exit_code == 3 and "1 caption ids that were not scored (first: 'c9')" in lost.stderr
