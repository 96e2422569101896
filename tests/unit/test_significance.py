"""Intervals cover, tests agree with independent libraries, and the video is the unit."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tvr_cli import metrics, significance
from tvr_cli.errors import DataError


def ranks_with_hits(hits, video=None):
    better = np.where(hits, 0, 5).astype(np.int64)
    zeros = np.zeros_like(better)
    video = np.arange(len(better)) if video is None else video
    return metrics.Ranks(better, zeros, zeros + 1, video, np.zeros(len(better)))


def test_the_bootstrap_interval_is_close_to_the_binomial_one():
    hits = np.arange(1000) % 10 < 4
    low, high = significance.intervals(ranks_with_hits(hits))["R@1"]
    expected = significance.wilson(40.0, 1000)
    assert (low, high) == pytest.approx(expected, abs=0.5)


def test_captions_of_one_video_make_the_interval_wider():
    hits = np.repeat(np.arange(100) % 2 == 0, 20)  # 100 videos with 20 captions that succeed or fail together
    single = significance.intervals(ranks_with_hits(hits))["R@1"]
    clustered = significance.intervals(ranks_with_hits(hits, np.repeat(np.arange(100), 20)))["R@1"]
    assert clustered[1] - clustered[0] > 3 * (single[1] - single[0])


def test_intervals_are_a_function_of_the_seed():
    ranks = ranks_with_hits(np.arange(50) % 3 == 0)
    assert significance.intervals(ranks, seed=3) == significance.intervals(ranks, seed=3)
    assert significance.intervals(ranks, seed=3) != significance.intervals(ranks, seed=4)


@pytest.mark.parametrize(("only_b", "only_a"), [(0, 0), (1, 0), (9, 2), (60, 41), (500, 450)])
def test_mcnemar_is_the_exact_binomial_test(only_b, only_a):
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert significance.mcnemar(only_b, only_a) == pytest.approx(expected, rel=1e-9)


def test_wilson_is_the_textbook_interval():
    low, high = stats.binomtest(470, 1000).proportion_ci(method="wilson")
    assert significance.wilson(47.0, 1000) == pytest.approx((100 * low, 100 * high))


def test_mcnemar_is_used_for_plain_hits_and_permutation_for_ties_or_clusters():
    a, b = np.arange(200) % 2 == 0, np.arange(200) % 3 > 0
    (plain,) = significance.compare(ranks_with_hits(a), ranks_with_hits(b))
    assert plain.test == "McNemar, exact"
    assert plain.difference == pytest.approx(100 * (b.mean() - a.mean()))
    assert plain.interval[0] < plain.difference < plain.interval[1]
    cluster = np.repeat(np.arange(100), 2)
    (clustered,) = significance.compare(ranks_with_hits(a, cluster), ranks_with_hits(b, cluster))
    assert clustered.test.startswith("permutation")
    tied = metrics.text_to_video(np.ones((200, 200)), np.arange(200))
    (straddled,) = significance.compare(ranks_with_hits(a), tied)
    assert straddled.test.startswith("permutation")


def test_metrics_asked_for_together_are_tested_as_if_each_were_alone():
    rng = np.random.default_rng(2)
    near = np.eye(90) + 1.3 * rng.random((90, 90))
    a = metrics.text_to_video(np.round(near, 2), np.arange(90))  # rounded: ties straddle 10, not 1 or 5
    b = metrics.text_to_video(np.eye(90) + 1.5 * rng.random((90, 90)), np.arange(90))
    names = ("R@1", "R@5", "R@10", "MRR")
    together = significance.compare(a, b, names, draws=300)
    for name, shared in zip(names, together, strict=True):
        (alone,) = significance.compare(a, b, (name,), draws=300)
        assert shared.interval == pytest.approx(alone.interval)
        assert replace(shared, interval=alone.interval) == alone
    assert {one.test for one in together} == {"McNemar, exact", "permutation over videos"}


def test_both_tests_agree_where_both_apply():
    rng = np.random.default_rng(5)
    a, b = rng.random(300) < 0.45, rng.random(300) < 0.52
    exact = significance.compare(ranks_with_hits(a), ranks_with_hits(b))[0].p
    difference = 100.0 * (b.astype(float) - a)[:, None]
    (signs,) = significance._permutation(difference, np.arange(300), seed=0, draws=4000)
    assert signs == pytest.approx(exact, abs=0.03)


def test_a_result_does_not_differ_from_itself():
    ranks = ranks_with_hits(np.arange(40) % 2 == 0)
    (same,) = significance.compare(ranks, ranks)
    assert (same.difference, same.p) == (0.0, 1.0)


def test_results_on_other_queries_cannot_be_compared():
    with pytest.raises(DataError, match="same split"):
        significance.compare(ranks_with_hits(np.ones(4, bool)), ranks_with_hits(np.ones(5, bool)))


def test_two_published_rates_differ_only_beyond_their_sampling_error():
    assert significance.rates_differ(47.0, 1000, 48.5, 1000) > 0.4
    assert significance.rates_differ(40.0, 1000, 50.0, 1000) < 1e-4
    assert significance.rates_differ(100.0, 10, 100.0, 10) == 1.0


def test_holm_multiplies_the_smallest_p_most_and_keeps_the_order():
    # by hand: .01 x 4, .02 x 3 = .06, .03 x 2 = .06, .5 x 1
    assert significance.holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    # .02 x 3 = .06, then .021 x 2 = .042 may not be less than what came before it
    assert significance.holm([0.021, 0.02, 0.9]) == pytest.approx([0.06, 0.06, 0.9])
    assert significance.holm([0.6, 0.7]) == [1.0, 1.0]
    assert significance.holm([]) == []


def test_the_smallest_difference_is_six_queries_for_one_test():
    # 2 x 2^-6 = .031 is below .05, 2 x 2^-5 = .0625 is not; for two tests .031 is not below .025, so seven
    assert significance.smallest_difference(1000) == pytest.approx(0.6)
    assert significance.smallest_difference(1000, tests=2) == pytest.approx(0.7)
    assert significance.smallest_difference(1000, parts=3) == pytest.approx(0.2)
    assert significance.smallest_difference(5) == 100.0


def test_several_seeds_are_compared_by_the_mean_of_each_query():
    a = [ranks_with_hits(np.zeros(12, bool)), ranks_with_hits(np.arange(12) < 2)]
    b = [ranks_with_hits(np.ones(12, bool))]
    (found,) = significance.compare_seeds(a, b, ("R@1",))
    assert (found.a, found.b) == pytest.approx((100 / 12, 100.0))
    assert found.difference == pytest.approx(100 - 100 / 12)
    assert found.p < 0.01 and found.test == "permutation over videos"
    (alone,) = significance.compare_seeds(a[:1], b, ("R@1",))
    assert alone.test == "McNemar, exact" and alone.p == pytest.approx(2 * 0.5**12)
    with pytest.raises(DataError, match="different queries"):
        significance.compare_seeds(a, [ranks_with_hits(np.ones(11, bool))], ("R@1",))
