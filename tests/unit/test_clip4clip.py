"""The old counting reproduces the numbers of the authors' code, and shows what is wrong with it beside ours."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tvr_cli import clip4clip, metrics
from tvr_cli.errors import DataError

TESTS = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("TVR_GOLDEN_DIR", TESTS.parents[1] / "shared" / "methods"))


def files(method):
    found = [
        TESTS / "golden" / "metrics" / f"{method}.safetensors",
        *sorted(SHARED.glob(f"{method}/golden/*.safetensors")),
    ]
    with_metrics = [p for p in found if any(k.startswith("metrics") for k in load_file(p))]
    return [pytest.param(p, id=f"{method}-{p.stem}-metrics") for p in with_metrics]


@pytest.mark.parametrize("path", files("gare"))
def test_golden_gare_metrics(path):
    golden = load_file(path)
    sim = golden["metrics.sim"]
    for side, matrix in (("t2v", sim), ("v2t", sim.T)):
        found, entries = clip4clip.square(np.ascontiguousarray(matrix))
        expected = dict(zip(("R@1", "R@5", "R@10", "R@50", "MdR", "MnR"), golden[f"metrics.{side}"], strict=True))
        assert found == pytest.approx(expected, abs=1e-9)
        assert np.array_equal(np.sort(entries), np.sort(golden[f"metrics.{side}_rank0"]))


@pytest.mark.parametrize("path", files("eaglenet"))
def test_golden_eaglenet_metrics(path):
    golden = load_file(path)
    for side, matrix in (("t2v", golden["metrics/square"]), ("v2t", golden["metrics/square"].T)):
        found, entries = clip4clip.square(np.ascontiguousarray(matrix))
        expected = golden[f"metrics/square_{side}"]
        assert [found[k] for k in ("R@1", "R@5", "R@10", "MdR", "MnR")] == pytest.approx(list(expected[:5]), abs=1e-6)
        assert len(entries) == expected[5]
    counts = golden["metrics/multi_counts"]
    result = clip4clip.evaluate(golden["metrics/multi_sim"], np.repeat(np.arange(len(counts)), counts))
    for side in ("t2v", "v2t"):
        found = [result[side][k] for k in ("R@1", "R@5", "R@10", "MdR", "MnR")]
        assert found == pytest.approx(list(golden[f"metrics/multi_{side}"]), abs=1e-4)  # the reference is float32


# Both numbers, in the cases in which the old counting is wrong.


def test_a_constant_matrix_is_chance_and_not_a_result():
    scores, video = np.ones((10, 10), dtype=np.float32), np.arange(10)
    assert metrics.evaluate(scores, video)["t2v"]["R@1"] == pytest.approx(10.0)
    old = clip4clip.evaluate(scores, video)
    assert old["t2v"]["R@1"] == 10.0 and old["rank_entries"]["t2v"] == 100  # ten entries a query


def test_a_constant_matrix_with_several_captions_scores_as_the_order_says():
    scores, video = np.ones((10, 10), dtype=np.float32), np.zeros(10, dtype=np.int64)
    assert clip4clip.text_to_video(scores, video)[0]["R@1"] == 100.0
    assert metrics.evaluate(scores, video)["t2v"]["R@1"] == pytest.approx(10.0)


def test_nan_rows_vanish_in_the_old_counting_and_are_an_error_in_ours():
    scores = np.eye(4, dtype=np.float32)
    scores[2:] = np.nan
    found, entries = clip4clip.square(scores)
    assert found["R@1"] == 100.0 and len(entries) == 2  # two queries of four, both right
    with pytest.raises(DataError, match="NaN"):
        metrics.evaluate(scores, np.arange(4))


def test_repeated_captions_change_the_denominator_of_the_old_counting():
    # Captions 0 and 1 have the same text, so column 0 and column 1 tie for each other: v2t has 2 extra entries.
    scores = np.array([[0.9, 0.8, 0.1], [0.9, 0.8, 0.1], [0.0, 0.1, 0.7]], dtype=np.float32)
    old, entries = clip4clip.square(np.ascontiguousarray(scores.T))
    assert len(entries) == 5 and old["R@1"] == pytest.approx(100 * 3 / 5)
    assert metrics.evaluate(scores, np.arange(3))["v2t"]["R@1"] == pytest.approx(100 * (0.5 + 0.5 + 1) / 3)


def test_without_ties_both_agree():
    scores = np.random.default_rng(0).random((30, 30))
    old, new = clip4clip.evaluate(scores, np.arange(30)), metrics.evaluate(scores, np.arange(30))
    for side in ("t2v", "v2t"):
        assert {k: new[side][k] for k in old[side]} == pytest.approx(old[side])
