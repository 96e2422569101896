"""Which clips go on to the next stage: the best ones, of many files, whatever one film does."""

import numpy as np
import pytest

from tvr_cli.stores.index.shortlist import best_of_files, chosen, in_order


def test_the_best_clips_are_chosen_best_first():
    assert chosen(np.array([0.1, 0.9, 0.5, 0.7]), np.arange(4), 2, 1).tolist() == [1, 3]


def test_a_film_leaves_room_for_the_other_files():
    scores = np.array([9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 0.5])
    files = np.array([0, 0, 0, 0, 1, 2, 1])
    assert chosen(scores, files, 4, 3).tolist() == [0, 1, 5, 4]  # each file's best clip, then what is best
    assert chosen(scores, files, 4, 2).tolist() == [0, 1, 2, 5]
    assert chosen(scores, files, 4, 9).tolist() == [0, 1, 5, 4]  # there are only three


def test_where_the_best_are_of_many_files_anyway_nothing_is_moved():
    scores, files = np.array([4.0, 3.0, 2.0, 1.0]), np.array([0, 1, 1, 2])
    assert chosen(scores, files, 3, 2).tolist() == [0, 1, 2]


def test_more_than_there_are_is_all_of_them():
    assert chosen(np.array([1.0, 3.0]), np.array([0, 0]), 5, 3).tolist() == [1, 0]
    assert chosen(np.empty(0), np.empty(0, np.int32), 5, 3).tolist() == []


def test_a_score_that_is_no_number_comes_last():
    scores = np.array([np.nan, 1.0, 2.0])
    assert chosen(scores, np.arange(3), 2, 1).tolist() == [2, 1]
    assert list(in_order(scores)) == [2, 1, 0]


@pytest.mark.parametrize("clips", [1, 3, 100, 9_000])
def test_the_order_is_that_of_sorting_everything(clips):
    scores = np.random.default_rng(clips).integers(0, clips, clips).astype(np.float32)  # with equal ones
    assert list(in_order(scores)) == np.argsort(-scores, kind="stable").tolist()


def test_the_best_clip_of_a_file_is_the_first_of_equal_ones():
    scores, files = np.array([1.0, 3.0, 3.0, 2.0]), np.array([7, 2, 2, 7])
    assert best_of_files(scores, files).tolist() == [1, 3]
