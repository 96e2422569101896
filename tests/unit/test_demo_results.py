"""The demo's own measures, on numbers that can be checked by eye."""

import numpy as np
import pytest

from tvr_cli.engine.whole.demo_results import Moments, Recalls, Spans, overlap, rate, recalls
from tvr_cli.metrics import Ranks
from tvr_cli.results.base import plain
from tvr_cli.results.metrics import Rate, fold

ALL = Rate(100.0, 100.0, 100.0)


def ranks(better):
    n = len(better)
    return Ranks(np.array(better), np.zeros(n, int), np.ones(n, int), np.arange(n), np.zeros(n))


def test_recall_by_kind_counts_each_kind_alone():
    result = recalls(ranks([0, 3, 0, 9]), ["base", "base", "order", "random"])
    assert [rate.value for rate in (result.r1, result.r5, result.r10)] == [50, 75, 100]
    assert {kind: rate.value for kind, rate in result.by_kind.items()} == {"random": 0, "base": 50, "order": 100}


def test_an_interval_is_wilsons():
    # Known from the literature: 8 of 10 gives [0.490, 0.943].
    found = rate(np.array([1.0] * 8 + [0.0] * 2))
    assert found.value == 80
    assert (found.low, found.high) == (pytest.approx(49.0, abs=0.05), pytest.approx(94.3, abs=0.05))


def test_seeds_fold_to_mean_and_deviation():
    one, two = (
        Recalls(r1=Rate(value, low, low + 20), r5=ALL, r10=ALL, by_kind={"base": Rate(kind, kind - 1, kind + 1)})
        for value, low, kind in ((40.0, 30.0, 1.0), (44.0, 34.0, 3.0))
    )
    folded = fold([one, two])
    assert folded.r1 == Rate(42.0, 32.0, 52.0, pytest.approx(8**0.5))
    assert folded.by_kind["base"].value == 2.0
    assert "deviation" in plain(folded)["R@1"] and "deviation" not in plain(fold([one]))["R@1"]


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
    assert spans.summary() == Moments(
        r1=50.0,
        centred_r1=0.0,
        mean_iou=pytest.approx(0.45),
        centred_mean_iou=pytest.approx(0.1),
        inside=50.0,
        centred_inside=0.0,
        seconds=1.5,
    )
