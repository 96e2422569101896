"""Moments, judged: each protocol on a miniature worked by hand, the statistics, the query-blind answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvr_cli import metrics, significance
from tvr_cli.data.truth import formats
from tvr_cli.data.truth.question import Moment
from tvr_cli.engine.evaluation.moments import judge, segments
from tvr_cli.engine.evaluation.moments.result import Measure, MomentsReport
from tvr_cli.engine.evaluation.moments.spans import average_precisions, matched, overlaps
from tvr_cli.engine.evaluation.moments.statistics import Auroc, Mean, Median, RejectionF1
from tvr_cli.errors import DataError
from tvr_cli.results.base import plain


def lines(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def judged(truth: Path, predictions: Path, **options: Any) -> MomentsReport:
    return judge.judge_file(formats.read(truth), predictions, **options)


def values(report: MomentsReport) -> dict[str, float | None]:
    return {measure.name: measure.value for measure in report.measures}


def measure(report: MomentsReport, name: str) -> Measure:
    return next(one for one in report.measures if one.name == name)


# --------------------------------------------------------------------------------------------------- overlap, matching


def test_spans_overlap_by_their_intersection_over_their_union_within_a_video() -> None:
    found = [Moment("a", 0, 10), Moment("b", 0, 10), Moment("a", 5, 5), Moment("a", 9, 1)]
    table = overlaps(found, [Moment("a", 5, 15), Moment("a", 0, 10)])
    assert table.tolist() == [[5 / 15, 1.0], [0, 0], [0, 0], [0, 0]]
    assert overlaps([], found).shape == (0, 4) and overlaps(found, []).shape == (4, 0)


def test_matching_is_greedy_in_the_order_of_what_was_found() -> None:
    # The first takes the better of both, which the second would have fitted exactly: it gets what is left.
    iou = np.array([[0.6, 0.7], [0.0, 1.0], [1.0, 1.0]])
    assert matched(iou, 0.5) == [0.7, 1.0]  # the second finds only an overlap of 0, the third the first true span
    assert matched(iou, 0.0) == [0.7, 0.0]


def test_average_precision_is_that_of_rising_precision_over_recall() -> None:
    # Places 2 and 3 of 3 are right, of two true spans: precision 1/2 and 2/3; the former counts as 2/3 too.
    iou = np.array([[0.0, 0.0], [0.8, 0.0], [0.0, 0.6]])
    assert average_precisions(iou, (0.5, 0.7, 0.9)) == pytest.approx([2 / 3, 1 / 4, 0.0])
    # A second span on a true one that is taken is wrong.
    assert average_precisions(np.array([[0.9], [1.0]]), (0.5, 0.95)) == [1.0, 0.5]


# --------------------------------------------------------------------------------------------------------- statistics


def ones(n: int) -> np.ndarray:
    return np.ones((1, n))


def test_a_mean_leaves_out_the_queries_that_do_not_count() -> None:
    mean = Mean(np.array([1.0, np.nan, 0.0, 1.0]))
    assert mean.queries == 3 and mean(ones(4)) == pytest.approx(200 / 3)
    assert mean(np.array([[2.0, 5.0, 2.0, 0.0]])) == pytest.approx(50)
    assert math.isnan(mean(np.array([[0.0, 1.0, 0.0, 0.0]]))[0])


def test_a_median_is_the_lower_one_and_follows_the_draw() -> None:
    median = Median(np.array([3.0, np.nan, 1.0, 2.0]))
    assert median(ones(4)).tolist() == [2.0] and median.queries == 3
    assert median(np.array([[5.0, 9.0, 1.0, 1.0]])).tolist() == [3.0]
    assert math.isnan(Median(np.array([np.nan]))(ones(1))[0])


def test_rejection_and_auroc_are_what_counting_pairs_gives() -> None:
    rng = np.random.default_rng(0)
    absent, score = rng.random(40) < 0.4, np.round(rng.random(40), 1)  # with ties
    weights = rng.integers(0, 3, (5, 40)).astype(float)
    found = Auroc(absent, score)(weights)
    for row, value in zip(weights, found, strict=True):
        there, gone = np.flatnonzero(~absent), np.flatnonzero(absent)
        pairs = [(row[a] * row[b], (score[a] > score[b]) + (score[a] == score[b]) / 2) for a in there for b in gone]
        assert value == pytest.approx(100 * sum(w * v for w, v in pairs) / sum(w for w, _ in pairs))
    refused = score <= 0.5
    tn, fp, fn = (absent & refused).sum(), (absent & ~refused).sum(), (~absent & refused).sum()
    precision, recall = tn / (tn + fn), tn / (tn + fp)
    assert RejectionF1(absent, refused)(ones(40)) == pytest.approx(200 * precision * recall / (precision + recall))
    assert RejectionF1(absent, np.zeros(40, bool))(ones(40)).tolist() == [0.0]


def test_an_interval_is_that_of_the_same_draws_as_for_recalls() -> None:
    scores, video = np.random.default_rng(0).random((30, 10)), np.arange(30) // 3
    ranks = metrics.text_to_video(scores, video)
    (found,) = significance.resampled([Mean(ranks.hit(1))], video, seed=4)
    assert list(found) == pytest.approx(significance.intervals(ranks, seed=4)["R@1"])


def test_an_interval_of_what_no_draw_has_is_none(tmp_path: Path) -> None:
    truth = lines(tmp_path / "t.jsonl", [QVHIGHLIGHTS[0]])
    report = judged(truth, lines(tmp_path / "p.jsonl", [SUBMITTED[0]]))
    assert measure(report, "mAP long").value is None and measure(report, "mAP long").interval is None
    assert measure(report, "mAP long").queries == 0


# ------------------------------------------------------------------------------------------------------- QVHighlights

QVHIGHLIGHTS = [
    {"qid": 1, "query": "a dog", "vid": "v_0_150", "duration": 150, "relevant_windows": [[10, 20]]},
    {"qid": 2, "query": "a cat", "vid": "w_0_150", "duration": 150, "relevant_windows": [[0, 10], [20, 40]]},
]
SUBMITTED = [
    {"qid": 1, "vid": "v_0_150", "pred_relevant_windows": [[0, 5, 0.9], [12, 20, 0.8]]},
    {"qid": 2, "vid": "w_0_150", "pred_relevant_windows": [[20, 40, 0.5], [0, 10, 0.9]]},
]


def test_qvhighlights_by_hand(tmp_path: Path) -> None:
    """R1 takes the first listed, AP the order of the scores. The dog's second window overlaps by 0.8: at seven of ten
    levels its precision is 1/2. By length, 10 s is short: the dog's and one of the cat's; the cat's long one comes
    second by score."""
    report = judged(lines(tmp_path / "t.jsonl", QVHIGHLIGHTS), lines(tmp_path / "p.jsonl", SUBMITTED))
    found = values(report)
    assert report.truth.format == "qvhighlights" and list(found) == [
        *("R1@0.5", "R1@0.7", "mAP@0.5", "mAP@0.75", "mAP", "mAP short", "mAP middle", "mAP long")
    ]
    assert found["R1@0.5"] == found["R1@0.7"] == 50
    assert found["mAP@0.5"] == found["mAP@0.75"] == 75
    assert found["mAP"] == found["mAP short"] == pytest.approx(67.5)
    assert found["mAP middle"] == 50 and measure(report, "mAP middle").queries == 1


def test_only_ten_windows_count_for_qvhighlights(tmp_path: Path) -> None:
    wrong = [[100 + i, 101 + i, 0.1] for i in range(10)]
    late = [{"qid": 1, "pred_relevant_windows": [*wrong, [10, 20, 0.9]]}]
    report = judged(lines(tmp_path / "t.jsonl", QVHIGHLIGHTS[:1]), lines(tmp_path / "p.jsonl", late))
    assert values(report)["mAP"] == 0
    in_time = [{"qid": 1, "pred_relevant_windows": [*wrong[:9], [10, 20, 0.9]]}]
    report = judged(tmp_path / "t.jsonl", lines(tmp_path / "p.jsonl", in_time))
    assert values(report)["mAP"] == 100 and values(report)["R1@0.5"] == 0


# ------------------------------------------------------------------------------------------ no, one or many moments

GENERALIZED = [
    {"qid": 1, "query": "one", "vid": "a", "duration": 100, "relevant_windows": [[0, 10]]},
    {"qid": 2, "query": "none", "vid": "b", "duration": 100, "relevant_windows": []},
    {"qid": 3, "query": "none either", "vid": "c", "duration": 100, "relevant_windows": []},
    {"qid": 4, "query": "two", "vid": "d", "duration": 100, "relevant_windows": [[0, 10], [20, 30]]},
]
EXIST = [
    {"qid": 1, "pred_relevant_windows": [[0, 10, 0.9]], "pred_exist_score": 0.9},
    {"qid": 2, "pred_relevant_windows": [[0, 5, 0.3]]},
    {"qid": 3, "pred_relevant_windows": [[0, 5, 0.1]], "pred_exist_score": 0.5},
    {"qid": 4, "pred_relevant_windows": [[20, 30, 0.9], [5, 15, 0.8]], "pred_exist_score": 0.35},
]


def test_generalized_moment_retrieval_by_hand(tmp_path: Path) -> None:
    """Of four pairs of a query that is there and one that is not, three are in order. At 0.4 one is rejected rightly,
    one wrongly, one wrongly not; at 0.6 two rightly, one wrongly."""
    report = judged(lines(tmp_path / "t.jsonl", GENERALIZED), lines(tmp_path / "p.jsonl", EXIST))
    found = values(report)
    assert report.truth.absent == 2
    assert found["AUROC"] == 75
    assert found["Rej-F1@0.4"] == 50 and found["Rej-F1@0.6"] == pytest.approx(80)
    assert found["G-mIoU@1"] == found["G-mIoU@3"] == 50  # the one, and the no that was said: 1 and 1 of four
    assert found["mR@1"] == found["mR@3"] == found["mR@5"] == 75
    assert found["mR+@3"] == 0 and measure(report, "mR+@3").queries == 1
    assert found["mIoU@1"] == 100 and found["mIoU@3"] == pytest.approx(100 * (1 + (1 + 1 / 3) / 2) / 2)
    assert measure(report, "mR@1").queries == 2 and measure(report, "G-mIoU@1").queries == 4


def test_saying_no_to_everything_is_a_prior_of_its_own(tmp_path: Path) -> None:
    report = judged(lines(tmp_path / "t.jsonl", GENERALIZED), lines(tmp_path / "p.jsonl", EXIST))
    assert set(measure(report, "AUROC").priors) == {"centred", "fixed", "grid", "nothing"}
    assert set(measure(report, "AUROC").priors.values()) == {50.0}
    assert measure(report, "Rej-F1@0.4").priors["nothing"] == pytest.approx(100 * 2 * 0.5 / 1.5)
    assert measure(report, "Rej-F1@0.4").priors["fixed"] == 0
    assert measure(report, "G-mIoU@1").priors["nothing"] == 50


# ------------------------------------------------------------------------------- one's own truth, of a whole library

OWN = [
    {"query": "a red car", "video": "a.mp4", "start": 10, "end": 20, "duration": 100},
    {"query": "a red car", "video": "b.mp4", "start": 0, "end": 10, "duration": 50},
    {"query": "a dog", "video": "b.mp4", "start": 30, "end": 40},
    {"query": "a submarine"},
    {"query": "a camel"},
]
ANSWERED = [
    {"query": "a red car", "moments": [
        {"video": "a.mp4", "start": 11, "end": 20, "score": 0.9},
        {"video": "b.mp4", "start": 0, "end": 10, "score": 0.8},
    ]},
    {"query": "a dog", "moments": [{"video": "a.mp4", "start": 30, "end": 40, "score": 0.7}]},
    {"query": "a submarine", "moments": []},
    {"query": "a camel", "moments": [{"video": "a.mp4", "start": 0, "end": 1, "score": 0.8}]},
]  # fmt: skip


def test_truth_of_ones_own_by_hand(tmp_path: Path) -> None:
    """The dog was found in another video at the same seconds, which is wrong; the camel should have been refused."""
    report = judged(lines(tmp_path / "t.jsonl", OWN), lines(tmp_path / "p.jsonl", ANSWERED))
    found = values(report)
    assert found["R1@0.5"] == 50 and found["edge"] == 0.5 and measure(report, "edge").unit == "seconds"
    assert found["refused"] == 50 and found["answered"] == 100
    assert found["Rej-F1"] == pytest.approx(100 * 2 / 3)  # one of two, and nothing else
    assert found["AUROC"] == 75  # scores .9 and .7 against none and .8: three of four pairs are in order
    assert found["mR@1"] == 22.5 and found["mR@3"] == pytest.approx(50 * (1 + 9 / 10) / 2)
    assert found["G-mIoU@3"] == pytest.approx(100 * (1.9 / 2 + 0 + 1 + 0) / 4)
    assert {one.of for one in report.measures if one.name in ("R1@0.5", "edge", "refused", "answered")} == {"tvr"}


def test_auroc_of_ones_own_counts_an_empty_answer_as_the_least_sure(tmp_path: Path) -> None:
    sure = [{**record, "confidence": c} for record, c in zip(ANSWERED, (0.9, 0.8, 0.1, 0.2), strict=True)]
    report = judged(lines(tmp_path / "t.jsonl", OWN), lines(tmp_path / "p.jsonl", sure))
    assert values(report)["AUROC"] == 100


def test_in_a_library_a_blind_answer_begins_with_the_video_that_has_most(tmp_path: Path) -> None:
    truth = [
        {"query": str(i), "video": video, "start": 40, "end": 60, "duration": 100}
        for i, video in enumerate(("few", "many", "many"))
    ]
    right = [{"query": str(i), "moments": [{"video": "x", "start": 0, "end": 1}]} for i in range(3)]
    report = judged(lines(tmp_path / "t.jsonl", truth), lines(tmp_path / "p.jsonl", right))
    first = measure(report, "R1@0.5")
    assert first.value == 0 and first.priors["centred"] == pytest.approx(200 / 3)
    assert first.priors["fixed"] == pytest.approx(200 / 3)
    assert measure(report, "mR@3").priors["centred"] == pytest.approx(100)  # both videos are listed


# ----------------------------------------------------------------------------- Charades-STA and ActivityNet Captions


def test_charades_counts_an_overlap_of_exactly_the_level_and_activitynet_does_not(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("V1 0.0 10.0##a person sits\nV1 5.0 2.0##backwards\nV2 0 4##a person runs\n")
    half = [
        {"query": "a person sits", "video": "V1", "moments": [[0, 5, 1], [0, 10, 0.5]]},
        {"query": "a person runs", "video": "V2", "moments": [[2, 4], [0, 8]]},
    ]
    predictions = lines(tmp_path / "p.jsonl", half)
    report = judged(tmp_path / "c.txt", predictions)
    found = values(report)
    assert found["R@1, IoU=0.5"] == 100 and found["R@1, IoU=0.7"] == 0
    assert found["R@5, IoU=0.7"] == 50 and found["mIoU"] == 50
    assert report.notes[0] == "1 line ends before it starts and is left out, as code for this data set does (first: 2)"

    annotated = {
        "V1": {"duration": 20, "timestamps": [[0, 10]], "sentences": ["a person sits"]},
        "V2": {"duration": 8, "timestamps": [[0, 4], [6, 5]], "sentences": ["a person runs", "never"]},
    }
    (tmp_path / "a.json").write_text(json.dumps(annotated))
    report = judged(tmp_path / "a.json", predictions)
    found = values(report)
    assert report.truth.format == "activitynet-captions" and report.truth.queries == 2
    assert found["R@1, IoU=0.5"] == 0 and found["R@1, IoU=0.3"] == 100
    assert found["R@5, IoU=0.7"] == 50 and found["mIoU"] == 50


def test_the_blind_windows_of_videos_are_what_a_person_would_draw(tmp_path: Path) -> None:
    """Four of five moments are the second quarter of their video."""
    quarter = {"duration": 100, "timestamps": [[25, 50]] * 4 + [[90, 100]], "sentences": [f"s{i}" for i in range(5)]}
    (tmp_path / "a.json").write_text(json.dumps({"v": quarter}))
    asked = [{"query": f"s{i}", "video": "v", "moments": []} for i in range(5)]
    report = judged(tmp_path / "a.json", lines(tmp_path / "p.jsonl", asked))
    priors = measure(report, "R@1, IoU=0.7").priors
    assert priors == {"centred": 0, "fixed": 80, "grid": 80}
    assert measure(report, "R@1, IoU=0.3").priors["centred"] == pytest.approx(80)  # 37.5 to 62.5: a third
    assert measure(report, "R@5, IoU=0.7").priors["grid"] == 80 and measure(report, "mIoU").value == 0
    other = {"v": {**quarter, "timestamps": [[90, 100]] * 5}}
    (tmp_path / "train.json").write_text(json.dumps(other))
    report = judged(tmp_path / "a.json", tmp_path / "p.jsonl", fitted_on=tmp_path / "train.json")
    assert measure(report, "R@1, IoU=0.7").priors["fixed"] == 20
    assert report.fitted_on == str(tmp_path / "train.json")


# ------------------------------------------------------------------------------------------------------------- DiDeMo


def didemo(path: Path, times: Sequence[Sequence[Sequence[int]]]) -> Path:
    records = [
        {"annotation_id": i, "description": f"d{i}", "video": f"v{i}.mp4", "times": time, "num_segments": 6}
        for i, time in enumerate(times)
    ]
    path.write_text(json.dumps(records))
    return path


def test_didemo_and_its_prior_by_hand(tmp_path: Path) -> None:
    """Training marks (0, 0) three times, (1, 1) twice, (0, 1) once. Of the first query the annotators' segments have
    the ranks 2, 2, 2, 1: the three best are 5/3 on average, and overlap by 1, 0, 0. (2, 5) comes 15th: after those
    three, the four that overlap (0, 0), and seven that do not."""
    didemo(tmp_path / "train_data.json", [[[0, 0]] * 3 + [[1, 1]], [[1, 1], [0, 1]]])
    truth = didemo(tmp_path / "val_data.json", [[[1, 1]] * 3 + [[0, 0]], [[0, 0]] * 4, [[2, 5]] * 4])
    ranking = [list(segment) for segment in segments.by_frequency([[(0, 0)] * 3 + [(1, 1)], [(1, 1), (0, 1)]])]
    assert ranking[:3] == [[0, 0], [1, 1], [0, 1]] and ranking.index([2, 5]) == 14 and len(ranking) == 21
    report = judged(truth, lines(tmp_path / "p.jsonl", [{"id": i, "segments": ranking} for i in range(3)]))
    found = values(report)
    assert found["Rank@1"] == pytest.approx(100 / 3) and found["Rank@5"] == pytest.approx(200 / 3)
    assert found["mIoU"] == pytest.approx(100 * (1 / 3 + 1 + 0) / 3)
    for one in report.measures:
        assert one.priors["frequency"] == pytest.approx(one.value)
    assert report.fitted_on == str(tmp_path / "train_data.json")


def test_moments_of_didemo_stand_for_segments_and_that_is_said(tmp_path: Path) -> None:
    truth = didemo(tmp_path / "val_data.json", [[[1, 2]] * 4])
    moments = [{"start": 6, "end": 14, "score": 0.9}, {"start": 5, "end": 15, "score": 0.8}]
    report = judged(truth, lines(tmp_path / "p.jsonl", [{"query": "d0", "video": "v0.mp4", "moments": moments}]))
    assert values(report) == {"Rank@1": 100, "Rank@5": 100, "mIoU": 100}
    assert any("which is tvr's own" in note for note in report.notes)
    nothing = judged(truth, lines(tmp_path / "p.jsonl", [{"query": "d0", "video": "v0.mp4", "moments": []}]))
    assert values(nothing) == {"Rank@1": 0, "Rank@5": 0, "mIoU": 0}


# -------------------------------------------------------------------------------------------------------- TVR-Ranking


def test_tvr_ranking_by_hand(tmp_path: Path) -> None:
    """A moment of grade 0 gains nothing; one that overlaps by exactly a half does not count above a half."""
    truth = [
        {"query_id": 7, "query": "he lies", "video_name": video, "timestamp": span, "duration": 60, "relevance": grade}
        for video, span, grade in (("a", [20, 30], 1), ("a", [0, 10], 4), ("b", [0, 10], 0))
    ]
    (tmp_path / "t.json").write_text(json.dumps(truth))
    found = [("b", 0, 10), ("a", 20, 30), ("a", 0, 5), ("a", 0, 10)]
    moments = [{"video": video, "start": start, "end": end} for video, start, end in found]
    report = judged(tmp_path / "t.json", lines(tmp_path / "p.jsonl", [{"query": "he lies", "moments": moments}]))
    ideal = 15 + 1 / math.log2(3)
    half, third = (1 / math.log2(3) + 15 / math.log2(5)) / ideal, (1 / math.log2(3) + 15 / math.log2(4)) / ideal
    assert report.truth.format == "tvr-ranking" and report.intervals.unit == "queries"
    for k in (10, 20, 40):
        assert values(report)[f"NDCG@{k}, IoU>0.5"] == pytest.approx(100 * half)
        assert values(report)[f"NDCG@{k}, IoU>0.3"] == pytest.approx(100 * third)


# -------------------------------------------------------------------------------------------------------- predictions


def test_what_tvr_query_prints_is_judged(tmp_path: Path) -> None:
    hits = [{"rank": 1, "score": 0.9, "video_id": "a.mp4", "path": "/a.mp4", "start": 10.0, "end": 20.0}]
    report = {"schema": "tvr/query@1", "results": [{"query": "a red car", "hits": hits}]}
    (tmp_path / "q.json").write_text(json.dumps(report))
    found = judged(lines(tmp_path / "t.jsonl", OWN[:2]), tmp_path / "q.json")
    assert values(found)["R1@0.5"] == 100 and values(found)["edge"] == 0


def test_queries_without_a_prediction_count_as_nothing_found_and_are_told(tmp_path: Path) -> None:
    others = [*ANSWERED[:1], {"query": "a hat", "moments": []}]
    report = judged(lines(tmp_path / "t.jsonl", OWN), lines(tmp_path / "p.jsonl", others))
    assert values(report)["answered"] == 50 and values(report)["refused"] == 100
    assert "1 predictions are of queries that the truth has not" in report.notes[0]
    assert report.notes[1].startswith("3 of 4 queries have no prediction")
    assert plain(report)["schema"] == "tvr/moments@1" and MomentsReport.from_json(plain(report), "it") == report


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        ({"query": "a hat", "moments": []}, "none of .*such as .*'a hat'"),
        ({"moments": []}, "expected the query's words or its id"),
        ({"query": "a dog"}, "expected moments as a list"),
        ({"query": "a dog", "moments": [3]}, "expected a moment with start and end"),
        ({"query": "a dog", "moments": [{"video": "a.mp4", "start": "0", "end": 1}]}, "start: expected a number"),
        ({"query": "a dog", "moments": [{"start": 0, "end": 1}]}, "names no video"),
        ({"query": "a dog", "moments": [], "confidence": "high"}, "confidence: expected a number"),
        ({"query": "a dog", "segments": [[0]]}, "segments: expected"),
        ({"schema": "tvr/query@1", "results": {}}, "expected a list of results"),
    ],
)
def test_a_wrong_prediction_is_a_sentence(tmp_path: Path, prediction: Mapping[str, Any], message: str) -> None:
    truth = lines(tmp_path / "t.jsonl", OWN)
    with pytest.raises(DataError, match=message):
        judged(truth, lines(tmp_path / "p.jsonl", [prediction]))


def test_predictions_that_are_not_there_or_stand_twice_are_a_sentence(tmp_path: Path) -> None:
    truth = lines(tmp_path / "t.jsonl", OWN)
    with pytest.raises(DataError, match="found none"):
        judged(truth, tmp_path / "p.jsonl")
    with pytest.raises(DataError, match=r"p.jsonl:2: this question is answered in .*p.jsonl:1 already"):
        judged(truth, lines(tmp_path / "p.jsonl", [ANSWERED[1], ANSWERED[1]]))
