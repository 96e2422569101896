"""Score files, post-processing rows, protocol cards."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from tvr_cli import metrics
from tvr_cli.engine.evaluation import compare, post, score_file
from tvr_cli.engine.evaluation import judge as referee
from tvr_cli.engine.evaluation.card import card_of
from tvr_cli.engine.evaluation.evaluate_result import Completeness
from tvr_cli.engine.evaluation.judge import JudgeOptions
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.results.base import plain
from tvr_cli.workspace import Workspace


def example(seed=0, n=30):
    rng = np.random.default_rng(seed)
    return (rng.random((n, n)) + np.eye(n)).astype(np.float32), np.arange(n)


def write(path, **arrays):
    save_file(arrays, path) if path.suffix == ".safetensors" else np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz"])
def test_both_formats_give_the_same_result(tmp_path, name):
    scores, video = example()
    result, ranks = referee.judge_file(write(tmp_path / name, scores=scores, video_of_caption=video), JudgeOptions())
    assert result.judged.t2v == metrics.evaluate(scores, video)["t2v"]
    assert result.gallery == Completeness(expected=30, scored=30, zero_filled=0)
    assert ranks is not None and len(ranks[0]) == 30
    low, high = result.judged.intervals.t2v["R@1"]
    assert low <= result.judged.t2v["R@1"] <= high


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"scores": np.eye(3, dtype=np.float32)}, "no array 'video_of_caption'"),
        ({"scores": np.eye(3, dtype=np.float32), "video_of_caption": np.arange(4)}, "found shape"),
        ({"scores": np.eye(3, dtype=np.float32), "video_of_caption": np.arange(3) + 1}, "columns 0..2"),
        ({"scores": np.eye(3, dtype=np.float32), "video_of_caption": np.arange(3.0)}, "whole numbers"),
        ({"scores": np.eye(3, dtype=np.int64), "video_of_caption": np.arange(3)}, "floating-point"),
        ({"scores": np.full((3, 3), np.nan, np.float32), "video_of_caption": np.arange(3)}, "hold NaN"),
    ],
)
def test_a_wrong_score_file_is_a_sentence(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        score_file.read_scores(write(tmp_path / "a.npz", **arrays))


def test_a_file_that_is_no_score_file_is_a_sentence(tmp_path):
    (tmp_path / "a.safetensors").write_text("hello")
    with pytest.raises(DataError, match="not a readable safetensors"):
        score_file.read_scores(tmp_path / "a.safetensors")
    with pytest.raises(DataError, match="found none"):
        score_file.read_scores(tmp_path / "b.npz")


def test_a_pickle_in_an_npz_is_not_executed(tmp_path):
    np.savez(tmp_path / "a.npz", scores=np.array([print], dtype=object), video_of_caption=np.arange(1))
    with pytest.raises(DataError, match="not a readable"):
        score_file.read_scores(tmp_path / "a.npz")


def test_zero_filled_videos_are_refused_or_counted(tmp_path):
    scores, video = example()
    scores[:, 3] = 0.0
    file = write(tmp_path / "a.npz", scores=scores, video_of_caption=video)
    with pytest.raises(DataError, match=r"1 of 30 videos have one score .* --allow-missing"):
        referee.judge_file(file, JudgeOptions())
    result, _ = referee.judge_file(file, JudgeOptions(), allow_missing=True)
    assert result.gallery == Completeness(expected=30, scored=30, zero_filled=1)
    report = compare.compare([compare.read_entry(file, "test", Workspace(tmp_path))] * 2)
    assert report.rows[0].gallery.zero_filled == 1
    assert "| 30/30 videos, 1 zero-filled |" in "\n".join(compare.markdown(report))


def test_a_constant_matrix_is_refused_as_one_constant_column_is_and_is_chance_where_allowed(tmp_path):
    _, video = example()
    file = write(tmp_path / "a.npz", scores=np.ones((30, 30)), video_of_caption=video)
    with pytest.raises(DataError, match=r"30 of 30 videos have one score for every caption \(first: column 0\)"):
        referee.judge_file(file, JudgeOptions())
    result, _ = referee.judge_file(file, JudgeOptions(), allow_missing=True)
    assert result.judged.t2v["R@1"] == pytest.approx(100 / 30)
    assert result.judged.hubness.share == pytest.approx(100 / 30)  # every first place is shared by all


def test_infinity_is_refused_and_its_place_named(tmp_path):
    scores, video = example()
    scores[4, 7] = scores[9, 2] = np.inf  # as fp16 overflows
    file = write(tmp_path / "a.npz", scores=scores, video_of_caption=video)
    with pytest.raises(DataError, match=r"\+infinity 2 times \(first: row 4, column 7\)"):
        referee.judge_file(file, JudgeOptions())


@pytest.mark.parametrize("wrong", ["rows out of step", "distances"])
def test_chance_level_is_called_that(wrong):
    rng = np.random.default_rng(4)
    scores = rng.random((500, 500)) + 0.4 * np.eye(500)
    right, _ = referee.judge(scores, np.arange(500), JudgeOptions())
    broken = -scores if wrong == "distances" else np.roll(scores, 3, axis=0)
    result, _ = referee.judge(broken, np.arange(500), JudgeOptions())
    assert right.doubts is None
    assert "text to video: this is chance level (expected R@1 0.2, MdR 250)" in result.doubts[0]
    assert "video to text" in result.doubts[1]


def test_so_few_queries_that_nothing_could_be_above_chance_raise_no_doubt():
    result, _ = referee.judge(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), JudgeOptions())
    assert result.doubts is None


def test_videos_with_identical_scores_are_counted_and_named():
    scores, video = example()
    scores[:, 17] = scores[:, 3]
    result, _ = referee.judge(scores, video, JudgeOptions())
    assert "1 videos have the very scores of another one (first: columns 3 and 17)" in result.doubts[0]


def test_hubness_is_the_share_of_first_places_that_the_top_hundredth_takes():
    scores = np.eye(200)
    scores[:50, 7] = 2.0  # video 7 answers its own caption and 49 others
    scores[50:60, 8] = 2.0
    result, _ = referee.judge(scores, np.arange(200), JudgeOptions())
    assert result.hubness.videos == 2 and result.hubness.share == pytest.approx(100 * (50 + 10) / 200)


def cosines(seed=0, n=30):
    scores, video = example(seed, n)
    return scores / 2, video


@pytest.mark.parametrize("name", ["dsl", "qbnorm"])
def test_post_processing_of_logits_is_that_of_cosines_when_their_scale_is_said(name):
    scores, video = cosines()
    bank = np.random.default_rng(3).random((40, 30)).astype(np.float32)
    plain, _ = referee.judge(scores, video, JudgeOptions(post=(name,)), bank=bank)
    logits, _ = referee.judge(100 * scores, video, JudgeOptions(post=(name,), scale=100.0), bank=100 * bank)
    assert logits.post[0].t2v == plain.post[0].t2v
    assert (plain.post[0].scale, logits.post[0].scale) == (1.0, 100.0)
    assert plain.post[0].temperature == 100 * logits.post[0].temperature and plain.post[0].transductive
    with pytest.raises(DataError, match=r"reaches 9.* Say --scale logit .* or --scale NUMBER, or put an array `scale`"):
        referee.judge(100 * scores, video, JudgeOptions(post=(name,)), bank=100 * bank)


def test_a_score_file_may_say_its_scale(tmp_path):
    scores, video = cosines()
    file = write(tmp_path / "a.npz", scores=50 * scores, video_of_caption=video, scale=np.float32(50))
    result, _ = referee.judge_file(file, JudgeOptions(post=("dsl",)))
    assert (result.judged.post[0].scale, result.judged.post[0].temperature) == (50.0, 2.0)
    over, _ = referee.judge_file(file, JudgeOptions(post=("dsl",), scale=100.0))
    assert over.judged.post[0].scale == 100.0
    wrong = write(tmp_path / "b.npz", scores=scores, video_of_caption=video, scale=np.float32(-1))
    with pytest.raises(DataError, match="scale must be one positive number"):
        score_file.read_scores(wrong)


@pytest.mark.parametrize(("name", "scale"), [("glccl", 50.0), ("tcmgc", 50.0), ("mean", 1.0), ("gare", 1.0)])
def test_methods_say_what_a_cosine_of_one_is_in_their_scores(name, scale):
    import math

    from tvr_cli.testing import method as contract

    method = contract.make(name)
    if hasattr(method, "logit_scale"):
        method.logit_scale.data.fill_(math.log(50.0))
    assert method.score_scale() == pytest.approx(scale)


def test_a_scale_is_a_word_or_a_number():
    assert [post.parse_scale(text) for text in ("cosine", "logit", "14.3")] == [1.0, 100.0, 14.3]
    for text in ("logits", "0", "-1", "nan", "inf"):
        with pytest.raises(ConfigError, match="expected cosine, logit or a positive number"):
            post.parse_scale(text)


def test_dual_softmax_is_a_row_of_its_own_and_never_the_headline():
    scores, video = cosines()
    headline, _ = referee.judge(scores, video, JudgeOptions())
    posted, _ = referee.judge(scores, video, JudgeOptions(post=("dsl",)))
    assert posted.t2v == headline.t2v
    assert posted.post[0].name == "dsl" and "all test queries" in posted.post[0].note


def test_dual_softmax_written_as_a_loop():
    scores, _ = example(n=5)
    t2v, v2t = post.dual_softmax(scores)
    e = np.exp(post.DSL_SCALE * scores.astype(np.float64))
    for i in range(5):
        for j in range(5):
            assert t2v[i, j] == pytest.approx(scores[i, j] * e[i, j] / e[:, j].sum())
            assert v2t[i, j] == pytest.approx(scores[i, j] * e[i, j] / e[i, :].sum())


def test_qbnorm_takes_a_hub_away_from_queries_that_it_attracts():
    # Video 0 is a hub: it is the best of every bank query and a little better than the right one for query 1.
    scores = np.array([[0.9, 0.1, 0.1], [0.55, 0.5, 0.1], [0.2, 0.1, 0.6]])
    bank = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1]])
    assert scores.argmax(1).tolist() == [0, 0, 2]
    normed = post.qbnorm(scores, bank)
    assert normed.argmax(1).tolist() == [0, 1, 2]
    beta = post.QBNORM_BETA
    expected = beta * scores[1] - np.log(np.exp(beta * bank).sum(0))
    assert normed[1] == pytest.approx(expected)
    assert np.argsort(normed[2]).tolist() == np.argsort(scores[2]).tolist()  # not attracted by the hub: its order stays


def test_qbnorm_without_a_bank_says_what_it_needs():
    scores, video = example()
    with pytest.raises(DataError, match="training captions"):
        referee.judge(scores, video, JudgeOptions(post=("qbnorm",)))


def test_the_old_counting_is_labelled():
    scores, video = example()
    result, ranks = referee.judge(scores, video, JudgeOptions(counting="clip4clip"))
    assert result.metrics == "clip4clip" and ranks is None and result.v2t_protocol == "max"
    assert {"t2v", "v2t", "rsum", "ties"} <= plain(result).keys()


def test_the_old_counting_shows_how_many_queries_tie():
    scores = np.zeros((4, 4), dtype=np.float32)
    result, _ = referee.judge(scores, np.arange(4), JudgeOptions(counting="clip4clip"))
    assert result.t2v["R@1"] == 25.0 and result.rank_entries == {"t2v": 16, "v2t": 16}
    assert result.ties == {"t2v": 4, "v2t": 4}


@pytest.mark.parametrize("options", [{"v2t": "best-caption"}, {"post": ("dsl",)}])
def test_the_old_counting_takes_no_other_protocol_and_no_post(options):
    scores, video = example()
    with pytest.raises(ConfigError, match="clip4clip knows the v2t protocol max alone"):
        referee.judge(scores, video, JudgeOptions(counting="clip4clip", **options))


def test_the_old_counting_refuses_nan_too():
    scores, video = example()
    scores[3, 4] = np.nan
    with pytest.raises(DataError, match="hold NaN"):
        referee.judge(scores, video, JudgeOptions(counting="clip4clip"))


def test_posts_are_parsed():
    assert post.parse_posts(["none"]) == () and post.parse_posts(["dsl,qbnorm"]) == ("dsl", "qbnorm")
    with pytest.raises(ConfigError, match="did you mean dsl"):
        post.parse_posts(["dls"])


def test_ranks_survive_a_file(tmp_path):
    scores, _ = example()
    video = np.repeat(np.arange(15), 2)
    for protocol in metrics.V2T_PROTOCOLS:
        ranks = metrics.text_to_video(scores, video), metrics.video_to_text(scores, video, protocol)
        save_file(referee.rank_tensors(ranks), tmp_path / "r.safetensors")
        again = referee.read_ranks(tmp_path / "r.safetensors")
        assert metrics.summarise(*again) == metrics.summarise(*ranks)


def test_a_protocol_card_names_what_a_reader_must_know(tmp_path):
    scores, video = example()
    result, _ = referee.judge_file(write(tmp_path / "a.npz", scores=scores, video_of_caption=video), JudgeOptions())
    card = "\n".join(card_of(result).lines())
    for word in ("30 captions, 30 videos", "30/30 videos, 0 zero-filled", "v2t protocol", "tie rule", "bootstrap over"):
        assert word in card
