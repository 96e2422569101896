"""The tie rule and the metrics on matrices that a reader can check by eye."""

import itertools

import numpy as np
import pytest

from tvr_cli import metrics
from tvr_cli.errors import DataError

# 4 captions x 4 videos; the positives are the diagonal. Ranks by eye: 1, 2, 4, 1 (row 3 ties with nothing).
PLAIN = np.array([[9, 1, 2, 3], [5, 4, 3, 2], [7, 8, 1, 9], [0, 1, 2, 3]], dtype=np.float32)


def test_ranks_of_a_matrix_read_by_eye():
    ranks = metrics.text_to_video(PLAIN, np.arange(4))
    assert ranks.expected().tolist() == [1, 2, 4, 1]
    assert metrics.summary(ranks) == {"R@1": 50.0, "R@5": 100.0, "R@10": 100.0, "MdR": 1.5, "MnR": 2.0}


@pytest.mark.parametrize("n", [3, 10, 63])
def test_a_constant_matrix_scores_chance(n):
    result = metrics.evaluate(np.full((n, n), 0.25, dtype=np.float32), np.arange(n))
    for side in (result["t2v"], result["v2t"]):
        assert side["R@1"] == pytest.approx(100 / n)
        assert side["R@5"] == pytest.approx(100 * min(5, n) / n)
        assert side["MnR"] == pytest.approx((n + 1) / 2)


def test_the_tie_rule_equals_the_average_over_all_orders():
    for better, tied, positives in itertools.product(range(3), range(4), range(1, 4)):
        rank = metrics.Ranks(*(np.array([x]) for x in (better, tied, positives)))
        orders = list(itertools.permutations([True] * positives + [False] * tied))
        firsts = [better + 1 + order.index(True) for order in orders]
        assert rank.expected()[0] == pytest.approx(np.mean(firsts))
        for k in range(1, 8):
            assert rank.hit(k)[0] == pytest.approx(np.mean([first <= k for first in firsts])), (
                better,
                tied,
                positives,
                k,
            )


def test_nan_is_an_error_that_names_the_row():
    scores = PLAIN.copy()
    scores[2, 1] = np.nan
    with pytest.raises(DataError, match="row 2"):
        metrics.text_to_video(scores, np.arange(4))


def test_v2t_max_groups_the_captions_of_a_video():
    # Captions 0, 1 describe video 0; captions 2, 3 describe video 1. Column 1: best of group 0 is .8, of group 1 is .7.
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.1, 0.2]], dtype=np.float32)
    ranks = metrics.video_to_text_max(scores, np.array([0, 0, 1, 1]))
    assert ranks.expected().tolist() == [1, 2]


def test_permuting_videos_and_captions_changes_nothing():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (20, 12)).astype(np.float32)
    video = rng.integers(0, 12, 20)
    before = metrics.evaluate(scores, video)
    rows, columns = rng.permutation(20), rng.permutation(12)
    after = metrics.evaluate(scores[rows][:, columns], np.argsort(columns)[video[rows]])
    for side in ("t2v", "v2t"):
        assert after[side] == pytest.approx(before[side])
