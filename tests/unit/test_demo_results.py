"""The demo's own measures, on numbers that can be checked by eye."""

import numpy as np
import pytest

from tvr_cli.engine.demo_results import Spans, interval, over_seeds, overlap, recalls
from tvr_cli.metrics import Ranks


def ranks(better):
    n = len(better)
    return Ranks(np.array(better), np.zeros(n, int), np.ones(n, int), np.arange(n), np.zeros(n))


def test_recall_by_kind_counts_each_kind_alone():
    result = recalls(ranks([0, 3, 0, 9]), ["base", "base", "order", "random"])
    assert [result[f"R@{k}"]["value"] for k in (1, 5, 10)] == [50, 75, 100]
    assert {k: v["value"] for k, v in result["by_kind"].items()} == {"random": 0, "base": 50, "order": 100}


def test_an_interval_is_wilsons():
    # Known from the literature: 8 of 10 gives [0.490, 0.943].
    found = interval(np.array([1.0] * 8 + [0.0] * 2))
    assert found["value"] == 80
    assert (found["low"], found["high"]) == (pytest.approx(49.0, abs=0.05), pytest.approx(94.3, abs=0.05))


def test_seeds_fold_to_mean_and_deviation():
    one = {
        "R@1": {"value": 40.0, "low": 30.0, "high": 50.0},
        "by_kind": {"base": {"value": 1.0, "low": 0.0, "high": 2.0}},
    }
    two = {
        "R@1": {"value": 44.0, "low": 34.0, "high": 54.0},
        "by_kind": {"base": {"value": 3.0, "low": 2.0, "high": 4.0}},
    }
    folded = over_seeds([one, two])
    assert folded["R@1"] == {"value": 42.0, "low": 32.0, "high": 52.0, "deviation": pytest.approx(8**0.5)}
    assert folded["by_kind"]["base"]["value"] == 2.0
    assert "deviation" not in over_seeds([one])["R@1"]


def test_overlap_is_intersection_over_union():
    assert overlap((0, 2), (1, 3)) == pytest.approx(1 / 3)
    assert overlap((0, 1), (2, 3)) == 0
    assert overlap((1, 2), (1, 2)) == 1


def test_spans_are_summarised_beside_the_centred_window():
    spans = Spans(
        iou=np.array([0.5, 0.4]),
        inside=np.array([1.0, 0.0]),
        length=np.array([1.0, 2.0]),
        centred_iou=np.array([0.1, 0.1]),
        centred_inside=np.array([0.0, 0.0]),
    )
    assert spans.summary() == {
        "R@1": 50.0,
        "centred_R@1": 0.0,
        "mean_iou": pytest.approx(0.45),
        "centred_mean_iou": pytest.approx(0.1),
        "inside": 50.0,
        "centred_inside": 0.0,
        "seconds": 1.5,
    }
