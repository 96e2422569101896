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
    found = metrics.summary(ranks)
    assert {k: found[k] for k in ("R@1", "R@5", "MdR", "MnR")} == {"R@1": 50.0, "R@5": 100.0, "MdR": 1.5, "MnR": 2.0}
    assert found["MRR"] == (1 + 1 / 2 + 1 / 4 + 1) / 4
    assert found["nDCG@10"] == pytest.approx(100 * (1 + 1 / np.log2(3) + 1 / np.log2(5) + 1) / 4)


@pytest.mark.parametrize("n", [3, 10, 63])
def test_a_constant_matrix_scores_chance(n):
    result = metrics.evaluate(np.full((n, n), 0.25, dtype=np.float32), np.arange(n))
    for side in (result["t2v"], result["v2t"]):
        assert side["R@1"] == pytest.approx(100 / n)
        assert side["R@5"] == pytest.approx(100 * min(5, n) / n)
        assert side["MnR"] == pytest.approx((n + 1) / 2)


def test_the_tie_rule_equals_the_average_over_all_orders():
    for better, tied, positives in itertools.product(range(3), range(4), range(1, 4)):
        rank = metrics.Ranks(*(np.array([x]) for x in (better, tied, positives, 0)), gain=np.zeros(1))
        orders = list(itertools.permutations([True] * positives + [False] * tied))
        firsts = [better + 1 + order.index(True) for order in orders]
        assert rank.expected()[0] == pytest.approx(np.mean(firsts))
        assert rank.reciprocal()[0] == pytest.approx(np.mean([1 / first for first in firsts]))
        assert (rank.optimistic()[0], rank.pessimistic()[0]) == (min(firsts), max(firsts))
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
    ranks = metrics.video_to_text(scores, np.array([0, 0, 1, 1]))
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


def test_three_protocols_of_video_to_text_differ_where_they_should():
    # Video 0 has captions 0 and 1, video 1 has caption 2. Column 0 reads .9 .1 .5: its best caption is first, the other
    # third with one wrong caption above it.
    scores = np.array([[0.9, 0.0], [0.1, 0.3], [0.5, 0.2]], dtype=np.float32)
    video = np.array([0, 0, 1])
    ranks = {p: metrics.video_to_text(scores, video, p) for p in metrics.V2T_PROTOCOLS}
    assert ranks["max"].expected().tolist() == [1, 2]
    assert ranks["best-caption"].expected().tolist() == [1, 2]
    assert metrics.summary(ranks["mean-rank"])["MnR"] == pytest.approx(((1 + 2) / 2 + 2) / 2)


def test_ndcg_with_several_positives_is_the_textbook_value():
    # Order by score: positive, wrong, positive: DCG = 1 + 1/2; ideal = 1 + 1/log2(3).
    scores = np.array([[0.9, 0], [0.3, 0], [0.5, 1]], dtype=np.float32)
    ranks = metrics.video_to_text(scores, np.array([0, 0, 1]), "best-caption")
    assert ranks.gain[0] == pytest.approx(1.5 / (1 + 1 / np.log2(3)))


@pytest.mark.parametrize("tile", [(1, 1), (2, 3), (4, 5), (50, 50)])
def test_streaming_gives_the_ranks_of_the_whole_matrix(tile):
    rng = np.random.default_rng(1)
    video = np.repeat(np.arange(9), rng.integers(0, 4, 9))  # sorted; some videos have no caption
    scores = rng.integers(0, 5, (len(video), 9)).astype(np.float32)
    ends = [0]
    while ends[-1] < len(video):
        end = min(ends[-1] + tile[0], len(video))
        while end < len(video) and video[end] == video[end - 1]:
            end += 1
        ends.append(end)

    def tiles():
        for a, b in itertools.pairwise(ends):
            for c in range(0, 9, tile[1]):
                rows, columns = slice(a, b), slice(c, min(c + tile[1], 9))
                yield rows, columns, scores[rows, columns]

    firsts = metrics.FirstPlaces(len(video), 9)

    def watched():
        firsts.begin_pass()
        for tile in tiles():
            firsts.take(*tile)
            yield tile

    forward, backward = metrics.streamed(watched, video, 9)
    assert firsts.places == pytest.approx(metrics.first_places(scores))
    assert firsts.places.sum() == pytest.approx(len(video))
    whole = metrics.text_to_video(scores, video), metrics.video_to_text(scores, video)
    for got, expected in zip((forward, backward), whole, strict=True):
        assert np.array_equal(got.better, expected.better) and np.array_equal(got.tied, expected.tied)
    assert metrics.summarise(forward, backward) == metrics.evaluate(scores, video)


def test_streaming_refuses_a_video_split_between_tiles():
    scores = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]]
    with pytest.raises(DataError, match="end between videos"):
        metrics.streamed(
            lambda: ((slice(i, i + 1), slice(0, 4), scores[i : i + 1]) for i in range(4)), np.array([0, 0, 1, 2]), 4
        )


def test_bounds_bracket_the_expectation():
    scores = np.round(np.random.default_rng(2).random((40, 40)), 1)
    result = metrics.evaluate(scores, np.arange(40))
    for side in ("t2v", "v2t"):
        for name, (low, high) in result["bounds"][side].items():
            assert low <= result[side][name] <= high
    assert result["bounds"]["t2v"]["R@1"][0] < result["bounds"]["t2v"]["R@1"][1]


def test_half_precision_is_ranked_in_single():
    scores = np.array([[0.5, 0.25], [0.1, 0.7]], dtype=np.float16)
    assert metrics.evaluate(scores, np.arange(2))["t2v"]["R@1"] == 100.0


def test_an_independent_library_agrees_where_the_definitions_meet():
    import torch
    from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalNormalizedDCG

    rng = np.random.default_rng(3)
    scores, video = rng.random((40, 15)), rng.integers(0, 15, 40)  # no ties: torchmetrics decides them by position
    query, positive = np.repeat(np.arange(40), 15), np.arange(15)[None] == video[:, None]
    given = (torch.tensor(scores.ravel()), torch.tensor(positive.ravel()), torch.tensor(query))
    ours = metrics.summary(metrics.text_to_video(scores, video))
    for k in (1, 5, 10):
        assert ours[f"R@{k}"] == pytest.approx(100 * float(RetrievalHitRate(top_k=k)(*given)), abs=1e-4)
    assert ours["MRR"] == pytest.approx(float(RetrievalMRR()(*given)), abs=1e-6)
    assert ours["nDCG@10"] == pytest.approx(100 * float(RetrievalNormalizedDCG(top_k=10)(*given)), abs=1e-4)

    videos = np.unique(video)  # video to text, several positives a query
    column, found = np.repeat(videos, 40), (video[None] == videos[:, None])
    given = (torch.tensor(scores.T[videos].ravel()), torch.tensor(found.ravel()), torch.tensor(column))
    ours = metrics.summary(metrics.video_to_text(scores, video, "best-caption"))
    for k in (1, 5, 10):
        assert ours[f"R@{k}"] == pytest.approx(100 * float(RetrievalHitRate(top_k=k)(*given)), abs=1e-4)
    assert ours["nDCG@10"] == pytest.approx(100 * float(RetrievalNormalizedDCG(top_k=10)(*given)), abs=1e-4)
