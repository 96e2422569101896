"""Several moments of one file: which are shown, which are counted, which are the same one again."""

from indexes import captions, make, method

from tvr_cli.engine.searching.hits import Answering, Moment, SearchOptions
from tvr_cli.engine.searching.search import search


def answered(options, moments):
    found = Answering(options)
    for score, (file, start, end) in zip(range(len(moments), 0, -1), moments, strict=True):
        found.take(float(score), file, f"/{file}", Moment(start, end, start))
    return [(hit.rank, hit.video_id, hit.start, hit.more) for hit in found.hits()]


def test_a_file_has_several_moments_and_none_twice():
    moments = [("a", 0, 2), ("a", 1, 3), ("b", 0, 2), ("a", 2, 4)]  # the second overlaps the first
    assert answered(SearchOptions(per_file=3), moments) == [(1, "a", 0, 0), (2, "b", 0, 0), (3, "a", 2, 0)]


def test_what_a_file_has_beyond_its_places_is_counted():
    moments = [("a", 0, 1), ("a", 2, 3), ("a", 2.5, 4), ("b", 0, 1), ("a", 5, 6)]
    assert answered(SearchOptions(per_file=1), moments) == [(1, "a", 0, 2), (2, "b", 0, 0)]


def test_moments_that_score_worse_than_the_last_one_shown_are_not_counted():
    moments = [("a", 0, 1), ("a", 2, 3), ("b", 0, 1), ("a", 5, 6)]
    assert answered(SearchOptions(k=2, per_file=1), moments) == [(1, "a", 0, 1), (2, "b", 0, 0)]


def test_zero_a_file_shows_all():
    moments = [("a", i, i + 1) for i in range(5)]
    assert [rank for rank, *_ in answered(SearchOptions(per_file=0), moments)] == [1, 2, 3, 4, 5]


def test_windows_of_a_file_are_moments_of_their_own(tmp_path):
    index, mean = make(tmp_path / "index"), method()
    text = mean.encode_text(captions([20]))
    one, all_ = (search(mean, index, text, SearchOptions(k=100, per_file=n))[0] for n in (1, 0))
    assert one[0].video_id == all_[0].video_id and one[0].score == all_[0].score and one[0].start == all_[0].start
    assert len(all_) > len(one) == len({hit.video_id for hit in all_})
    for a in all_:
        assert a.start <= a.peak <= a.end
        assert not any(a is not b and a.video_id == b.video_id and a.start < b.end and b.start < a.end for b in all_)
